"""Whole clusters on fake clocks, random faults, and what has to hold of all of them.

A failing story names its seed; `make sim SEED=<it>` tells it again, exactly.
"""

from __future__ import annotations

import os
from random import Random

import pytest
from tests.sim.cluster import NETWORK, Clock, Cluster, scope_epochs, signed
from tests.sim.gossip_runner import run_all
from tests.sim.gossip_story import run

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.events import MemberDown
from swarmnet.core.gossip.network import Network
from swarmnet.core.gossip.timing import Timing

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(1, 9))
STORIES = range(1, 1001)


def all_hold_dead(cluster: Cluster, name: str) -> bool:
    down = MemberDown(name, left=False)
    return all(down in (event for _, event in node.events) for node in cluster.nodes.values())


@pytest.mark.timeout(900)
def test_after_any_faults_all_see_the_same_and_nothing_is_left_over() -> None:
    """A thousand stories of 25 nodes: see gossip_story for the faults, and for what has to hold."""
    outcomes = [each for some in run_all(25, STORIES) for each in some]
    bad = [f"make sim NODES=25 SEED={each.seed}: {each.violation}" for each in outcomes if each.violation]
    assert len(outcomes) == len(STORIES)
    assert bad == []


def test_a_story_told_twice_is_the_same() -> None:
    assert run(7, 10) == run(7, 10) != run(8, 10)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_100_that_start_at_once_each_with_a_few_seeds_soon_know_all(seed: int) -> None:
    cluster = Cluster(seed, seeds=0)
    names = [f"n{number:03}" for number in range(100)]
    for name in names:
        cluster.start(name)
    for number, name in enumerate(names):
        after = [names[(number + step) % len(names)] for step in (1, 2, 3)]
        cluster.nodes[name].core.join([(each, cluster.nodes[each].address) for each in after])
        cluster.settle(cluster.nodes[name])
    assert cluster.converges(2.5), f"SEED={seed}"


def test_under_load_tables_are_compared_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = 0
    vector = Network.vector

    def counted(network: Network, room: int) -> pb.Vector:
        nonlocal vectors
        vectors += 1
        return vector(network, room)

    cluster = Cluster(1, 10)
    cluster.run(4.0)
    monkeypatch.setattr(Network, "vector", counted)
    for number in range(300):
        cluster.publish(f"n{number % 10:03}", f"10.0.{number // 250}.{number % 250 + 1}")
        cluster.run(0.01)
    assert vectors <= 10  # each once in these 3 s, in which it was pinged three times
    assert cluster.converges(1.0)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_on_a_sound_lan_nobody_is_ever_suspected_and_the_wire_is_quiet(seed: int) -> None:
    cluster = Cluster(seed, 30)
    assert cluster.converges(1.0), f"SEED={seed}"
    cluster.run(5.0)
    before, since = cluster.sent, cluster.now
    cluster.run(60.0)
    per_node_s = (cluster.sent - before) / (cluster.now - since) / 30
    assert per_node_s < 2.2, f"SEED={seed}: {per_node_s} datagrams a second"
    down = [e for node in cluster.nodes.values() for _, e in node.events if isinstance(e, MemberDown)]
    assert down == [], f"SEED={seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_endpoint_is_known_at_once_a_failure_in_seconds(seed: int) -> None:
    cluster = Cluster(seed, 5)
    assert cluster.converges(1.0)
    cluster.run(3.0)
    started = cluster.now
    cluster.publish("n001", "10.0.1.3")
    assert cluster.run(1.0, cluster.agree_on_endpoints)
    assert cluster.now - started < 0.05, f"SEED={seed}"
    started = cluster.now
    cluster.crash("n001")
    assert cluster.run(15.0, lambda: all_hold_dead(cluster, "n001")), f"SEED={seed}"
    assert cluster.now - started < 4.0, f"SEED={seed}: {cluster.now - started:.1f} s"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restarted_node_is_back_at_once(seed: int) -> None:
    """Both before anybody has noticed, and after it was given up."""
    for away_s in (0.05, 20.0):
        cluster = Cluster(seed, 5)
        cluster.publish("n002", "10.0.1.3", "10.0.1.4")
        assert cluster.converges(1.0)
        cluster.crash("n002")
        cluster.run(away_s)
        started = cluster.now
        cluster.start("n002", published=(signed("n002", "10.0.1.4"),))
        assert cluster.run(5.0, cluster.agree), f"SEED={seed}"
        assert cluster.now - started < 1.5, f"SEED={seed}: {cluster.now - started:.2f} s"


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_lost_update_is_repaired_by_the_vectors(seed: int) -> None:
    cluster = Cluster(seed, 6)
    assert cluster.converges(1.0)
    cluster.wire.loss = 1.0
    cluster.publish("n000", "10.0.1.3")
    cluster.run(0.9)
    cluster.wire.loss = 0.0
    assert cluster.converges(10.0), f"SEED={seed}"


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_key_rotation_loses_nothing(seed: int) -> None:
    """Nodes get each step of it at different times, as they do, while endpoints come and go."""
    cluster = Cluster(seed, 6)
    assert cluster.converges(1.0)
    steps = (
        scope_epochs(NETWORK, 1, 2, current=1),
        scope_epochs(NETWORK, 1, 2, current=2),
        scope_epochs(NETWORK, 2),
    )
    for number, keys in enumerate(steps):
        for index, name in enumerate(sorted(cluster.nodes)):
            cluster.nodes[name].core.set_epochs(keys)
            cluster.publish("n000", f"10.0.{number}.{index + 1}")
            assert cluster.run(1.0, cluster.agree_on_endpoints), f"SEED={seed}"
            cluster.run(0.2)
    refused = [c.core.counters().get("dropped_unknown_epoch", 0) for c in cluster.nodes.values()]
    assert refused == [0] * 6


