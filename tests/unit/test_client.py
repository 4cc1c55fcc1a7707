"""The Python client: typed calls over one stream; the next manager when one is lost; what is known then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.unit.manager_doors import AS_CLIENT, Doors, MadeUpSwarm, open_doors

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.client.client import Client, Identity
from swarmnet.client.control import Control, Rpc
from swarmnet.core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    SwarmnetError,
    Unavailable,
)
from swarmnet.manager.pipeline import Pipelines

IDENTITY = Identity(AS_CLIENT.root_pem, AS_CLIENT.certificate_pem, AS_CLIENT.key)
READ = control.GetRequest(ref="c")
WRITE = control.UpdateConfigRequest(ref="c", request_id="mine")
REMOVE = control.GetRequest(ref="c")


@pytest.fixture
async def swarms(tmp_path: Path) -> AsyncIterator[list[tuple[MadeUpSwarm, Doors]]]:
    """Two managers that both answer."""
    async with AsyncExitStack() as stack:
        made = []
        for name in "ab":
            (tmp_path / name).mkdir()
            swarm = MadeUpSwarm()
            made.append((swarm, await stack.enter_async_context(open_doors(swarm, tmp_path / name))))
        yield made


@pytest.fixture
async def client(swarms: list[tuple[MadeUpSwarm, Doors]]) -> AsyncIterator[Client]:
    async with Client([doors.nodes for _, doors in swarms], IDENTITY, timeout_s=5.0) as found:
        yield found


def test_every_unary_call_of_the_api_has_its_name_and_messages() -> None:
    wanted = {
        method.name: method
        for method in control.DESCRIPTOR.services_by_name["Control"].methods
        if not method.client_streaming and not method.server_streaming
    }
    have = {name: each for name, each in vars(Control).items() if isinstance(each, Rpc)}
    assert have.keys() == wanted.keys()
    for name, rpc in have.items():
        method = wanted[name]
        assert rpc.request.DESCRIPTOR is method.input_type
        assert rpc.answer.DESCRIPTOR is method.output_type
        assert rpc.reads == name.startswith(("Get", "List"))


async def test_all_calls_share_one_stream(
    client: Client, swarms: list[tuple[MadeUpSwarm, Doors]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[object] = []
    serve = Pipelines.serve

    async def counted(pipelines: Pipelines, stream: Any) -> None:
        streams.append(pipelines)
        await serve(pipelines, stream)

    monkeypatch.setattr(Pipelines, "serve", counted)
    requests = [control.GetRequest(ref=f"c{number}") for number in range(100)]
    found = await asyncio.gather(*(client.GetConfig(each) for each in requests))
    assert [each.name for each in found] == [each.ref for each in requests]
    assert streams == [swarms[0][0].pipelines]


async def test_the_managers_error_is_raised(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        await client.GetNetwork(control.GetRequest(ref="n1"))
    assert (caught.value.message, caught.value.hint) == ("network n1 not found", "Look at the list.")


async def test_it_finds_a_manager_that_runs(swarms: list[tuple[MadeUpSwarm, Doors]]) -> None:
    addresses = [f"127.0.0.1:{free_port()}", swarms[0][1].nodes]
    async with Client(addresses, IDENTITY, timeout_s=5.0) as client:
        found = await asyncio.gather(*(client.GetConfig(READ) for _ in range(10)))
    assert len(found) == 10


async def test_without_any_manager_it_says_so() -> None:
    async with Client([f"127.0.0.1:{free_port()}"], IDENTITY, timeout_s=0.3) as client:
        for call in (client.GetConfig(READ), client.UpdateConfig(WRITE), client.RemoveConfig(REMOVE)):
            with pytest.raises(Unavailable, match="cannot connect to the manager at 127"):
                await call


async def test_root_on_the_managers_host_needs_no_identity(
    swarms: list[tuple[MadeUpSwarm, Doors]],
) -> None:
    async with Client([swarms[0][1].socket]) as client:
        await client.GetConfig(READ)


async def test_others_do(swarms: list[tuple[MadeUpSwarm, Doors]]) -> None:
    async with Client([swarms[0][1].nodes]) as client:
        with pytest.raises(InvalidArgument, match="no client certificate"):
            await client.GetConfig(READ)


async def test_identity_comes_from_files(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"root")
    (tmp_path / "cert.pem").write_bytes(b"certificate")
    with pytest.raises(InvalidArgument, match=r"cannot read .*key\.pem"):
        Identity.in_folder(tmp_path)
    (tmp_path / "key.pem").write_bytes(b"key")
    found = Identity.in_folder(tmp_path)
    assert (found.root_pem, found.certificate_pem, found.key_pem.reveal()) == (
        b"root",
        b"certificate",
        b"key",
    )


async def under_way(swarm: MadeUpSwarm, count: int) -> None:
    async with asyncio.timeout(5):
        while True:
            if len(swarm.answers.begun) == count:
                return
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("method", ["GetConfig", "UpdateConfig"])
async def test_a_lost_call_that_is_safe_goes_on_at_the_next_manager(
    method: str, client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    (first, _), (second, _) = swarms
    first.answers.gate.clear()
    call: Any = client.GetConfig(READ) if method == "GetConfig" else client.UpdateConfig(WRITE)
    calling = asyncio.create_task(call)
    await under_way(first, 1)
    await first.pipelines.end(0.0)
    await calling
    assert second.answers.begun == ["c"]
    if method == "UpdateConfig":
        assert [each.request_ids for each in (first.answers, second.answers)] == [["mine"], ["mine"]]


async def test_a_request_id_is_made_up_and_stays_the_same(
    client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    (first, _), (second, _) = swarms
    first.answers.gate.clear()
    request = control.UpdateConfigRequest(ref="c")
    calling = asyncio.create_task(client.UpdateConfig(request))
    await under_way(first, 1)
    await first.pipelines.end(0.0)
    await calling
    assert request.request_id == ""
    assert first.answers.request_ids == second.answers.request_ids
    assert len(first.answers.request_ids[0]) == 24
    await client.UpdateConfig(request)
    assert second.answers.request_ids[0] != second.answers.request_ids[1]


async def test_a_lost_call_that_is_not_safe_is_unknown(
    client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    (first, _), (second, _) = swarms
    first.answers.gate.clear()
    calling = asyncio.create_task(client.RemoveConfig(REMOVE))
    await under_way(first, 1)
    await first.pipelines.end(0.0)
    with pytest.raises(OutcomeUnknown, match="RemoveConfig may or may not have taken effect"):
        await calling
    assert second.answers.begun == []


async def test_what_surely_did_nothing_is_asked_again(
    client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    (first, _), (second, _) = swarms
    first.unrecognized = NoLeader()
    await client.RemoveConfig(REMOVE, timeout_s=10.0)
    assert second.answers.begun == ["c"]


@pytest.mark.parametrize("failure", [NoLeader(), NotFound("no such config: c")])
async def test_an_open_try_stays_open_whatever_the_next_one_says(
    failure: SwarmnetError, client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    (first, _), (second, _) = swarms
    first.answers.gate.clear()
    second.unrecognized = failure
    calling = asyncio.create_task(client.UpdateConfig(WRITE, timeout_s=1.0))
    await under_way(first, 1)
    first.unrecognized = failure
    await first.pipelines.end(0.0)
    with pytest.raises(OutcomeUnknown):
        await calling


@pytest.mark.parametrize(
    ("method", "error"), [("GetConfig", DeadlineExceeded), ("UpdateConfig", OutcomeUnknown)]
)
async def test_time_that_is_over(
    method: str, error: type[SwarmnetError], client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    swarms[0][0].answers.gate.clear()
    call: Any = client.GetConfig if method == "GetConfig" else client.UpdateConfig
    with pytest.raises(error):
        await call(READ if method == "GetConfig" else WRITE, timeout_s=0.1)


async def test_calls_under_way_end_when_it_is_closed(
    client: Client, swarms: list[tuple[MadeUpSwarm, Doors]]
) -> None:
    swarms[0][0].answers.gate.clear()
    calling = asyncio.create_task(client.RemoveConfig(REMOVE))
    await under_way(swarms[0][0], 1)
    await client.close()
    with pytest.raises(OutcomeUnknown):
        await calling
