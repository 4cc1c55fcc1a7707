"""Calls that were turned away: added up, bounded, told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.unit.control_api import NO_CONTEXT, MadeUpManagers, make_api, make_swarm, named, nobody_answers

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    BadToken,
    InvalidArgument,
    NoLeader,
    PermissionDenied,
    SwarmScoped,
    Unauthenticated,
)
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.control.surroundings import Surroundings
from swarmnet.manager.identity import Caller, CallerRole, set_caller
from swarmnet.manager.refusals import TOLD_APART, Refusals

BAD_TOKEN = BadToken("A valid join token is necessary to join this cluster")
Told = list[tuple[list[types.Event], str]]


class Desk:
    """Takes what is told; first it fails as often as `failures` says."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[list[types.Event], str]] = asyncio.Queue()
        self.attempts: list[str] = []
        self.failures = 0
        self.refusals = Refusals(self.take, window_s=0.01)

    async def take(self, events: Sequence[types.Event], request_id: str) -> None:
        self.attempts.append(request_id)
        if len(self.attempts) <= self.failures:
            raise NoLeader
        await self.told.put((list(events), request_id))

    async def next(self) -> list[types.Event]:
        async with asyncio.timeout(5):
            return (await self.told.get())[0]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    running = asyncio.create_task(made.refusals.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_same_refusals_are_one_event_with_their_number(desk: Desk) -> None:
    for _ in range(1000):
        desk.refusals.note(BAD_TOKEN, address="203.0.113.9")
    desk.refusals.note(Unauthenticated("no longer"), node_id="node-w1", via="node-m2")
    strangers, former = await desk.next()
    assert (strangers.type, strangers.action, strangers.count) == (types.EVENT_TYPE_KEY, "refuse", 1000)
    assert dict(strangers.attributes) == {"address": "203.0.113.9", "code": "BAD_TOKEN"}
    assert strangers.reason == BAD_TOKEN.message
    assert (list(former.nodes), former.attributes["via"], former.count) == (["node-w1"], "node-m2", 1)


async def test_what_is_merely_wrong_is_not_told(desk: Desk) -> None:
    desk.refusals.note(InvalidArgument("no such option"))
    desk.refusals.note(PermissionDenied("not with this role"), node_id="node-w1")
    (event,) = await desk.next()
    assert event.attributes["code"] == "PERMISSION_DENIED"


async def test_many_addresses_do_not_make_many_events(desk: Desk) -> None:
    for number in range(10_000):
        desk.refusals.note(BAD_TOKEN, address=f"2001:db8::{number:x}")
    events = await desk.next()
    assert len(events) == TOLD_APART + 1
    assert sum(each.count for each in events) == 10_000
    assert "address" not in events[-1].attributes


async def test_what_cannot_be_told_yet_is_told_later_under_the_same_id(desk: Desk) -> None:
    desk.failures = 2
    desk.refusals.note(BAD_TOKEN)
    assert [each.count for each in await desk.next()] == [1]
    assert len(desk.attempts) == 3
    assert len(set(desk.attempts)) == 1


async def test_another_manager_tells_refusals_and_nothing_else() -> None:
    swarm = make_swarm()
    api = make_api(swarm, MadeUpManagers())
    before = len(list(swarm.state.all(types.Event)))
    forged = types.Event(
        meta=types.Meta(id="0" * 20),
        type=types.EVENT_TYPE_NODE,
        action="retire",
        reason="r" * 5000,
        count=3,
        attributes={"address": "a" * 5000, "other": "x"},
    )
    request = control.NoteRefusalsRequest(refusals=[forged] * 1000, request_id="one")
    for _ in range(2):  # a retry
        await api.NoteRefusals(request, NO_CONTEXT)
    events = list(swarm.state.all(types.Event))[before:]
    assert len(events) == 2 * TOLD_APART
    assert {(each.type, each.action, each.count) for each in events} == {(types.EVENT_TYPE_KEY, "refuse", 3)}
    assert sum(each.ByteSize() for each in events) < 40_000
    assert "other" not in events[0].attributes


async def test_a_refused_attachment_names_the_network(desk: Desk) -> None:
    set_caller(Caller("node-w1", CallerRole.CLIENT))
    here = Surroundings(
        "m",
        "m:2378",
        make_swarm(),
        MadeUpManagers(),
        lambda _: (),
        nobody_answers,
        desk.refusals.note_attachment,
    )
    api = Control(here)
    with pytest.raises(SwarmScoped):
        await named("AttachNetwork", "front")(api)
    (event,) = await desk.next()
    assert [(each.id, each.name) for each in event.subjects] == [("net-front", "front")]
    assert event.attributes["code"] == "SWARM_SCOPED"
