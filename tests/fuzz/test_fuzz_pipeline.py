"""Whatever is written into a pipeline: each call is answered once, or the stream ends and says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.manager_doors import AS_CLIENT, MadeUpSwarm, open_doors, said

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.client.pipe import PIPELINE
from swarmnet.core.errors import InvalidArgument, SwarmnetError
from swarmnet.core.status import decode
from swarmnet.manager.tls import node_channel

METHODS = ("GetCluster", "GetNetwork", "GetConfig", "UpdateConfig", "RemoveConfig", "Watch", "Pipeline")
CALL = st.builds(
    control.PipelineCall,
    id=st.integers(0, 6),
    method=st.sampled_from(METHODS) | st.text(max_size=20),
    request=st.binary(max_size=40) | st.just(b""),
    timeout_ms=st.sampled_from([0, 1, 60_000, 2**32 - 1]),
    forwarded=st.none()
    | st.builds(control.PipelineCaller, node_id=st.text(max_size=5), role=st.text(max_size=5)),
)
MESSAGE = st.binary(max_size=60) | st.lists(CALL, max_size=4).map(
    lambda calls: control.PipelineRequest(calls=calls).SerializeToString()
)


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        open_doors(MadeUpSwarm(), tmp_path) as doors,
        node_channel(AS_CLIENT, doors.nodes) as channel,
    ):
        yield channel


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(MESSAGE, max_size=3))
async def test_any_messages(messages: list[bytes], channel: grpc.aio.Channel) -> None:
    open_stream: Any = channel.stream_stream(PIPELINE)
    stream: Any = open_stream(timeout=10)
    said_ids, heard_ids = _ids(messages), Counter[int]()
    ended: SwarmnetError | None = None
    try:
        for message in messages:
            await stream.write(message)
        await stream.done_writing()
        while (raw := await stream.read()) is not grpc.aio.EOF:
            for answer in control.PipelineResponse.FromString(raw).answers:
                heard_ids[answer.id] += 1
                if answer.HasField("error"):
                    assert decode(answer.error) is not None
    except grpc.aio.AioRpcError as error:
        ended = said(error)
    if ended is None:
        assert heard_ids == said_ids
    else:
        assert isinstance(ended, InvalidArgument)
        assert heard_ids <= said_ids


def _ids(messages: list[bytes]) -> Counter[int]:
    """Of the calls before the first message that is none."""
    found = Counter[int]()
    for each in messages:
        try:
            found.update(call.id for call in control.PipelineRequest.FromString(each).calls)
        except Exception:
            break
    return found
