"""Who gets in where, over real TLS and a real unix socket."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.ports import free_port
from tests.unit.manager_doors import (
    AS_CLIENT,
    AS_MANAGER,
    AS_WORKER,
    CLIENT,
    CLUSTER,
    MANAGER,
    ROOT,
    WORKER,
    Doors,
    MadeUpSwarm,
    certificate,
    open_doors,
    said,
)

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc, local_pb2, local_pb2_grpc
from swarmnet.core.errors import (
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    SwarmnetError,
    Unauthenticated,
)
from swarmnet.core.status import RENEW
from swarmnet.manager.admission import FORWARDED_NODE, FORWARDED_ROLE, bootstrap_door, nodes_door
from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import Caller, CallerRole
from swarmnet.manager.limiter import BURST, RATE_PER_S, RateLimiter
from swarmnet.manager.rpcs import RPCS, roles_of
from swarmnet.manager.server import close, make_bootstrap_server
from swarmnet.manager.tls import anonymous_channel, node_channel

GET = control_pb2.GetClusterRequest()


@pytest.fixture
def swarm() -> MadeUpSwarm:
    return MadeUpSwarm()


@pytest.fixture
async def doors(swarm: MadeUpSwarm, tmp_path: Path) -> AsyncIterator[Doors]:
    async with open_doors(swarm, tmp_path) as found:
        yield found


async def refused(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> SwarmnetError:
    """The error that GetCluster ends with."""
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).GetCluster(GET, metadata=metadata, timeout=5)
    error = said(caught.value)
    assert error is not None, caught.value
    assert caught.value.code().name == error.status
    return error


def test_no_rpc_is_open_by_omission() -> None:
    silent = [path for path in RPCS if not roles_of(path).ListFields()]
    assert silent == []
    assert not roles_of("/swarmnet.api.v1.Control/NoSuchThing").ListFields()


async def test_the_certificate_is_the_identity(doors: Doors, swarm: MadeUpSwarm) -> None:
    for mine in (AS_CLIENT, AS_MANAGER):
        async with node_channel(mine, doors.nodes) as channel:
            await control_pb2_grpc.ControlStub(channel).GetCluster(GET)
    assert swarm.answers.callers == [Caller(CLIENT, CallerRole.CLIENT), Caller(MANAGER, CallerRole.MANAGER)]


async def test_a_worker_may_not_call_the_control_api(doors: Doors, swarm: MadeUpSwarm) -> None:
    error = await refused(node_channel(AS_WORKER, doors.nodes))
    assert isinstance(error, PermissionDenied)
    assert "swarmnet-worker may not call /swarmnet.api.v1.Control/GetCluster" in error.message
    assert "swarmnet-client" in error.hint
    assert swarm.answers.callers == []


async def test_root_on_this_host_is_an_operator(doors: Doors, swarm: MadeUpSwarm, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "manager.sock").stat().st_mode) == 0o600
    async with grpc.aio.insecure_channel(doors.socket) as channel:
        await control_pb2_grpc.ControlStub(channel).GetCluster(GET)
        info = await local_pb2_grpc.LocalStub(channel).GetInfo(local_pb2.GetInfoRequest())
    assert info.state == "swarmnet-client"
    assert [each.role for each in swarm.answers.callers] == [CallerRole.CLIENT]


OTHER_ROOT = Authority.create(CLUSTER, datetime.now(UTC))
BAD_CERTIFICATES = {
    "of another cluster's root": certificate(CallerRole.CLIENT, CLIENT, root=OTHER_ROOT),
    "expired": certificate(CallerRole.CLIENT, CLIENT, age=timedelta(days=91)),
}


@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
async def test_tls_itself_refuses_a_certificate(kind: str, doors: Doors, swarm: MadeUpSwarm) -> None:
    bad = BAD_CERTIFICATES[kind]
    mine = Credentials(bad.certificate_pem, bad.key, ROOT.root_pem)
    async with node_channel(mine, doors.nodes) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).GetCluster(GET, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert swarm.answers.callers == []


async def test_without_a_certificate_there_is_no_call(doors: Doors, swarm: MadeUpSwarm) -> None:
    async with anonymous_channel(ROOT.root_pem, doors.nodes) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).GetCluster(GET, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert swarm.answers.callers == []


async def test_a_certificate_that_names_another_cluster_is_refused(doors: Doors) -> None:
    stray = certificate(CallerRole.CLIENT, CLIENT, cluster_id="x" * 25)
    error = await refused(node_channel(stray, doors.nodes))
    assert isinstance(error, Unauthenticated)


@pytest.mark.parametrize("version", [[b"TLSv1.2"], []])
def test_tls_below_1_3_is_refused(version: list[bytes]) -> None:
    class OldPeer:
        def auth_context(self) -> dict[str, list[bytes]]:
            subject = f"CN={CLIENT},OU=swarmnet-client,O={CLUSTER}".encode()
            return {"x509_subject": [subject], "ssl_tls_version": version}

        def peer(self) -> str:
            return "ipv4:192.0.2.1:50000"

        def invocation_metadata(self) -> None:
            return None

    for admit, path in (
        (nodes_door(CLUSTER), "/swarmnet.api.v1.Control/GetCluster"),
        (bootstrap_door(RateLimiter()), "/swarmnet.api.v1.Bootstrap/GetRootCertificate"),
    ):
        with pytest.raises(Unauthenticated, match=r"not TLS 1\.3"):
            admit(path, OldPeer())


async def test_a_manager_speaks_for_another_caller(doors: Doors, swarm: MadeUpSwarm) -> None:
    metadata = ((FORWARDED_NODE, CLIENT), (FORWARDED_ROLE, "swarmnet-client"))
    async with node_channel(AS_MANAGER, doors.nodes) as channel:
        await control_pb2_grpc.ControlStub(channel).GetCluster(GET, metadata=metadata)
    assert swarm.answers.callers == [Caller(CLIENT, CallerRole.CLIENT, via=MANAGER)]


@pytest.mark.parametrize("mine", [AS_CLIENT, AS_WORKER])
async def test_nobody_else_speaks_for_another_caller(mine: Credentials, doors: Doors) -> None:
    metadata = ((FORWARDED_NODE, CLIENT), (FORWARDED_ROLE, "swarmnet-client"))
    error = await refused(node_channel(mine, doors.nodes), metadata)
    assert isinstance(error, PermissionDenied)
    assert "only managers forward" in error.message


async def test_a_forwarded_worker_stays_a_worker(doors: Doors) -> None:
    metadata = ((FORWARDED_NODE, WORKER), (FORWARDED_ROLE, "swarmnet-worker"))
    assert isinstance(await refused(node_channel(AS_MANAGER, doors.nodes), metadata), PermissionDenied)


async def test_a_renewed_certificate_is_presented_without_a_restart(tmp_path: Path) -> None:
    held = [AS_MANAGER]
    async with open_doors(MadeUpSwarm(), tmp_path, lambda: held[-1]) as doors:
        for _ in range(2):
            for address in (doors.nodes, doors.bootstrap):
                assert await presented(address) == x509.load_pem_x509_certificate(held[-1].certificate_pem)
            held.append(certificate(CallerRole.MANAGER, MANAGER))


async def presented(address: str) -> x509.Certificate:
    host, port = address.split(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode())


async def test_the_bootstrap_port_gives_the_root_and_nothing_else(doors: Doors) -> None:
    async with anonymous_channel(ROOT.root_pem, doors.bootstrap) as channel:
        stub = ca_pb2_grpc.BootstrapStub(channel)
        answer = await stub.GetRootCertificate(ca_pb2.GetRootCertificateRequest())
        assert answer.root_certificate_pem.encode() == ROOT.root_pem
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).GetCluster(GET, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bootstrap_at_the_nodes_port_is_for_managers(doors: Doors) -> None:
    async with node_channel(AS_WORKER, doors.nodes) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ca_pb2_grpc.BootstrapStub(channel).IssueCertificate(ca_pb2.IssueCertificateRequest())
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_errors_carry_reason_and_hint(doors: Doors) -> None:
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control_pb2_grpc.ControlStub(channel).GetNetwork(control_pb2.GetRequest(ref="n1"))
    error = said(caught.value)
    assert error is not None
    assert (caught.value.code(), error.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (error.message, error.hint) == ("network n1 not found", "Look at the list.")


async def test_a_defect_shows_nothing_of_itself(doors: Doors, swarm: MadeUpSwarm) -> None:
    swarm.answers.failures.append(RuntimeError("the secret is 42"))
    error = await refused(node_channel(AS_CLIENT, doors.nodes))
    assert error.reason == "INTERNAL"
    assert "42" not in str(error)


async def test_a_request_that_is_no_message_is_refused_and_counted(doors: Doors, swarm: MadeUpSwarm) -> None:
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        call: Any = channel.unary_unary("/swarmnet.api.v1.Control/GetNetwork")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
    assert isinstance(said(caught.value), InvalidArgument)
    assert swarm.refused == {"INVALID_ARGUMENT": 1}


async def test_junk_at_the_open_ports_harms_nobody(doors: Doors, swarm: MadeUpSwarm) -> None:
    for address in (doors.nodes, doors.bootstrap):
        host, port = address.split(":")
        for junk in (
            b"\x00" * 4096,
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\xff\xff",
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(junk)
            await writer.drain()
            writer.transport.abort()
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        await control_pb2_grpc.ControlStub(channel).GetCluster(GET, timeout=5)
    assert len(swarm.answers.callers) == 1


async def test_health_answers_at_the_socket_and_to_any_certificate(doors: Doors) -> None:
    request = health_pb2.HealthCheckRequest()
    for channel in (grpc.aio.insecure_channel(doors.socket), node_channel(AS_WORKER, doors.nodes)):
        async with channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def reflection_stub(channel: Any) -> Any:
    """Its types know no asyncio."""
    return reflection_pb2_grpc.ServerReflectionStub(channel)


async def test_reflection_lists_the_services_to_operators(doors: Doors) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(doors.socket) as channel:
        stub = reflection_stub(channel)
        (answer,) = [each async for each in stub.ServerReflectionInfo(iter([request]))]
    names = {each.name for each in answer.list_services_response.service}
    assert {"swarmnet.api.v1.Control", "swarmnet.api.v1.Local", "grpc.health.v1.Health"} <= names
    async with node_channel(AS_WORKER, doors.nodes) as channel:
        stub = reflection_stub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [each async for each in stub.ServerReflectionInfo(iter([request]))]
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_one_address_cannot_keep_the_bootstrap_port_busy() -> None:
    now = [0.0]
    limit = RateLimiter(lambda: now[0])
    for _ in range(int(BURST)):
        limit("192.0.2.1")
    with pytest.raises(ResourceExhausted, match=r"192\.0\.2\.1"):
        limit("192.0.2.1")
    limit("192.0.2.2")
    now[0] += 1 / RATE_PER_S
    limit("192.0.2.1")


@pytest.mark.parametrize("path", ["health", "reflection", "raft status"])
async def test_who_is_of_the_swarm_no_more_is_not_answered_by_anybody(
    path: str, doors: Doors, swarm: MadeUpSwarm
) -> None:
    """What needs no leader is refused by the state that is here."""
    swarm.unknown.add(MANAGER)
    async with node_channel(AS_MANAGER, doors.nodes) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        calls: dict[str, Any] = {
            "health": lambda: health.Check(health_pb2.HealthCheckRequest()),
            "reflection": lambda: _listed(channel),
            "raft status": lambda: control_pb2_grpc.ControlStub(channel).GetRaftStatus(
                control_pb2.GetRaftStatusRequest()
            ),
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls[path]()
    assert isinstance(said(caught.value), Unauthenticated)


async def _listed(channel: Any) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async for _ in stub.ServerReflectionInfo(iter([asked])):
        pass


@pytest.mark.parametrize(
    ("mine", "told"),
    [
        (AS_CLIENT, False),
        (certificate(CallerRole.CLIENT, CLIENT, age=timedelta(days=44)), False),
        (certificate(CallerRole.CLIENT, CLIENT, age=timedelta(days=46)), True),
        (certificate(CallerRole.MANAGER, MANAGER, age=timedelta(days=46)), False),
    ],
)
async def test_a_client_is_told_to_renew_when_its_certificate_is_half_over(
    mine: Credentials, doors: Doors, *, told: bool
) -> None:
    assert await told_to_renew(mine, doors.nodes) is told


async def told_to_renew(mine: Credentials, address: str) -> bool:
    async with node_channel(mine, address) as channel:
        call = control_pb2_grpc.ControlStub(channel).GetCluster(GET)
        await call
        return RENEW in dict(await call.trailing_metadata())


async def test_a_client_is_told_to_renew_when_another_root_issues(tmp_path: Path) -> None:
    """The old one still counts, so that it can."""
    new = Authority.create(CLUSTER, datetime.now(UTC))
    mine = certificate(CallerRole.MANAGER, MANAGER, root=new)
    chain = mine.certificate_pem + ROOT.certify(new.root_pem, datetime.now(UTC))
    rotating = Credentials(chain, mine.key, new.root_pem + ROOT.root_pem)
    async with open_doors(MadeUpSwarm(), tmp_path, lambda: rotating) as doors:
        assert await told_to_renew(AS_CLIENT, doors.nodes)
        renewed = certificate(CallerRole.CLIENT, CLIENT, root=new)
        both = Credentials(renewed.certificate_pem, renewed.key, rotating.root_pem)
        assert not await told_to_renew(both, doors.nodes)


async def test_a_server_that_was_never_started_gives_its_port_back() -> None:
    swarm, address = MadeUpSwarm(), f"127.0.0.1:{free_port()}"
    for _ in range(2):
        server = await make_bootstrap_server(
            address, lambda: AS_MANAGER, lambda: swarm, swarm.refused, note=swarm.note
        )
        await close(server, 0.0)
