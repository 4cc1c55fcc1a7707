"""Reports of many workers at once: a few in each turn of the event loop, and only the latest of a node."""

from __future__ import annotations

import asyncio
import time

from tests.unit import local_raft as local

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import State
from swarmnet.manager.dispatcher_acks import Acknowledgements
from swarmnet.manager.dispatcher_pusher import SLICE_S
from swarmnet.manager.dispatcher_reports import Reports


class Slow(Acknowledgements):
    """Each report takes all the time that there is in a turn."""

    def put(self, node_id: str, report: dispatcher.KeyReport) -> None:
        super().put(node_id, report)
        end = time.monotonic() + SLICE_S
        while time.monotonic() < end:
            pass


def slow() -> Slow:
    state = State()
    local.fill(state)
    return Slow(state)


def sending(epoch: int) -> dispatcher.KeyReport:
    scope = dispatcher.ScopeReport(scope=GOSSIP_SCOPE, installed=[epoch], sending=epoch)
    return dispatcher.KeyReport(scopes=[scope])


async def test_each_turn_takes_in_what_there_is_time_for() -> None:
    acks = slow()
    reports = Reports(acks)
    for name in ("a", "b", "c"):
        reports.offer(name, sending(1))
    reports.offer("b", sending(2))
    taken = []
    for _ in range(4):
        await asyncio.sleep(0)
        taken.append({node: each.sending for node, each in acks.of(GOSSIP_SCOPE).items()})
    assert taken == [{"a": 1}, {"a": 1, "b": 2}, *[{"a": 1, "b": 2, "c": 1}] * 2]


async def test_what_a_node_said_before_its_session_is_forgotten() -> None:
    acks = slow()
    reports = Reports(acks)
    reports.offer("a", sending(1))
    await asyncio.sleep(0)
    reports.offer("a", sending(2))
    reports.offer("b", sending(1))
    reports.forget("a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert acks.of(GOSSIP_SCOPE).keys() == {"b"}
    reports.offer("a", sending(2))
    reports.clear()
    await asyncio.sleep(0)
    assert acks.of(GOSSIP_SCOPE) == {}
