"""The worker's process: inactive until `swarm join`, active from then on, also after a restart."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from swarmnet.api.v1 import local_pb2 as local
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument, SwarmnetError, Unavailable
from swarmnet.core.tokens import parse_token
from swarmnet.worker.config import Config
from swarmnet.worker.executor import has_ended
from swarmnet.worker.identity import Identity, IdentityFiles, SigningRequest, make_request
from swarmnet.worker.join import Enrolment, Preparation, enrol, prepare
from swarmnet.worker.membership import Datapath, MakeDatapath, MakeGossip, Membership, make_executor
from swarmnet.worker.places import Managers

log = structlog.get_logger()

JOIN_TIMEOUT_S: Final = 20.0
_ROLE: Final = "swarmnet-worker"
"""In every worker's certificate."""


class Worker:
    """What the local service drives. `failed` fails when the process had better be started anew."""

    def __init__(
        self,
        config: Config,
        make_datapath: MakeDatapath,
        make_gossip: MakeGossip,
        rng: random.Random,
    ) -> None:
        self.config = config
        self._make_datapath = make_datapath
        self._make_gossip = make_gossip
        self._rng = rng
        self._files = IdentityFiles(config.state_dir)
        self._leaving = config.state_dir / "leaving"
        self._member: Membership | None = None
        self._prepared: Datapath | None = None
        self._preparation: Preparation | None = None
        self._offered: SigningRequest | None = None
        self._pending = False
        self._error = ""
        self._changing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._locks: list[int] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_swarm(self) -> bool:
        return self._member is not None

    async def start(self) -> None:
        """Go on where the last process stopped. FailedPrecondition if another one is using the state."""
        self._locks = [
            _locked(self.config.state_dir / "lock", "--state-dir"),
            _locked(self.config.run_dir / "worker.lock", "--run-dir"),
        ]
        identity = await asyncio.to_thread(self._files.load)
        if identity is None:
            await self._clean_up()
            await self._prepare()
            return
        managers = Managers(self.config.state_dir, self._rng)
        managers.load()
        await self._activate(identity, managers)

    async def stop(self) -> None:
        """Leave tasks and traffic as they are."""
        async with self._changing:
            await self._stop_watching()
            if self._member is not None:
                await self._member.stop()
                self._member = None
            await self._unprepare()
        while self._locks:
            os.close(self._locks.pop())

    def info(self) -> local.LocalInfo:
        info = local.LocalInfo(
            role=types.ROLE_WORKER, state=self._state(), error=self._error, version=version("swarmnet")
        )
        if (member := self._member) is not None:
            info.node_id, info.cluster_id = member.identity.node_id, member.identity.cluster_id
            info.managers.extend(member.managers.addresses)
            info.manager_id = member.session.manager_id
            info.error = self._error or member.last_error
            info.refused.update(member.refused())
            statuses = member.executor.statuses().values()
            info.running_tasks = sum(1 for s in statuses if s.state and not has_ended(s))
        return info

    async def join(self, request: local.JoinRequest) -> local.JoinResponse:
        """Become a worker of the swarm that the token is of.

        MalformedToken, BadToken, FailedPrecondition in a swarm; Unavailable if no manager answers, or, when
        this node has joined already, if no assignment came within 20 s: joining goes on by itself then.
        """
        async with self._changing:
            self._check_outside()
            token = parse_token(request.token)
            self._pending, self._error = True, ""
            try:
                prepared = self._preparation
                if prepared is None:
                    prepared = await asyncio.to_thread(prepare)
                enrolment = await enrol(token, request.addresses, self.config.hostname, prepared)
                member = await self._join(enrolment)
            finally:
                self._pending = False
        try:
            await asyncio.wait_for(member.session.established.wait(), JOIN_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the "
                "background.",
                hint=f"Use `swarmnet info` to see how far it is. Last: {member.last_error or 'no answer'}",
            ) from None
        return local.JoinResponse(node_id=member.identity.node_id, cluster_id=member.identity.cluster_id)

    async def prepare_take_over(self) -> local.PrepareTakeOverResponse:
        """Make a key for the identity of this host's manager, which was demoted.

        FailedPrecondition in a swarm.
        """
        self._check_outside()
        self._offered = await asyncio.to_thread(make_request)
        return local.PrepareTakeOverResponse(csr_pem=self._offered.pem.decode())

    async def take_over(self, request: local.TakeOverRequest) -> None:
        """Be that node as a worker, from now on. InvalidArgument for what does not fit the key."""
        async with self._changing:
            self._check_outside()
            identity = _taken(request, self._offered)
            self._offered = None
            await self._join(Enrolment(identity, tuple(request.manager_addresses)))
            self._error = ""

    def _check_outside(self) -> None:
        if self.in_swarm:
            raise FailedPrecondition(
                "This node is already part of a swarm. Use `swarmnet swarm leave` to leave this swarm "
                "and join another one."
            )

    async def leave(self) -> None:
        """Leave the swarm: tasks, keys and kernel state of this node are gone when this returns."""
        async with self._changing:
            if (member := self._member) is None:
                raise FailedPrecondition(
                    "This node is not part of a swarm", hint="There is nothing to leave: see `swarmnet info`."
                )
            await self._stop_watching()
            await member.announce_leave()
            await self._depart(member)
            self._error = ""
            log.info("left the swarm")

    def _state(self) -> str:
        if self._member is None:
            return "pending" if self._pending else ("error" if self._error else "inactive")
        return "active" if self._member.session.established.is_set() else "pending"

    async def _join(self, enrolment: Enrolment) -> Membership:
        managers = Managers(self.config.state_dir, self._rng)
        managers.replace_addresses(enrolment.managers)
        await asyncio.to_thread(managers.save)
        await asyncio.to_thread(
            self._files.save, enrolment.identity
        )  # last: whoever has it finds the managers
        self._preparation = None
        try:
            return await self._activate(enrolment.identity, managers)
        except BaseException:
            self._forget_identity(managers)
            raise

    async def _activate(self, identity: Identity, managers: Managers) -> Membership:
        datapath = self._prepared or self._make_datapath(self.config)
        self._prepared = None
        member = Membership(
            self.config, identity, managers, datapath, make_gossip=self._make_gossip, rng=self._rng
        )
        try:
            await member.start()
        except BaseException:
            await datapath.close()
            raise
        self._member = member
        self._watcher = asyncio.create_task(self._watch(member))
        return member

    async def _watch(self, member: Membership) -> None:
        """Until the managers remove this node, or a part of it fails."""
        try:
            removed = await member.ended
            log.warning("no worker of the swarm any more", reason=removed.reason)
            async with self._changing:
                self._watcher = None
                await self._depart(member, comes_back=removed.promoted)
                self._error = "" if removed.promoted else f"removed from the swarm: {removed.reason}"
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _depart(self, member: Membership, *, comes_back: bool = False) -> None:
        """The identity goes first: whatever happens next, this node is of no swarm when it starts again, and
        takes the rest away then."""
        self._leaving.touch()
        await asyncio.to_thread(self._forget_identity, member.managers)
        self._member = None
        await member.dissolve(comes_back=comes_back)
        self._leaving.unlink()

    def _forget_identity(self, managers: Managers) -> None:
        self._files.erase()
        managers.erase()

    async def _prepare(self) -> None:
        """Make a key, probe the kernel and guard ports now: that loads modules and runs commands, and joining
        is quick."""
        self._preparation = await asyncio.to_thread(prepare)
        datapath = self._make_datapath(self.config)
        try:
            await datapath.start()
        except (SwarmnetError, OSError) as error:
            await datapath.close()
            log.warning("data path not prepared: joining will try again", error=str(error))
        else:
            self._prepared = datapath

    async def _unprepare(self) -> None:
        """What a worker of no swarm guards, nobody needs."""
        datapath, self._prepared = self._prepared, None
        if datapath is not None:
            try:
                await datapath.remove_all()
            finally:
                await datapath.close()

    async def _clean_up(self) -> None:
        """Outside of a swarm there are no tasks and nothing in the kernel: take away what was left behind."""
        if not self._leaving.exists() and not _has_entries(self.config.run_dir / "netns"):
            return
        executor, _ = make_executor(self.config, lambda: None)
        await executor.adopt()
        await executor.forget_all()
        await executor.close()
        datapath = self._make_datapath(self.config)
        try:
            await datapath.start()
            await datapath.remove_all(comes_back=True)  # nobody knows why it left
            self._leaving.unlink(missing_ok=True)
        except (SwarmnetError, OSError) as error:
            self._error = str(error)
            log.warning("leftovers not removed", error=str(error))
        finally:
            await datapath.close()

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None


def _taken(request: local.TakeOverRequest, offered: SigningRequest | None) -> Identity:
    if offered is None:
        raise FailedPrecondition("no key was offered", hint="Ask this daemon for its request first.")
    identity = Identity(request.certificate_pem.encode(), offered.key, request.root_certificate_pem.encode())
    try:
        fits = identity.fits() and identity.role == _ROLE
    except ValueError:
        fits = False
    if not fits:
        raise InvalidArgument("the certificate is not a worker's for the key that was offered")
    return identity


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _locked(path: Path, flag: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FailedPrecondition(
            f"another swarmnet-worker is using {path.parent}",
            hint=f"Stop it first, or choose another directory with {flag}.",
        ) from None
    return descriptor
