"""The manager's part when it is demoted: notice it, and hand the node's identity to the worker on its host.

The leader has taken it out of Raft by then; nothing here can hurt the others. It may have happened while this
manager was away, so it asks whenever no other manager talks to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc.aio
import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import NoLeader, SwarmnetError, Unauthenticated, Unavailable
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.joining import call, said_in
from swarmnet.manager.roles import wanted_role
from swarmnet.manager.tls import node_channel

log = structlog.get_logger()
T = TypeVar("T")
_LOOK_S: Final = 0.5
_RETRY_S: Final = 1.0
_REMOVED_S: Final = 10.0
"""How often a manager asks that others know nothing of."""
_CALL_S: Final = 5.0
_LOCAL_S: Final = 30.0
_NO_WORKER: Final = (
    "this manager was demoted, and no swarmnet-worker answers on this host to take its place: start it, or "
    "give the node up with `swarmnet swarm leave --manager` and `swarmnet node rm`"
)


async def demoted(active: ActiveManager, worker: Path) -> tuple[str, ...]:
    """Wait until the leader says that this node is a worker; returns where the managers are.

    `worker` is the socket of the worker on this host."""
    pause_s = _LOOK_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = _LOOK_S
        if not _has_doubts(active):
            continue
        others = [each.address for id_, each in active.peers.members().items() if id_ != active.node_id]
        try:
            answer = await _role(active.credentials, others)
        except Unauthenticated:  # removed, or a worker that has registered already
            if await _is_taken_over(worker, active.node_id):
                return tuple(others)
            pause_s = _REMOVED_S
        except SwarmnetError as error:
            log.debug("own role not known", error=error.message)
        else:
            if answer.role == types.ROLE_WORKER:
                return tuple(answer.manager_addresses)


def _has_doubts(active: ActiveManager) -> bool:
    """The state that it has says so, or no other manager talks to it."""
    me = active.store.state.get(types.Node, active.node_id)
    if me is not None and wanted_role(me) == types.ROLE_WORKER:
        return True
    others = active.peers.members().keys() - {active.node_id}
    return bool(others) and not any(map(active.peers.reachable, others))


async def hand_over(
    worker: Path, credentials: Credentials, managers: Sequence[str], say: Callable[[str], None]
) -> None:
    """Returns once the worker on this host is this node, however long that takes.

    Unauthenticated when the node was removed meanwhile. `say` is told what is in the way.
    """
    while True:
        try:
            await _hand_over(worker, credentials, managers)
        except Unauthenticated:
            if not await _is_taken_over(worker, credentials.subject.node_id):
                raise
        except SwarmnetError as error:
            say(error.message)
            await asyncio.sleep(_RETRY_S)
            continue
        return


async def _hand_over(worker: Path, credentials: Credentials, managers: Sequence[str]) -> None:
    if await _is_taken_over(worker, credentials.subject.node_id):
        return
    await _role(credentials, managers)  # a node that was removed has nothing to hand over
    async with _local_channel(worker) as channel:
        daemon = local_pb2_grpc.LocalStub(channel)
        offer = await _said(daemon.PrepareTakeOver(local_pb2.PrepareTakeOverRequest(), timeout=_LOCAL_S))
        request = ca_pb2.RenewCertificateRequest(csr_pem=offer.csr_pem, role=types.ROLE_WORKER)
        issued = await _ask_managers(
            credentials, managers, lambda stub: stub.RenewCertificate(request, timeout=_CALL_S)
        )
        taking = local_pb2.TakeOverRequest(
            certificate_pem=issued.certificate_pem,
            root_certificate_pem=issued.root_certificate_pem,
            manager_addresses=issued.manager_addresses,
        )
        await _said(daemon.TakeOver(taking, timeout=_LOCAL_S))


async def _role(credentials: Credentials, managers: Sequence[str]) -> ca_pb2.GetRoleResponse:
    request = ca_pb2.GetRoleRequest()
    return await _ask_managers(credentials, managers, lambda stub: stub.GetRole(request, timeout=_CALL_S))


async def _ask_managers(
    credentials: Credentials,
    managers: Sequence[str],
    ask: Callable[[Any], grpc.aio.UnaryUnaryCall[Any, T]],
) -> T:
    """The first that answers."""
    failure: SwarmnetError = NoLeader()
    for address in managers:
        try:
            async with node_channel(credentials, address) as channel:
                return await call(ask(ca_pb2_grpc.CertificateAuthorityStub(channel)), address)
        except Unavailable as error:
            failure = error
    raise failure


async def _is_taken_over(worker: Path, node_id: str) -> bool:
    """Whether the worker on this host is this node already."""
    async with _local_channel(worker) as channel:
        daemon = local_pb2_grpc.LocalStub(channel)
        try:
            info = await _said(daemon.GetInfo(local_pb2.GetInfoRequest(), timeout=_CALL_S))
        except SwarmnetError:  # none there
            return False
    return info.node_id == node_id


def _local_channel(path: Path) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{path}", options=(("grpc.enable_http_proxy", 0),))


async def _said(pending: grpc.aio.UnaryUnaryCall[Any, T]) -> T:
    """The worker's answer, or its error; Unavailable says what to do where there is no worker."""
    try:
        return await pending
    except grpc.aio.AioRpcError as error:
        raise said_in(error) or Unavailable(_NO_WORKER) from None
