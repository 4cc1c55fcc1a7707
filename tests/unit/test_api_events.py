"""The stream of events: what is kept, what comes, and where to go on after a break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.control_api import MadeUpManagers, WatchContext, make_api, make_swarm
from tests.unit.local_raft import LocalRaft, fill, network, put

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.timestamps import stamp
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.store import Store


@pytest.fixture
def swarm() -> Store:
    return make_swarm()


@pytest.fixture
def api(swarm: Store) -> Control:
    return make_api(swarm, MadeUpManagers())


async def all_of(api: Control, **fields: Any) -> list[types.Event]:
    context: Any = WatchContext()
    return [each async for each in api.Events(control.EventsRequest(**fields), context)]


async def test_what_is_kept_comes_in_order_and_ends(api: Control, swarm: Store) -> None:
    told = await all_of(api)
    assert told == list(swarm.state.all(types.Event))
    keys = await all_of(api, types=[types.EVENT_TYPE_KEY])
    assert {each.type for each in keys} == {types.EVENT_TYPE_KEY}
    assert 0 < len(keys) < len(told)
    assert await all_of(api, after=told[3].meta.id) == told[4:]


async def test_since_and_until_bound_the_times() -> None:
    now = [1000.0]
    swarm = Store(lambda: now[0])
    swarm.attach(LocalRaft(swarm))
    fill(swarm.state)
    api = make_api(swarm, MadeUpManagers())
    for number in range(1, 5):
        now[0] = 1000.0 + number
        await swarm.transact(lambda t, n=number: t.put(network(f"n{n}", index=n)))  # type: ignore[misc]
    names = [
        each.subjects[0].name
        for each in await all_of(api, since=stamp(1002), until=stamp(1003), types=[types.EVENT_TYPE_NETWORK])
    ]
    assert names == ["n2", "n3"]


async def following(api: Control, **fields: Any) -> tuple[AsyncIterator[types.Event], asyncio.Future[Any]]:
    """The stream, and its first event still to come; it has begun."""
    context: Any = WatchContext()
    events = api.Events(control.EventsRequest(follow=True, **fields), context)
    first = asyncio.ensure_future(anext(events))
    await context.begun.wait()
    return events, first


async def test_following_goes_on_with_what_happens_also_when_the_state_is_replaced(
    api: Control, swarm: Store
) -> None:
    last = list(swarm.state.all(types.Event))[-1].meta.id
    events, first = await following(api, after=last)
    put(swarm.state, network("early", index=7))  # behind the subscription's back
    swarm.restore(swarm.freeze()())
    assert (await first).subjects[0].name == "early"
    await swarm.transact(lambda t: t.put(network("late", index=8)))
    assert (await anext(events)).subjects[0].name == "late"


async def test_a_stream_with_an_end_to_come_ends_then(api: Control, swarm: Store) -> None:
    last = list(swarm.state.all(types.Event))[-1].meta.id
    until = swarm.now()
    until.FromNanoseconds(until.ToNanoseconds() + 50_000_000)
    async with asyncio.timeout(5):
        assert await all_of(api, after=last, follow=True, until=until) == []
