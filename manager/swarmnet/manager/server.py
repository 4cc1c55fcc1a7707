"""The manager's three gRPC servers: nodes (mTLS), bootstrap (no client certificate) and the unix socket."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from swarmnet.api.v1 import ca_pb2, control_pb2, dispatcher_pb2, local_pb2, raft_pb2
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.admission import Admit, PeerContext, bootstrap_door, local_door, nodes_door
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.client_certificates import renewal_due
from swarmnet.manager.forward import Gateway, Swarm
from swarmnet.manager.guard import Guard, Note
from swarmnet.manager.identity import Caller
from swarmnet.manager.limiter import RateLimiter
from swarmnet.manager.pipeline import PipelineHandler, Pipelines
from swarmnet.manager.tls import SERVER_OPTIONS, bootstrap_server, nodes_server


def _service(file: object, name: str) -> str:
    return str(file.DESCRIPTOR.services_by_name[name].full_name)  # type: ignore[attr-defined]


CONTROL: Final = _service(control_pb2, "Control")
DISPATCHER: Final = _service(dispatcher_pb2, "Dispatcher")
AUTHORITY: Final = _service(ca_pb2, "CertificateAuthority")
BOOTSTRAP: Final = _service(ca_pb2, "Bootstrap")
LOCAL: Final = _service(local_pb2, "Local")
RAFT: Final = _service(raft_pb2, "Raft")
ROOT_CERTIFICATE: Final = f"/{BOOTSTRAP}/GetRootCertificate"
RAFT_STATUS: Final = f"/{CONTROL}/GetRaftStatus"

AT_NODES: Final = frozenset({CONTROL, DISPATCHER, AUTHORITY, BOOTSTRAP})
"""Bootstrap among them, since a follower forwards a joining node's request there."""
AT_SOCKET: Final = frozenset({CONTROL, AUTHORITY})
STOP_GRACE_S: Final = 0.2
_BOOTSTRAP_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 60_000),
)
"""Whoever has no certificate keeps no connection."""
_BOOTSTRAP_CALLS: Final = 256
"""Calls served at once at the bootstrap port; more are refused."""


async def make_nodes_server(
    address: str,
    cluster_id: str,
    credentials: Callable[[], Credentials],
    gateway: Callable[[], Swarm],
    *,
    refused: Counter[str],
    pipelines: Pipelines,
    note: Note,
) -> grpc.aio.Server:
    """Bound and not started: Raft's servicer is still to be added. `refused` and `note`: as of Guard."""
    admit = _known(nodes_door(cluster_id), gateway)
    guard = Guard(admit, refused, renewal_due(credentials), note)
    server = await _server(guard, gateway, pipelines, AT_NODES, (CONTROL, DISPATCHER, AUTHORITY, RAFT))
    _bind(address, lambda: server.add_secure_port(address, nodes_server(credentials)))
    return server


def _known(admit: Admit, gateway: Callable[[], Swarm]) -> Admit:
    """What is answered here without the leader is for nodes of the swarm only, too. Raft looks by itself: who
    is to become a manager is none yet."""

    def admit_known(path: str, context: PeerContext) -> Caller:
        caller = admit(path, context)
        service = path.strip("/").partition("/")[0]
        if path == RAFT_STATUS or service not in {*AT_NODES, RAFT}:
            gateway().check_known(caller, service)
        return caller

    return admit_known


async def make_bootstrap_server(
    address: str,
    credentials: Callable[[], Credentials],
    gateway: Callable[[], Swarm],
    refused: Counter[str],
    *,
    note: Note,
) -> grpc.aio.Server:
    """Bound and not started. `refused` and `note`: as of Guard."""
    admit = bootstrap_door(RateLimiter())
    handlers = (Gateway(gateway, frozenset({BOOTSTRAP}), frozenset({ROOT_CERTIFICATE})),)
    server = grpc.aio.server(
        handlers=handlers,
        interceptors=(Guard(admit, refused, note=note),),
        options=(*SERVER_OPTIONS, *_BOOTSTRAP_OPTIONS),
        maximum_concurrent_rpcs=_BOOTSTRAP_CALLS,
    )
    _bind(address, lambda: server.add_secure_port(address, bootstrap_server(credentials)))
    return server


async def make_socket_server(
    path: Path, gateway: Callable[[], Swarm], pipelines: Pipelines
) -> grpc.aio.Server:
    """Bound, readable by root only, and not started: the Local servicer is still to be added."""
    server = await _server(Guard(local_door), gateway, pipelines, AT_SOCKET, (CONTROL, AUTHORITY, LOCAL))
    before = os.umask(0o177)
    try:
        _bind(str(path), lambda: server.add_insecure_port(f"unix:{path}"))
    finally:
        os.umask(before)
    return server


async def _server(
    guard: Guard,
    swarm: Callable[[], Swarm],
    pipelines: Pipelines,
    forwarded: frozenset[str],
    reflected: Sequence[str],
) -> grpc.aio.Server:
    gateway = Gateway(swarm, forwarded, frozenset({RAFT_STATUS}))
    server = grpc.aio.server(
        handlers=(PipelineHandler(guard, gateway, pipelines), gateway),
        interceptors=(guard,),
        options=SERVER_OPTIONS,
    )
    state = health.aio.HealthServicer()
    for name in ("", *reflected):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((*reflected, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


async def close(server: grpc.aio.Server, grace_s: float) -> None:
    """Stop it, whether it was started or not: gRPC gives back the port only of one that was."""
    await server.start()
    await server.stop(grace_s)


def _bind(address: str, bind: Callable[[], int]) -> None:
    try:
        bind()
    except RuntimeError as error:
        raise FailedPrecondition(
            f"cannot listen at {address}",
            hint="Another process may use it, or it is not an address of this host.",
        ) from error
