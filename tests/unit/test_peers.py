"""Channels to the leader: kept as long as anything goes over them, whatever is renewed meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.manager_doors import AS_MANAGER, MANAGER, certificate

from swarmnet.manager import peers as peers_module
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.peers import Peers
from swarmnet.manager.raft.member import Member

ME = "x" * 25
YEAR_S = 365 * 86400


class Channel:
    """Closed as soon as nothing goes over it, which `idle` says."""

    def __init__(self, mine: Credentials) -> None:
        self.mine = mine
        self.graces: list[float] = []
        self.idle = asyncio.Event()
        self.closed = False

    async def close(self, grace_s: float) -> None:
        self.graces.append(grace_s)
        if grace_s > YEAR_S:
            await self.idle.wait()
        self.closed = True


class Raft:
    is_leader = False
    members: dict[str, Member] = {}  # noqa: RUF012  never changed

    def __init__(self) -> None:
        self.leader = Member(MANAGER, "192.0.2.1:2377", "192.0.2.1:2374")


Made = tuple[Peers, Raft, list[Credentials]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    held, raft = [AS_MANAGER], Raft()
    monkeypatch.setattr(peers_module, "node_channel", lambda mine, address, name: Channel(mine))
    peers = Peers(ME, lambda: held[-1])
    peers.attach(raft)  # type: ignore[arg-type]
    return peers, raft, held


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_after_a_renewal_calls_end_by_themselves_and_new_ones_use_the_new_certificate(
    made: Made,
) -> None:
    peers: Any
    peers, _, held = made
    first = peers.leader_channel()
    assert peers.leader_channel() is first
    held.append(certificate(CallerRole.MANAGER, MANAGER))
    second = peers.leader_channel()
    assert second.mine is held[-1]
    await turns()
    assert first.graces[0] > YEAR_S
    assert not first.closed
    first.idle.set()
    await turns()
    assert first.closed
    await peers.close()
    assert second.graces == [1.0]
    assert len(first.graces) == 1


async def test_with_another_leader_all_that_is_left_ends_soon(made: Made) -> None:
    peers: Any
    peers, raft, held = made
    first = peers.leader_channel()
    held.append(certificate(CallerRole.MANAGER, MANAGER))
    second = peers.leader_channel()
    await turns()
    raft.leader = Member("n" * 25, "192.0.2.2:2377", "192.0.2.2:2374")
    peers.leader_channel()
    await turns()
    assert (first.graces[-1], second.graces) == (1.0, [1.0])
    assert first.closed
    assert second.closed
    await peers.close()
