"""Managers as real processes: in and out of swarms, restarts, and what knocks at their doors."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.e2e.manager_process import Manager, answered, eventually, managers
from tests.ports import free_port

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    BadToken,
    FailedPrecondition,
    InvalidArgument,
    MalformedToken,
    NotAManager,
    PermissionDenied,
    SwarmnetError,
    Unauthenticated,
    Unavailable,
)
from swarmnet.core.tokens import parse_token
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.joining import enrol
from swarmnet.manager.tls import node_channel


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    async with managers(tmp_path, 1) as (only,):
        yield only


async def test_outside_of_a_swarm_it_says_what_to_do(manager: Manager) -> None:
    assert (await manager.info()).state == "inactive"
    with pytest.raises(NotAManager, match=r"This node is not a swarm manager\.") as caught:
        await manager.nodes()
    assert "swarmnet swarm init" in caught.value.hint
    with pytest.raises(FailedPrecondition, match="not part of a swarm"):
        await manager.leave()


async def test_a_swarm_outlives_its_manager_process(manager: Manager) -> None:
    made = await manager.init()
    with pytest.raises(FailedPrecondition, match="already part of a swarm"):
        await manager.init()
    await manager.create_network("kept")
    assert await manager.stop() == 0
    await manager.start()
    assert await eventually(manager.networks) == {"kept"}
    await manager.stop(signal.SIGKILL)
    await manager.start()
    info = await manager.info()
    assert (info.state, info.node_id, info.cluster_id) == ("active", made.node_id, made.cluster_id)
    assert await eventually(manager.networks) == {"kept"}


async def test_a_manager_whose_certificate_expired_makes_itself_a_new_one(manager: Manager) -> None:
    """As it can: the root's key is in the state that it has. Without a state it says what to do."""
    made = await manager.init()
    await manager.create_network("kept")
    await manager.stop()
    files = IdentityFiles(manager.folder / "state")
    for age in (timedelta(days=91), timedelta(days=-1)):
        root = Authority.create(made.cluster_id, datetime.now(UTC) - age)
        key = new_key()
        subject = Subject(made.node_id, CallerRole.MANAGER, made.cluster_id)
        old = root.issue(signing_request(key), subject, datetime.now(UTC) - age)
        files.save(Credentials(old, private_pem(key), root.root_pem))
        await manager.start()
        assert await eventually(manager.networks) == {"kept"}
        await manager.stop()
    files.save(Credentials(old, private_pem(key), root.root_pem))
    shutil.rmtree(manager.folder / "state" / "raft")
    status, error = await run_manager(manager.arguments())
    assert status == 1
    assert "swarmnet-manager: this manager's certificate expired at" in error
    assert "remove this manager on another one" in error


async def test_the_last_manager_leaves_only_by_force_and_takes_all_with_it(manager: Manager) -> None:
    first = await manager.init()
    with pytest.raises(FailedPrecondition, match="erases all current state"):
        await manager.leave()
    await manager.leave(force=True)
    assert {each.name for each in (manager.folder / "state").iterdir()} == {"lock"}
    assert (await manager.info()).state == "inactive"
    assert (await manager.init()).cluster_id != first.cluster_id


BAD_TOKENS: list[tuple[str, type[SwarmnetError], str]] = [
    ("SWMTKN-1-nonsense", MalformedToken, "invalid join token"),
    ("{worker}", InvalidArgument, "the join token is for a worker, and this is a manager"),
    ("{prefix}-" + "0" * 25, BadToken, "A valid join token is necessary to join this cluster"),
    ("SWMTKN-1-0" + "1" * 49 + "-{secret}", BadToken, "remote CA does not match fingerprint"),
]


async def test_a_wrong_token_opens_nothing_and_changes_nothing(tmp_path: Path) -> None:
    async with managers(tmp_path, 2) as (first, second):
        await first.init()
        tokens = await first.tokens()
        prefix, _, secret = tokens.manager.rpartition("-")
        for template, kind, message in BAD_TOKENS:
            token = template.format(worker=tokens.worker, prefix=prefix, secret=secret)
            with pytest.raises(kind, match=message) as caught:
                await second.join(token, first.bootstrap)
            assert caught.value.hint
            assert secret not in str(caught.value)
        with pytest.raises(Unavailable, match="cannot reach a manager at 127"):
            await second.join(tokens.manager, f"127.0.0.1:{free_port()}")
        assert (await second.info()).state == "inactive"
        assert len(await first.nodes()) == 1


