"""swarmnet-manager as a whole: outside of a swarm, or in one, and the ways between."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from swarmnet.api.v1 import local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.backup import unseal
from swarmnet.core.errors import (
    BadUnlockKey,
    FailedPrecondition,
    InvalidArgument,
    NotAManager,
    SwarmLocked,
    SwarmnetError,
    Unauthenticated,
)
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.tokens import parse_token
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.ca.authority import Subject
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.ca.tokens import token_of
from swarmnet.manager.control.cluster import secrets_of
from swarmnet.manager.demotion import demoted, hand_over
from swarmnet.manager.departure import check_may_leave, depart
from swarmnet.manager.entering import FIRST_LEAD_S, found_swarm, join_swarm
from swarmnet.manager.forward import Swarm
from swarmnet.manager.founding import checked
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.limiter import Attempts
from swarmnet.manager.local import LocalService
from swarmnet.manager.metrics import MetricsServer, Reading
from swarmnet.manager.pipeline import Pipelines
from swarmnet.manager.promotion import Offer, become_manager
from swarmnet.manager.raft import storage
from swarmnet.manager.recovery import check_majority_lost, refound, reissue, restore_swarm
from swarmnet.manager.role_change import RoleChange, RoleChangeFile
from swarmnet.manager.server import STOP_GRACE_S, make_socket_server
from swarmnet.manager.settings import Settings

log = structlog.get_logger()


class Daemon:
    """One operation at a time changes what it is; each leaves it either as it was or fully changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = IdentityFiles(settings.state_dir)
        self._change = RoleChangeFile(settings.state_dir)
        self._active: ActiveManager | None = None
        self._credentials: Credentials | None = None
        """While the role changes: of no swarm, and with an identity."""
        self._offer: Offer | None = None
        self._background: asyncio.Task[None] | None = None
        self._state = "inactive"
        self._error = ""
        self._attempts = Attempts()
        self._changing = asyncio.Lock()
        self._pipelines = Pipelines()
        self._socket: grpc.aio.Server | None = None
        self._lock = _lock(settings.state_dir)
        self._metrics = MetricsServer(self._reading)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """In the swarm that the state directory knows, if any; then answer on the unix socket."""
        if self._settings.metrics:
            self._metrics.start(self._settings.metrics)
        if self._files.subject() is not None:
            if self._files.lock.needs_unlock_key:
                self._state = "locked"
            else:
                await self._come_back()
        self._socket = await make_socket_server(self._settings.socket, self._swarm, self._pipelines)
        local_pb2_grpc.add_LocalServicer_to_server(LocalService(self), self._socket)
        await self._socket.start()
        log.info("manager started", state=self._state, socket=str(self._settings.socket))

    async def _come_back(self) -> None:
        """In the swarm that the files, which can be opened now, know."""
        credentials = self._files.load()
        assert credentials is not None, "there is an identity"
        credentials = await self._valid(credentials)
        if (change := self._change.load()) is not None:
            self._go_on(change, credentials)
        else:
            active = ActiveManager(self._settings, self._files, credentials)
            await active.start()
            self._enter(active)

    async def _valid(self, credentials: Credentials) -> Credentials:
        """These, or after too long an absence new ones. FailedPrecondition if that cannot be."""
        if credentials.is_valid(datetime.now(UTC)):
            return credentials
        node_id, ended = credentials.subject.node_id, f"{credentials.expires_at():%Y-%m-%d %H:%M} UTC"
        try:
            fresh = await asyncio.to_thread(self._reissued, node_id)
        except (SwarmnetError, OSError) as error:
            raise FailedPrecondition(
                f"this manager's certificate expired at {ended}, and no state is here to make one: {error}",
                hint="Set the host's clock if it is wrong. Else remove this manager on another one, empty "
                f"{self._settings.state_dir} and join again.",
            ) from error
        await asyncio.to_thread(self._files.save, fresh)
        log.warning("certificate made anew from the state: it had expired", node=node_id, expired=ended)
        return fresh

    def _reissued(self, node_id: str) -> Credentials:
        kek = storage.fitting(self._settings.raft_dir, self._files.lock.keks())
        return reissue(self._settings, node_id, kek)

    async def stop(self) -> None:
        if self._socket is not None:
            await self._pipelines.end(STOP_GRACE_S)
            await self._socket.stop(STOP_GRACE_S)
            self._settings.socket.unlink(missing_ok=True)
        await self._end_background()
        if self._active is not None:
            await self._active.stop()
        await self._metrics.stop()
        os.close(self._lock)
        log.info("manager stopped")

    async def _reading(self) -> Reading:
        if self._active is None:
            return Reading(locked=self._state == "locked")
        return await self._active.reading()

    def _swarm(self) -> Swarm:
        self._check_not_locked()
        if self._active is None:
            raise NotAManager(
                "This node is not a swarm manager.",
                hint="Use `swarmnet swarm init` or `swarmnet swarm join` to connect this node to a swarm "
                "and try again.",
            )
        return self._active

    def _enter(self, active: ActiveManager) -> None:
        active.failed.add_done_callback(self._pass_on)
        self._active, self._state, self._error = active, "active", ""
        self._run(self._step_down(active))
        log.info("in a swarm", node=active.node_id, cluster=active.cluster_id)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._background = asyncio.create_task(work)
        self._background.add_done_callback(self._pass_on)

    async def _end_background(self) -> None:
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
            self._background = None

    def _pass_on(self, failed: asyncio.Future[None]) -> None:
        if not failed.cancelled() and (error := failed.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    # local.Operations

    def info(self) -> local_pb2.LocalInfo:
        info = local_pb2.LocalInfo(state=self._state, error=self._error)
        subject = self._credentials.subject if self._credentials is not None else self._locked_subject()
        if subject is not None:
            info.node_id, info.cluster_id = subject.node_id, subject.cluster_id
        if self._active is not None:
            info.node_id, info.cluster_id = self._active.node_id, self._active.cluster_id
            info.manager_id = self._active.peers.leader_id()
            info.managers.extend(each.address for each in self._active.peers.members().values())
            info.refused.update(self._active.refused)
        return info

    def _locked_subject(self) -> Subject | None:
        return self._files.subject() if self._state == "locked" else None

    async def unlock(self, unlock_key: SecretBytes) -> None:
        async with self._changing:
            if self._state != "locked":
                raise FailedPrecondition(
                    "swarm is not locked", hint="There is nothing to unlock: see `swarmnet info`."
                )
            self._attempts.check()
            try:
                await asyncio.to_thread(self._files.lock.unlock, unlock_key)
            except BadUnlockKey:
                self._attempts.failed()
                raise
            try:
                await self._come_back()
            except BaseException:
                self._files.lock.close()
                raise
            log.info("unlocked")

    def _check_not_locked(self) -> None:
        if self._state == "locked":
            raise SwarmLocked

    async def init(self, request: local_pb2.InitRequest) -> local_pb2.InitResponse:
        async with self._changing:
            self._check_not_locked()
            if request.force_new_cluster:
                return await self._refound(request)
            self._check_inactive()
            wishes = checked(request)
            active = await found_swarm(self._settings, self._files, wishes)
            self._enter(active)
            return self._initialized(active)

    def _initialized(self, active: ActiveManager) -> local_pb2.InitResponse:
        transaction = Transaction(active.store.state)
        token = token_of(types.ROLE_WORKER, transaction.cluster(), secrets_of(transaction))
        return local_pb2.InitResponse(
            node_id=active.node_id,
            cluster_id=active.cluster_id,
            worker_token=token.text(),
            address=self._settings.bootstrap_address,
        )

    async def _refound(self, request: local_pb2.InitRequest) -> local_pb2.InitResponse:
        """Go on as the only manager. If that cannot be, the manager starts again as it was."""
        if (active := self._active) is None:
            raise FailedPrecondition(
                "This node is not part of a swarm, so there is none to recover.",
                hint="Use --force-new-cluster on a manager of the swarm that lost its majority.",
            )
        if request != local_pb2.InitRequest(force_new_cluster=True):
            raise InvalidArgument(
                "--force-new-cluster keeps the swarm's settings",
                hint="Give no other option with it; `swarmnet swarm update` changes settings.",
            )
        standing = await check_majority_lost(active)
        log.warning("going on as the only manager", node=active.node_id, committed=standing.commit_index)
        self._active = None
        await self._end_background()
        await active.stop()
        try:
            kek = storage.fitting(self._settings.raft_dir, self._files.lock.keks())
            done = await asyncio.to_thread(refound, self._settings, active.node_id, kek)
        finally:
            active = await self._started_again()
        await active.wait_until_leading(FIRST_LEAD_S)
        answer = self._initialized(active)
        answer.recovered.MergeFrom(
            local_pb2.Recovered(
                committed_index=standing.commit_index, last_index=done.last_index, removed=done.removed
            )
        )
        return answer

    async def _started_again(self) -> ActiveManager:
        credentials = self._files.load()
        assert credentials is not None, "it was in a swarm"
        active = ActiveManager(self._settings, self._files, credentials)
        try:
            await active.start()
        except Exception as error:  # better no process, which is started again, than one that does nothing
            self.failed.set_exception(error)
            raise
        self._enter(active)
        return active

    async def restore(self, key: SecretBytes, raw: bytes) -> local_pb2.RestoreResponse:
        async with self._changing:
            self._check_inactive()
            backup = await asyncio.to_thread(unseal, raw, key)
            active, removed = await restore_swarm(self._settings, self._files, backup)
            self._enter(active)
            log.warning("restored from a backup", index=backup.header.index)
            return local_pb2.RestoreResponse(
                node_id=active.node_id,
                cluster_id=active.cluster_id,
                index=backup.header.index,
                created_at=backup.header.created_at,
                removed=removed,
                address=self._settings.bootstrap_address,
            )

    async def join(self, request: local_pb2.JoinRequest) -> local_pb2.JoinResponse:
        async with self._changing:
            self._check_inactive()
            token = parse_token(request.token)
            self._state, self._error = "pending", ""
            try:
                active = await join_swarm(self._settings, self._files, token, list(request.addresses))
            except SwarmnetError as error:
                self._error = error.message
                raise
            finally:
                self._state = "inactive"
            self._enter(active)
            return local_pb2.JoinResponse(node_id=active.node_id, cluster_id=active.cluster_id)

    def _check_inactive(self) -> None:
        self._check_not_locked()
        if self._active is not None or self._credentials is not None:
            raise FailedPrecondition(
                "This node is already part of a swarm. Use `swarmnet swarm leave` to leave this swarm "
                "and join another one."
            )

    async def leave(self, *, force: bool) -> None:
        async with self._changing:
            if not force:
                self._check_not_locked()
            if self._credentials is not None or self._state == "locked":
                await self._abandon()
                return
            if (active := self._active) is None:
                raise FailedPrecondition(
                    "This node is not part of a swarm", hint="There is nothing to leave: see `swarmnet info`."
                )
            if not force:
                check_may_leave(active)
            await _part(active, force=force)
            self._active, self._state = None, "inactive"
            await self._end_background()
            await active.stop()
            self._files.erase()
            log.info("left the swarm", node=active.node_id)

    # A change of this host's role

    def prepare_take_over(self) -> local_pb2.PrepareTakeOverResponse:
        self._check_inactive()
        self._offer = Offer()
        return local_pb2.PrepareTakeOverResponse(
            csr_pem=self._offer.csr_pem, bootstrap_address=self._settings.bootstrap_address
        )

    async def take_over(self, request: local_pb2.TakeOverRequest) -> None:
        """What is to be done first, then the identity: what a crash leaves is nothing, or can go on."""
        async with self._changing:
            self._check_inactive()
            if self._offer is None:
                raise FailedPrecondition("no key was offered", hint="Ask this daemon for its request first.")
            credentials, self._offer = self._offer.accepted(request), None
            change = RoleChange(CallerRole.MANAGER, tuple(request.manager_addresses))
            self._files.erase()
            self._change.save(change)
            self._files.save(credentials)
            self._go_on(change, credentials)

    def _go_on(self, change: RoleChange, credentials: Credentials) -> None:
        promoted = change.to is CallerRole.MANAGER
        self._credentials, self._state, self._error = credentials, "pending" if promoted else "demoted", ""
        work = self._become_manager if promoted else self._hand_over
        self._run(work(credentials, change.managers))

    async def _become_manager(self, credentials: Credentials, managers: Sequence[str]) -> None:
        try:
            active = await become_manager(self._settings, self._files, credentials, managers, self._say)
        except SwarmnetError as error:
            self._forget(error.message)
            log.warning("not to be a manager any more", error=error.message)
            return
        self._credentials = None
        self._change.erase()
        self._enter(active)

    async def _step_down(self, active: ActiveManager) -> None:
        """While this manager is one: wait for its demotion, which leaves nothing here but the identity."""
        managers = await demoted(active, self._settings.worker_socket)
        async with self._changing:
            if self._active is not active:
                return
            log.info("demoted", node=active.node_id)
            self._credentials, self._active, self._state = active.credentials, None, "demoted"
            self._change.save(RoleChange(CallerRole.WORKER, managers))
            await active.stop()
        await self._hand_over(self._credentials, managers)

    async def _hand_over(self, credentials: Credentials, managers: Sequence[str]) -> None:
        await asyncio.to_thread(self._files.forget_swarm)
        try:
            await hand_over(self._settings.worker_socket, credentials, managers, self._say)
        except Unauthenticated as error:
            self._forget(error.message)
            log.warning("removed from the swarm", error=error.message)
            return
        self._forget("")
        log.info("handed over to the worker", node=credentials.subject.node_id)

    async def _abandon(self) -> None:
        """The operator has given the node up in the middle of a change of roles."""
        await self._end_background()
        self._forget("")
        log.info("left the swarm")

    def _forget(self, why: str) -> None:
        self._files.erase()
        self._credentials, self._state, self._error = None, "inactive", why

    def _say(self, what: str) -> None:
        self._error = what


async def _part(active: ActiveManager, *, force: bool) -> None:
    """With force it goes even when no other manager agrees."""
    if len(active.peers.members()) <= 1:
        return
    try:
        await depart(active)
    except SwarmnetError as error:
        if not force:
            raise
        log.warning("left without the others' consent", node=active.node_id, error=str(error))


def _lock(state_dir: Path) -> int:
    """Held as long as the process lives: one manager per state directory."""
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FailedPrecondition(
            f"another swarmnet-manager uses the state directory {state_dir}",
            hint="Stop it first, or give this one a --state-dir of its own.",
        ) from error
    return descriptor
