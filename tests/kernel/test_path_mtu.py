"""What a path carries, measured where something on it drops larger packets and says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.hosts import Host, Lab

from swarmnet.worker.datapath import pathmtu
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath.pathmtu import path_bytes


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, Host]:
    monkeypatch.setattr(pathmtu, "ANSWER_S", 0.05)
    return lab.bare("w1"), lab.bare("w2")


def narrow(lab: Lab, host: Host, mtu: int) -> None:
    """The switch drops what is too large for the host's port."""
    lab.netlink.execute(rt.set_mtu(rt.list_links(lab.netlink)[host.name].index, mtu))


@pytest.mark.parametrize("carries", [1500, 1400, 1333])
def test_the_largest_packet_that_is_answered(lab: Lab, pair: tuple[Host, Host], carries: int) -> None:
    one, two = pair
    narrow(lab, two, carries)
    assert one.run(path_bytes(one.address, two.address, 1500)) == carries


def test_a_host_that_does_not_answer_says_nothing_of_its_path(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    nobody = two.address[:-1] + "9"
    assert one.run(path_bytes(one.address, nobody, 1500)) == 0


def test_several_paths_are_measured_at_once(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    three = lab.bare("w3")
    narrow(lab, three, 1300)

    async def both() -> list[int]:
        return await asyncio.gather(*(path_bytes(one.address, each.address, 1500) for each in (two, three)))

    assert one.run(both()) == [1500, 1300]