async def test_three_managers_agree_whoever_is_asked_and_whoever_dies(tmp_path: Path) -> None:
    async with managers(tmp_path, 3) as (first, second, third):
        await first.init()
        token = (await first.tokens()).manager
        for joiner in (second, third):
            await joiner.join(token, first.bootstrap)
        views = await eventually(lambda: all_reachable(third))
        assert sorted(view.manager_status for view in views) == ["Leader", "Reachable", "Reachable"]
        assert [view.node.bootstrap_address for view in views] == [
            each.bootstrap for each in (first, second, third)
        ]
        await third.create_network("by-a-follower")
        assert await second.networks() == {"by-a-follower"}

        await first.stop(signal.SIGKILL)
        killed = time.monotonic()
        await eventually(lambda: second.create_network("after-the-leader"))
        assert time.monotonic() - killed < 5
        assert await third.networks() == {"by-a-follower", "after-the-leader"}

        with pytest.raises(FailedPrecondition, match="loses its majority"):
            await third.leave()
        await first.start()
        await eventually(lambda: all_reachable(third))
        assert await eventually(first.networks) == {"by-a-follower", "after-the-leader"}

        await third.leave()
        assert len(await eventually(second.nodes)) == 2
        assert (await third.info()).state == "inactive"


async def all_reachable(manager: Manager) -> list[control_pb2.NodeView]:
    views = await manager.nodes()
    return views if all(view.manager_status != "Unreachable" for view in views) else []


async def test_a_worker_joins_and_may_not_command(manager: Manager) -> None:
    await manager.init()
    token = parse_token((await manager.tokens()).worker)
    request = ca_pb2.IssueCertificateRequest(hostname="w1", role=types.ROLE_WORKER)
    enrolment = await enrol(token, [manager.bootstrap], request)
    async with node_channel(enrolment.credentials, manager.address) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        with pytest.raises(PermissionDenied):
            await answered(stub.ListNodes(control_pb2.ListNodesRequest()))


async def test_a_removed_node_gets_no_new_certificate(manager: Manager) -> None:
    await manager.init()
    token = parse_token((await manager.tokens()).worker)
    request = ca_pb2.IssueCertificateRequest(hostname="w1", role=types.ROLE_WORKER)
    enrolment = await enrol(token, [manager.bootstrap], request)
    renewal = ca_pb2.RenewCertificateRequest(csr_pem=signing_request(new_key()).decode())
    async with node_channel(enrolment.credentials, manager.address) as channel:
        stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
        answer = await answered(stub.RenewCertificate(renewal))
        assert (answer.node_id, answer.role) == (enrolment.credentials.subject.node_id, types.ROLE_WORKER)
        await manager.remove_node(answer.node_id)
        with pytest.raises(Unauthenticated, match="no longer part of this swarm"):
            await answered(stub.RenewCertificate(renewal))


async def test_what_no_node_says_at_the_ports_is_dropped(manager: Manager) -> None:
    await manager.init()
    for port in (manager.port, manager.bootstrap_port):
        for junk in (
            bytes(4096),
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
        ):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(junk)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_2)
        await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_3)
    assert len(await manager.nodes()) == 1
    assert b"Traceback" not in (manager.folder / "log").read_bytes()


async def test_many_handshakes_at_once_each_broken_off_do_no_harm(manager: Manager) -> None:
    """gRPC exchanges server certificates unsafely: it must not be made to at each handshake."""
    await manager.init()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    async def break_off(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.transport.abort()

    for port in (manager.port, manager.bootstrap_port) * 20:
        await asyncio.gather(*(break_off(port) for _ in range(20)))
    assert len(await manager.nodes()) == 1


def handshake(port: int, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain):
        pass


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--state-dir=/dev/null/state"],
            "the state directory /dev/null/state is not writable: Not a directory",
        ),
        (["--run-dir=/dev/null/run"], "the run directory /dev/null/run is not writable: Not a directory"),
        (["--advertise-addr=nowhere"], "'nowhere' is not an IP address"),
        (["--advertise-addr=0.0.0.0"], "others cannot reach this host at 0.0.0.0"),
        (["--listen-addr=127.0.0.1:99999"], "invalid port in '127.0.0.1:99999'"),
    ],
)
async def test_a_wrong_flag_is_one_line_and_the_way_out(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    status, error = await run_manager([*Manager(tmp_path).arguments(), *arguments])
    lines = error.splitlines()
    assert status == 1
    assert lines[0] == f"swarmnet-manager: {says}"
    assert len(lines) == 2


async def test_one_manager_for_each_state_directory(manager: Manager) -> None:
    status, error = await run_manager(manager.arguments())
    assert status == 1
    assert "another swarmnet-manager uses the state directory" in error


async def run_manager(arguments: list[str]) -> tuple[int | None, str]:
    """Exit status and stderr of one that does not come up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "swarmnet.manager.main", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 10)
    return process.returncode, error.decode()
