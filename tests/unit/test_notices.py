"""What nodes tell of themselves: under their own names, bounded, apart from history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.state import State
from swarmnet.manager.notices import TOLD_APART, Notices


class Desk:
    def __init__(self) -> None:
        self.state = State()
        local.fill(self.state, local.node("w1", 1), local.node("w2", 2), local.network("net"))
        self.told: asyncio.Queue[list[types.Event]] = asyncio.Queue()
        self.notices = Notices(self.state, self.take, window_s=0.01)

    async def take(self, events: Sequence[types.Event], request_id: str) -> None:
        await self.told.put(list(events))

    async def next(self) -> list[types.Event]:
        async with asyncio.timeout(5):
            return await self.told.get()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    running = asyncio.create_task(made.notices.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def notice(reason: str, **fields: str) -> dispatcher.NodeNotice:
    return dispatcher.NodeNotice(**{"action": "repair", "reason": reason, **fields})


async def test_a_notice_names_its_node_and_what_it_is_about(desk: Desk) -> None:
    path = notice("narrow", action="path", network_id="net-net", peer_node_id="node-w2")
    desk.notices.note("node-w1", [path, path])
    desk.notices.note("node-w2", [notice("x" * 1000, network_id="gone", peer_node_id="gone")])
    first, second = await desk.next()
    assert (first.type, first.action, first.count) == (types.EVENT_TYPE_NODE, "path", 2)
    assert (list(first.nodes), first.subjects[0].name) == (["node-w1", "node-w2"], "net")
    assert (list(second.nodes), list(second.subjects), len(second.reason)) == (["node-w2"], [], 300)


async def test_a_node_cannot_flood_nor_pass_for_somebody_else(desk: Desk) -> None:
    desk.notices.note("node-w1", [notice("x", action="fence"), notice("x", action="create")])
    desk.notices.note("node-w1", [notice(f"{n}") for n in range(100)])
    desk.notices.note("node-w2", [notice("heard all the same")])
    events = await desk.next()
    assert [each.action for each in events] == ["repair"] * (TOLD_APART + 1)
    assert list(events[-1].nodes) == ["node-w2"]
    desk.notices.note("node-w1", [notice("in the next window")])
    assert [each.reason for each in await desk.next()] == ["in the next window"]


async def test_notices_do_not_push_history_out(desk: Desk) -> None:
    """They have room of their own."""
    one = types.Event(type=types.EVENT_TYPE_NODE, action="join", reason="history")
    local.commit(desk.state, lambda t: t.tell(one))
    for _ in range(12):
        events = [types.Event(type=types.EVENT_TYPE_NODE, action="repair") for _ in range(500)]
        local.commit(desk.state, lambda t, events=events: [t.tell(each) for each in events])  # type: ignore[misc]
    kept = list(desk.state.all(types.Event))
    assert [each.reason for each in kept if each.action == "join"] == ["history"]
    assert sum(each.action == "repair" for each in kept) == 1000