def test_sixty_nodes_hear_of_an_endpoint_at_once_and_of_a_failure_in_seconds() -> None:
    cluster = Cluster(SEEDS[0], 60)
    assert cluster.converges(5.0)
    cluster.run(3.0)
    cluster.publish("n007", "10.0.1.3")
    assert cluster.run(0.2, cluster.agree_on_endpoints)
    cluster.crash("n007")
    assert cluster.run(3.5, lambda: all_hold_dead(cluster, "n007"))


def test_nobody_is_held_for_dead_on_a_bad_wire() -> None:
    """A tenth of all datagrams is lost, for as long as it takes each node to probe each other ten times."""
    cluster = Cluster(SEEDS[0], 20)
    assert cluster.converges(5.0)
    cluster.wire.loss = 0.1
    cluster.run(200.0)
    down = [e for node in cluster.nodes.values() for _, e in node.events if isinstance(e, MemberDown)]
    assert down == []


def test_two_halves_that_have_forgotten_each_other_are_one_again() -> None:
    """Longer than the dead are remembered: the seeds, by the managers' word, are still tried."""
    timing = Timing(dead_keep_s=5.0, house_period_s=1.0)
    cluster = Cluster(SEEDS[0], 10, timing)
    cluster.publish("n001", "10.0.1.1")
    cluster.publish("n008", "10.0.1.8")
    assert cluster.converges(5.0)
    low = {f"n{index:03}" for index in range(5)}
    cluster.wire.cut = lambda source, target: (source in low) is not (target in low)
    cluster.run(20.0)
    assert {m.node_id for m in cluster.nodes["n001"].core.members()} == low
    assert cluster.nodes["n001"].core.endpoints(NETWORK) == ()
    cluster.wire.cut = None
    assert cluster.converges(30.0)


def test_clocks_that_differ_by_hours_and_run_at_other_speeds_do_no_harm() -> None:
    cluster = Cluster(SEEDS[0])
    random = Random(1)
    cluster.peers = frozenset(f"n{index:03}" for index in range(12))
    for name in sorted(cluster.peers):
        off_ms = random.randint(-7_200_000, 7_200_000)
        cluster.clocks[name] = Clock(random.uniform(0, 1e7), random.uniform(0.98, 1.02), off_ms)
        cluster.start(name)
    for number, name in enumerate(sorted(cluster.peers)):
        cluster.publish(name, f"10.0.1.{number + 1}")
    assert cluster.converges(5.0)
    cluster.crash("n003")
    cluster.run(5.0)
    cluster.start("n003", published=(signed("n003", "10.0.2.1"),))
    assert cluster.converges(5.0)


def test_who_joins_a_network_of_many_endpoints_has_them_at_once() -> None:
    cluster = Cluster(SEEDS[0], 4)
    for number, name in enumerate(sorted(cluster.nodes)):
        cluster.publish(name, *(f"10.0.{number}.{last}" for last in range(1, 250)))
    assert cluster.converges(10.0)
    cluster.crash("n003")
    cluster.run(5.0)
    cluster.start("n003")
    assert cluster.run(0.1, cluster.agree_on_endpoints)


def test_the_same_seed_gives_the_same_run() -> None:
    def trace(seed: int) -> list[tuple[float, str, str, bytes]]:
        cluster = Cluster(seed)
        seen: list[tuple[float, str, str, bytes]] = []
        cluster.on_datagram = lambda *each: seen.append((cluster.now, *each))
        cluster.peers = frozenset({"n000", "n001", "n002"})
        for name in sorted(cluster.peers):
            cluster.start(name)
        cluster.publish("n001", "10.0.1.3")
        cluster.run(5.0)
        return seen

    assert trace(3) == trace(3) != trace(4)
