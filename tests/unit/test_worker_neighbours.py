"""Endpoints of other nodes outlive the silence of those nodes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swarmnet.core.endpoints import Endpoint, mac_of
from swarmnet.worker.neighbours import LINGER_S, Neighbours, load, save

NET, HERE, THERE = "n" * 25, "a" * 25, "b" * 25
BOTH = frozenset({HERE, THERE})


def endpoint(ip: str, node: str = HERE, task: str = "t1") -> Endpoint:
    return Endpoint(NET, task, ip_address(ip), mac_of(ip), node)


ONE, TWO = endpoint("10.0.1.3"), endpoint("10.0.1.4", THERE, "t2")


def test_what_is_heard_is_believed() -> None:
    neighbours = Neighbours()
    assert neighbours.update(NET, [ONE, TWO], BOTH, BOTH, 1) == (ONE, TWO)
    assert neighbours.next_end() is None


def test_a_silent_nodes_endpoints_are_believed_while_it_is_a_peer() -> None:
    neighbours = Neighbours([ONE, TWO])
    for now in (1, 100, 10_000):
        assert set(neighbours.update(NET, [TWO], BOTH, frozenset({THERE}), now)) == {ONE, TWO}
    assert neighbours.update(NET, [TWO], frozenset({THERE}), frozenset({THERE}), 10_001) == (TWO,)


def test_a_node_that_speaks_is_believed_after_a_while_that_it_has_them_no_more() -> None:
    neighbours = Neighbours([ONE])
    assert neighbours.update(NET, [], BOTH, BOTH, 10) == (ONE,)
    assert neighbours.next_end() == 10 + LINGER_S
    assert neighbours.update(NET, [], BOTH, BOTH, 10 + LINGER_S - 0.1) == (ONE,)
    assert neighbours.update(NET, [], BOTH, BOTH, 10 + LINGER_S) == ()


def test_silence_in_between_starts_the_while_anew() -> None:
    neighbours = Neighbours([ONE])
    neighbours.update(NET, [], BOTH, BOTH, 10)
    neighbours.update(NET, [], BOTH, frozenset(), 12)
    assert neighbours.update(NET, [], BOTH, BOTH, 10 + LINGER_S) == (ONE,)
    assert neighbours.update(NET, [ONE], BOTH, BOTH, 14) == (ONE,)
    assert neighbours.next_end() is None


@pytest.mark.parametrize("claim", [endpoint("10.0.1.3", THERE, "t9"), replace(ONE, node_id=THERE)])
def test_who_has_the_address_now_takes_it_at_once(claim: Endpoint) -> None:
    assert Neighbours([ONE]).update(NET, [claim], BOTH, frozenset({THERE}), 1) == (claim,)


def test_a_network_that_is_left_is_forgotten() -> None:
    neighbours = Neighbours([ONE])
    neighbours.keep_only([])
    assert neighbours.update(NET, [], BOTH, frozenset(), 1) == ()


def test_they_survive_the_process_and_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    assert load(path).everything() == frozenset()
    save(path, [ONE, TWO])
    assert load(path).everything() == {ONE, TWO}
    path.write_text("[[1,")
    assert load(path).everything() == frozenset()
