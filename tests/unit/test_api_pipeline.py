"""Many calls over one stream: each is served, held and refused as it would be by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.unit.manager_doors import (
    AS_CLIENT,
    AS_MANAGER,
    AS_WORKER,
    CLIENT,
    MANAGER,
    WORKER,
    Doors,
    MadeUpSwarm,
    open_doors,
    said,
)

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.client.pipe import PIPELINE, Lost, Pipe
from swarmnet.core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ResourceExhausted,
    SwarmnetError,
    Unauthenticated,
    Unavailable,
)
from swarmnet.core.limits import MAX_MESSAGE_BYTES, PIPELINE_CALL_BYTES
from swarmnet.core.status import decode
from swarmnet.manager import pipeline
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import Caller, CallerRole
from swarmnet.manager.tls import node_channel

GET_CLUSTER = control.GetClusterRequest().SerializeToString()


def get(ref: str) -> bytes:
    return control.GetRequest(ref=ref).SerializeToString()


def update(ref: str) -> bytes:
    return control.UpdateConfigRequest(ref=ref).SerializeToString()


@pytest.fixture
def swarm() -> MadeUpSwarm:
    return MadeUpSwarm()


@pytest.fixture
async def doors(swarm: MadeUpSwarm, tmp_path: Path) -> AsyncIterator[Doors]:
    async with open_doors(swarm, tmp_path) as found:
        yield found


@asynccontextmanager
async def pipe_to(doors: Doors, mine: Credentials = AS_CLIENT) -> AsyncIterator[Pipe]:
    async with node_channel(mine, doors.nodes) as channel:
        pipe = Pipe(channel)
        yield pipe
        await pipe.close(0.0)


@pytest.fixture
async def pipe(doors: Doors) -> AsyncIterator[Pipe]:
    async with pipe_to(doors) as found:
        yield found


class Stream:
    """The messages themselves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        open_stream: Any = channel.stream_stream(PIPELINE)
        self.call: Any = open_stream()

    async def say(self, *calls: control.PipelineCall) -> None:
        await self.call.write(control.PipelineRequest(calls=calls).SerializeToString())

    async def hear(self) -> list[control.PipelineAnswer]:
        return list(control.PipelineResponse.FromString(await self.call.read()).answers)

    async def ends_with(self) -> tuple[grpc.StatusCode, SwarmnetError | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call.read()
        return caught.value.code(), said(caught.value)


@pytest.fixture
async def stream(doors: Doors) -> AsyncIterator[Stream]:
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        yield Stream(channel)


def asked(number: int, method: str, request: bytes, timeout_ms: int = 0) -> control.PipelineCall:
    return control.PipelineCall(id=number, method=method, request=request, timeout_ms=timeout_ms)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if true():
                return
            await asyncio.sleep(0.005)


async def refused(call: Awaitable[bytes]) -> SwarmnetError:
    with pytest.raises(SwarmnetError) as caught:
        await call
    return caught.value


async def test_calls_of_one_message_are_answered_in_one(stream: Stream) -> None:
    await stream.say(*(asked(number, "GetConfig", get(f"c{number}")) for number in range(1, 61)))
    answers = await stream.hear()
    found = {each.id: types.Config.FromString(each.response).name for each in answers}
    assert found == {number: f"c{number}" for number in range(1, 61)}


async def test_calls_of_one_turn_become_one_message(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = control.PipelineRequest

    def counted(raw: bytes) -> control.PipelineRequest:
        message = real.FromString(raw)
        taken.append(len(message.calls))
        return message

    monkeypatch.setattr(pipeline, "_decoded", counted)
    await asyncio.gather(*(pipe.call("GetCluster", GET_CLUSTER) for _ in range(50)))
    assert taken == [50]


async def test_answers_come_in_the_order_they_are_done(stream: Stream, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    await stream.say(asked(1, "GetConfig", get("slow")), asked(2, "GetCluster", GET_CLUSTER))
    assert [each.id for each in await stream.hear()] == [2]
    swarm.answers.gate.set()
    assert [each.id for each in await stream.hear()] == [1]


async def test_the_certificate_is_the_identity_of_each_call(doors: Doors, swarm: MadeUpSwarm) -> None:
    for mine in (AS_CLIENT, AS_MANAGER):
        async with pipe_to(doors, mine) as pipe:
            await pipe.call("GetCluster", GET_CLUSTER)
    assert swarm.answers.callers == [Caller(CLIENT, CallerRole.CLIENT), Caller(MANAGER, CallerRole.MANAGER)]


async def test_root_on_this_host_has_it_too(doors: Doors, swarm: MadeUpSwarm) -> None:
    async with grpc.aio.insecure_channel(doors.socket) as channel:
        pipe = Pipe(channel)
        await pipe.call("GetCluster", GET_CLUSTER)
        await pipe.close()
    assert [each.role for each in swarm.answers.callers] == [CallerRole.CLIENT]


async def test_a_worker_gets_no_stream(doors: Doors, swarm: MadeUpSwarm) -> None:
    async with pipe_to(doors, AS_WORKER) as pipe:
        error = await refused(pipe.call("GetCluster", GET_CLUSTER))
    assert isinstance(error, PermissionDenied)
    assert "swarmnet-worker may not call" in error.message
    assert swarm.answers.callers == []


async def test_each_call_is_held_against_its_own_roles(doors: Doors) -> None:
    async with pipe_to(doors, AS_MANAGER) as pipe:
        await pipe.call("GetCluster", GET_CLUSTER)
        error = await refused(pipe.call("GetConfig", get("c1")))
        assert isinstance(error, PermissionDenied)
        assert "swarmnet-manager may not call /swarmnet.api.v1.Control/GetConfig" in error.message


async def test_a_manager_speaks_for_another_caller(doors: Doors, swarm: MadeUpSwarm) -> None:
    whom = control.PipelineCaller(node_id=CLIENT, role="swarmnet-client")
    async with pipe_to(doors, AS_MANAGER) as pipe:
        await pipe.call("GetConfig", get("c1"), forwarded=whom)
    assert swarm.answers.callers == [Caller(CLIENT, CallerRole.CLIENT, via=MANAGER)]


@pytest.mark.parametrize(
    ("mine", "node_id", "role"),
    [(AS_CLIENT, MANAGER, "swarmnet-manager"), (AS_MANAGER, WORKER, "swarmnet-worker")],
)
async def test_nobody_speaks_for_whom_he_may_not(
    doors: Doors, mine: Credentials, node_id: str, role: str
) -> None:
    whom = control.PipelineCaller(node_id=node_id, role=role)
    async with pipe_to(doors, mine) as pipe:
        error = await refused(pipe.call("GetCluster", GET_CLUSTER, forwarded=whom))
    assert isinstance(error, PermissionDenied)


async def test_who_is_recognized_no_more_is_refused_the_next_call(pipe: Pipe, swarm: MadeUpSwarm) -> None:
    await pipe.call("GetCluster", GET_CLUSTER)
    swarm.unrecognized = Unauthenticated("no longer part of this swarm", hint="Join again.")
    error = await refused(pipe.call("GetCluster", GET_CLUSTER))
    assert (type(error), error.message, error.hint) == (
        Unauthenticated,
        "no longer part of this swarm",
        "Join again.",
    )
    assert len(swarm.answers.callers) == 1


async def test_errors_are_answers_and_are_counted(pipe: Pipe, swarm: MadeUpSwarm) -> None:
    error = await refused(pipe.call("GetNetwork", get("n1")))
    assert isinstance(error, NotFound)
    assert (error.message, error.hint) == ("network n1 not found", "Look at the list.")
    assert swarm.refused == {"NOT_FOUND": 1}
    await pipe.call("GetCluster", GET_CLUSTER)


async def test_a_defect_shows_nothing_of_itself(pipe: Pipe, swarm: MadeUpSwarm) -> None:
    swarm.answers.failures.append(RuntimeError("the secret is 42"))
    error = await refused(pipe.call("GetCluster", GET_CLUSTER))
    assert error.reason == "INTERNAL"
    assert "42" not in str(error)


@pytest.mark.parametrize("method", ["NoSuch", "", "Watch", "Pipeline", "../Local/GetInfo", "\x00"])
async def test_what_is_no_unary_call_of_the_control_api(pipe: Pipe, method: str) -> None:
    wrong, right = await asyncio.gather(refused(pipe.call(method, b"")), pipe.call("GetCluster", GET_CLUSTER))
    assert isinstance(wrong, InvalidArgument)
    assert f"there is no /swarmnet.api.v1.Control/{method}" in wrong.message
    assert right


async def test_a_request_that_is_no_message_is_its_own_answer(pipe: Pipe) -> None:
    wrong, _ = await asyncio.gather(
        refused(pipe.call("GetConfig", b"\xff\xff")), pipe.call("GetCluster", GET_CLUSTER)
    )
    assert isinstance(wrong, InvalidArgument)
    assert "the request is no swarmnet.api.v1.GetRequest" in wrong.message


async def test_what_is_too_large_is_its_own_answer(pipe: Pipe, stream: Stream) -> None:
    large = update("c" * PIPELINE_CALL_BYTES)
    assert isinstance(await refused(pipe.call("UpdateConfig", large)), ResourceExhausted)
    await stream.say(asked(1, "UpdateConfig", large))
    (answer,) = await stream.hear()
    assert isinstance(decode(answer.error), ResourceExhausted)
    wrong, _ = await asyncio.gather(
        refused(pipe.call("ListConfigs", b"")), pipe.call("GetCluster", GET_CLUSTER)
    )
    assert isinstance(wrong, ResourceExhausted)
    assert "an answer of" in wrong.message


async def test_a_message_too_large_ends_only_its_stream(pipe: Pipe, stream: Stream) -> None:
    await stream.call.write(bytes(MAX_MESSAGE_BYTES + 1))
    code, _ = await stream.ends_with()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await pipe.call("GetCluster", GET_CLUSTER)


@pytest.mark.parametrize("kind", ["garbage", "duplicate"])
async def test_what_cannot_be_told_apart_ends_the_stream(
    kind: str, stream: Stream, pipe: Pipe, swarm: MadeUpSwarm
) -> None:
    """Once all calls before it are answered; the other streams go on."""
    swarm.answers.gate.clear()
    await stream.say(asked(7, "GetConfig", get("before")))
    if kind == "garbage":
        await stream.call.write(b"\xff\xff\xff")
    else:
        await stream.say(asked(7, "GetConfig", get("again")))
    await pipe.call("GetCluster", GET_CLUSTER)
    swarm.answers.gate.set()
    assert [types.Config.FromString(each.response).name for each in await stream.hear()] == ["before"]
    code, error = await stream.ends_with()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error, InvalidArgument)
    assert ("no PipelineRequest" if kind == "garbage" else "id 7") in error.message
    assert swarm.answers.begun == ["before"]
    await pipe.call("GetCluster", GET_CLUSTER)


async def test_an_id_may_be_used_again_once_it_is_answered(stream: Stream) -> None:
    for name in ("one", "two"):
        await stream.say(asked(7, "GetConfig", get(name)))
        (answer,) = await stream.hear()
        assert types.Config.FromString(answer.response).name == name


async def test_a_call_ends_with_its_time(stream: Stream, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    await stream.say(
        asked(1, "GetConfig", get("read"), timeout_ms=50),
        asked(2, "UpdateConfig", update("write"), timeout_ms=100),
        asked(3, "GetConfig", get("patient"), timeout_ms=60_000),
    )
    errors = []
    for number in (1, 2):
        (answer,) = await stream.hear()
        assert answer.id == number
        errors.append(decode(answer.error))
    assert [type(each) for each in errors] == [DeadlineExceeded, DeadlineExceeded]
    assert "GetConfig did not end within 0.05 s" in str(errors[0])
    assert "may or may not have taken effect" not in str(errors[0])
    assert "may or may not have taken effect" in str(errors[1])
    assert swarm.answers.dropped == ["read", "write"]
    swarm.answers.gate.set()
    (answer,) = await stream.hear()
    assert types.Config.FromString(answer.response).name == "patient"


async def test_it_reads_no_further_while_it_is_busy(
    stream: Stream, swarm: MadeUpSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PIPELINE_CALLS", 4)
    swarm.answers.gate.clear()
    for start in (1, 4, 7):
        await stream.say(*(asked(n, "GetConfig", get(f"c{n}")) for n in range(start, start + 3)))
    await until(lambda: len(swarm.answers.begun) >= 4)
    _, pending = await asyncio.wait([asyncio.create_task(asyncio.sleep(0.1))], timeout=0.05)
    assert pending
    assert swarm.answers.begun == ["c1", "c2", "c3", "c4"]
    swarm.answers.gate.set()
    heard: list[int] = []
    while len(heard) < 9:
        heard += [each.id for each in await stream.hear()]
    assert sorted(heard) == list(range(1, 10))


async def test_who_does_not_listen_is_not_served_on(
    stream: Stream, swarm: MadeUpSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that cannot be written count as calls in progress."""
    monkeypatch.setattr(pipeline, "PIPELINE_CALLS", 4)
    calls = [asked(n, "GetConfig", get("x" * 1_000_000)) for n in range(1, 41)]

    async def say_all() -> None:
        for each in calls:
            await stream.say(each)

    saying = asyncio.create_task(say_all())
    await until(lambda: len(swarm.answers.begun) >= 4)
    before = -1
    while before != len(swarm.answers.begun):  # what the connection itself holds
        before = len(swarm.answers.begun)
        await asyncio.sleep(0.2)
    assert before < len(calls) // 2
    heard: list[int] = []
    while len(heard) < len(calls):
        heard += [each.id for each in await stream.hear()]
    assert sorted(heard) == [each.id for each in calls]
    await saying


async def test_who_goes_away_waits_for_nothing(doors: Doors, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        stream = Stream(channel)
        await stream.say(asked(1, "UpdateConfig", update("c1")), asked(2, "GetConfig", get("c2")))
        await until(lambda: len(swarm.answers.begun) == 2)
        stream.call.cancel()
        await until(lambda: sorted(swarm.answers.dropped) == ["c1", "c2"])


async def test_who_has_said_all_is_answered_still(stream: Stream, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    await stream.say(asked(1, "GetConfig", get("c1")))
    await stream.call.done_writing()
    await until(lambda: swarm.answers.begun == ["c1"])
    swarm.answers.gate.set()
    assert [each.id for each in await stream.hear()] == [1]
    assert await stream.call.read() is grpc.aio.EOF


async def test_a_stop_says_of_each_call_what_is_known(stream: Stream, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    await stream.say(asked(1, "GetConfig", get("read")), asked(2, "UpdateConfig", update("write")))
    await until(lambda: len(swarm.answers.begun) == 2)
    await swarm.pipelines.end(0.05)
    errors = {each.id: decode(each.error) for each in await stream.hear()}
    assert type(errors[1]) is Unavailable
    assert type(errors[2]) is OutcomeUnknown
    code, error = await stream.ends_with()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "this manager is stopping" in str(error)


async def test_a_stop_lets_calls_end(stream: Stream, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    await stream.say(asked(1, "UpdateConfig", update("write")))
    await until(lambda: swarm.answers.begun == ["write"])
    ending = asyncio.create_task(swarm.pipelines.end(5))
    swarm.answers.gate.set()
    (answer,) = await stream.hear()
    assert answer.HasField("response")
    await ending


async def test_a_manager_that_is_gone_leaves_the_outcome_unknown(doors: Doors, swarm: MadeUpSwarm) -> None:
    swarm.answers.gate.clear()
    async with node_channel(AS_CLIENT, doors.nodes) as channel:
        pipe = Pipe(channel)
        call = asyncio.create_task(pipe.call("UpdateConfig", update("c1")))
        await until(lambda: swarm.answers.begun == ["c1"])
        await channel.close()
        assert isinstance(await refused(call), Lost)
        await pipe.close()
