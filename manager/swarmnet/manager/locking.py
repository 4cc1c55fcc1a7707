"""A manager's disk follows the swarm's lock: whether it needs an unlock key after a restart, and which one.

The swarm's setting is in the replicated state. Each manager that sees a later generation of it than its key
file has turns that file, seals its other files under the new key, and says so. Any of it may be interrupted:
what is still to be done shows in the files and in the state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import control_pb2, control_pb2_grpc
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.joining import call
from swarmnet.manager.raft.seal import DataKey
from swarmnet.manager.store import Store
from swarmnet.manager.tls import node_channel

log = structlog.get_logger()
_RETRY_S: Final = 1.0
_LOOK_S: Final = 0.2
_CALL_S: Final = 10.0


class RaftFiles(Protocol):
    """Raft's part of the state directory."""

    @property
    def data_key(self) -> DataKey: ...
    def renew_data_key(self) -> None: ...
    async def seal_under(self, kek: SecretBytes) -> None: ...


class Identity(Protocol):
    """This manager's certificate and private key."""

    async def replace_key(self) -> None:
        """SwarmnetError: it is done later."""


class Locking:
    """`report` tells the swarm which generation this disk follows."""

    def __init__(
        self,
        node_id: str,
        state: Store,
        files: IdentityFiles,
        raft: RaftFiles,
        *,
        identity: Identity,
        report: Callable[[int], Awaitable[None]],
    ) -> None:
        self._node_id = node_id
        self._store = state
        self._files = files
        self._raft = raft
        self._identity = identity
        self._report = report

    async def run(self) -> None:
        """For ever. What cannot be done now is logged, and tried again."""
        with self._store.subscribe(types.Cluster, types.Node) as changes:
            while True:
                try:
                    await self._follow()
                except SwarmnetError as error:
                    log.warning("the lock is not followed yet", error=error.message)
                    await asyncio.sleep(_RETRY_S)
                    continue
                await changes.next()

    async def _follow(self) -> None:
        if (cluster := self._store.state.cluster()) is None:
            return
        lock = self._files.lock
        if lock.generation < cluster.lock_generation:
            await asyncio.to_thread(lock.turn, cluster.lock_generation, self._unlock_key(cluster))
            log.info("lock turned", generation=cluster.lock_generation, autolock=cluster.autolock)
        old = len(lock.keks()) > 1
        if old:
            await self._raft.seal_under(lock.keks()[-1])
            await asyncio.to_thread(self._files.reseal)
        await self._say(cluster.lock_generation)
        if old:
            await self._replace_secrets()
            await asyncio.to_thread(lock.forget_old)

    def _unlock_key(self, cluster: types.Cluster) -> SecretBytes | None:
        if not cluster.autolock:
            return None
        secrets = self._store.state.get(store.ClusterSecrets, cluster.meta.id)
        assert secrets is not None, "a cluster without its secrets"
        return SecretBytes(secrets.unlock_key)

    async def _say(self, generation: int) -> None:
        me = self._store.state.get(types.Node, self._node_id)
        if me is not None and me.role == types.ROLE_MANAGER and me.lock_generation < generation:
            await self._report(generation)

    async def _replace_secrets(self) -> None:
        """What a copy of the files from before the turn gives away is of no use for those after it."""
        before = self._raft.data_key.number
        while self._raft.data_key.number == before:
            self._raft.renew_data_key()
            await asyncio.sleep(_LOOK_S)
        try:
            await self._identity.replace_key()
        except SwarmnetError as error:
            log.warning("private key not replaced", error=error.message)


async def report_lock(credentials: Callable[[], Credentials], address: str, generation: int) -> None:
    """To the leader, through this manager's own port at `address`."""
    request = control_pb2.ReportLockRequest(generation=generation)
    async with node_channel(credentials(), address) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        await call(stub.ReportLock(request, timeout=_CALL_S), address)
