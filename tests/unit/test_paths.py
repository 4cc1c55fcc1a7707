"""Paths to other nodes: looked at when there is a new one and now and then, told when they are too narrow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from tests.unit.datapath_cases import desired, network

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.datapath.paths import news_of_path
from swarmnet.core.limits import MIN_TASK_MTU
from swarmnet.worker import paths as paths_module
from swarmnet.worker.paths import Paths

WIDE = 1500


@pytest.mark.parametrize(
    ("before", "found", "news"),
    [
        (0, 0, ""),
        (0, WIDE, ""),
        (WIDE, WIDE, ""),
        (1400, 1400, ""),
        (1400, 0, ""),
        (0, 1400, "with --opt mtu=1316 or less"),
        (WIDE, 1300, "with --opt mtu=1216 or less"),
        (1400, 1300, "of 1300 they do"),
        (1400, WIDE, "packets of 1500 bytes reach 192.0.2.1 again"),
        (0, MIN_TASK_MTU, "too narrow for any network"),
    ],
)
def test_only_a_change_is_news(before: int, found: int, news: str) -> None:
    said = news_of_path(before, found, WIDE, "192.0.2.1", encap=False)
    assert (bool(said), news in said) == (bool(news), True)


def test_what_fits_depends_on_what_is_around_it() -> None:
    six = news_of_path(0, 1400, WIDE, "2001:db8::1", encap=False)
    in_udp = news_of_path(0, 1400, WIDE, "192.0.2.1", encap=True)
    assert ("mtu=1296" in six, "mtu=1308" in in_udp) == (True, True)


class Bench:
    def __init__(self) -> None:
        self.mtu: int | None = WIDE
        self.carries: dict[str, int] = {}
        self.measured: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()
        self.told: asyncio.Queue[dispatcher.NodeNotice] = asyncio.Queue()
        self.broken = False
        self.paths = Paths(self, self.measure, self.hear)

    def hear(self, notices: Iterable[dispatcher.NodeNotice]) -> None:
        for each in notices:
            self.told.put_nowait(each)

    async def underlay_mtu(self, address: str) -> int | None:
        return self.mtu

    async def measure(self, source: str, destination: str, largest: int) -> int:
        self.measured.put_nowait((source, destination, largest))
        if self.broken:
            raise PermissionError("no raw sockets")
        return self.carries.get(destination, largest)

    async def next_measured(self) -> str:
        async with asyncio.timeout(5):
            return (await self.measured.get())[1]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    running = asyncio.create_task(made.paths.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_new_peer_is_looked_at_once(bench: Bench) -> None:
    bench.carries["10.133.0.3"] = 1400
    bench.paths.look(desired(network(1, peers=(2, 3))))
    assert {await bench.next_measured(), await bench.next_measured()} == {"10.133.0.2", "10.133.0.3"}
    async with asyncio.timeout(5):
        told = await bench.told.get()
    assert (told.action, told.peer_node_id) == ("path", "node3")
    assert "packets of 1500 bytes do not reach 10.133.0.3, of 1400 they do" in told.reason
    bench.paths.look(desired(network(1, peers=(2, 3)), network(2, peers=(3, 4))))
    assert await bench.next_measured() == "10.133.0.4"
    assert bench.measured.empty()


async def test_all_are_looked_at_again_and_what_changed_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths_module, "AGAIN_S", 0.01)
    bench.paths.look(desired(network(1, peers=(2,))))
    await bench.next_measured()
    bench.carries["10.133.0.2"] = 1400
    async with asyncio.timeout(5):
        assert "do not reach" in (await bench.told.get()).reason
        bench.carries.clear()
        assert "again" in (await bench.told.get()).reason


async def test_what_cannot_be_measured_is_tried_with_the_next_peer(bench: Bench) -> None:
    bench.broken = True
    bench.paths.look(desired(network(1, peers=(2,))))
    await bench.next_measured()
    bench.broken = False
    bench.paths.look(desired(network(1, peers=(2, 3))))
    assert {await bench.next_measured(), await bench.next_measured()} == {"10.133.0.2", "10.133.0.3"}


async def test_a_node_that_is_no_peer_any_more_is_forgotten(bench: Bench) -> None:
    for peers, looked_at in (((2,), 2), ((2, 3), 3), ((3, 4), 4), ((2, 3, 4), 2)):
        bench.paths.look(desired(network(1, peers=peers)))
        assert await bench.next_measured() == f"10.133.0.{looked_at}"
