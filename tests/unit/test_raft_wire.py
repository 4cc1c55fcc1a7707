"""What becomes of a peer's stream: one at a time is listened to, and none ends without a word on why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import Conflict
from swarmnet.manager.raft.codec import PROBE, encode
from swarmnet.manager.raft.wire import Wire

if TYPE_CHECKING:
    import grpc.aio

    from swarmnet.manager.raft.guard import Message
    from swarmnet.manager.raft.member import Member


class Heard:
    """What came in, as (node, probe number)."""

    def __init__(self) -> None:
        self.probes: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def received(self, node_id: str, term: int, message: Message) -> None:
        self.probes.put_nowait((node_id, message["number"]))

    def connected(self, node_id: str) -> None: ...
    def disconnected(self, node_id: str, *, refused: bool) -> None: ...


class Stream:
    """A peer's stream into a wire; `outcome` is how the wire ended it."""

    def __init__(self, wire: Wire, node_id: str) -> None:
        self._batches: asyncio.Queue[raft.RaftBatch] = asyncio.Queue()
        self.outcome = asyncio.create_task(wire.receive(node_id, self._sent()))

    def send(self, *messages: raft.RaftMessage) -> None:
        self._batches.put_nowait(raft.RaftBatch(messages=messages))

    async def _sent(self) -> AsyncIterator[raft.RaftBatch]:
        while True:
            yield await self._batches.get()


def probe(number: int) -> raft.RaftMessage:
    return encode({"type": PROBE, "number": number}, term=1)


def dial(member: Member) -> grpc.aio.Channel:
    raise AssertionError(f"no one dials {member}")


async def replaced(wire: Wire, heard: Heard) -> tuple[Stream, Stream]:
    """Two streams of peer P, the second of which took the place of the first."""
    streams = []
    for number in (1, 2):
        streams.append(Stream(wire, "P"))
        streams[-1].send(probe(number))
        assert await heard.probes.get() == ("P", number)
    return streams[0], streams[1]


async def test_a_replaced_stream_ends_with_an_error_and_the_newer_one_goes_on() -> None:
    heard = Heard()
    older, newer = await replaced(Wire(dial, heard, lambda: ""), heard)
    older.send(probe(3))
    with pytest.raises(Conflict, match="manager P is no longer listened to"):
        await older.outcome
    newer.send(probe(4))
    assert await heard.probes.get() == ("P", 4)
    newer.outcome.cancel()


async def test_streams_end_with_an_error_when_the_wire_is_closed() -> None:
    heard = Heard()
    wire = Wire(dial, heard, lambda: "")
    only = Stream(wire, "P")
    only.send(probe(1))
    assert await heard.probes.get() == ("P", 1)
    await wire.close()
    only.send(probe(2))
    with pytest.raises(Conflict):
        await only.outcome
    assert heard.probes.empty()


async def test_nonsense_is_told_apart_even_on_a_replaced_stream() -> None:
    heard = Heard()
    older, newer = await replaced(Wire(dial, heard, lambda: ""), heard)
    for stream in (older, newer):
        stream.send(probe(3), raft.RaftMessage(term=9))
        with pytest.raises(ValueError, match="without a body"):
            await stream.outcome
    assert heard.probes.empty()
