"""Whole clusters on a fake clock, random faults, one assertion: all converge.

A failing run names its seed; `SEED=<it> pytest tests/sim` replays exactly that one.
"""

from __future__ import annotations

import os

import pytest
from tests.sim.cluster import NETWORK, Cluster, groups, scope_epochs, signed

from swarmnet.core.gossip.events import MemberDown

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(1, 9))


class Chaos:
    """Random faults and changes, by the cluster's own randomness."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.down: list[str] = []
        self._next_ip = 0

    def fresh_ip(self) -> str:
        self._next_ip += 1
        return f"10.0.{self._next_ip // 250}.{self._next_ip % 250 + 1}"

    def step(self) -> None:
        choice = self.cluster.random.choice
        up = sorted(self.cluster.nodes)
        match choice(["publish", "publish", "publish", "crash", "restart", "cut", "heal"]):
            case "publish":
                self.cluster.publish(choice(up), *(self.fresh_ip() for _ in range(choice([0, 1, 2, 9]))))
            case "crash" if len(up) > 3:
                self.down.append(choice(up))
                self.cluster.crash(self.down[-1])
            case "restart" if self.down:
                name = self.down.pop()
                self.cluster.start(name, published=(signed(name, self.fresh_ip()),))
            case "cut":
                part = {name for name in self.cluster.peers if choice([True, False])}
                self.cluster.wire.cut = groups(part, self.cluster.peers - part)
            case "heal":
                self.cluster.wire.cut = groups(self.cluster.peers)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_faults_all_see_the_same(seed: int) -> None:
    cluster = Cluster(seed, 10)
    chaos = Chaos(cluster)
    cluster.wire.loss, cluster.wire.duplication, cluster.wire.delay = 0.2, 0.1, (0.0002, 0.15)
    for _ in range(30):
        chaos.step()
        cluster.run(cluster.random.uniform(0.0, 3.0))
    cluster.wire.cut, cluster.wire.loss = groups(cluster.peers), 0.02
    assert cluster.converges(60.0), f"SEED={seed}: not converged: {sorted(cluster.nodes)}"


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_on_a_sound_lan_nobody_is_ever_suspected_and_the_wire_is_quiet(seed: int) -> None:
    cluster = Cluster(seed, 30)
    assert cluster.converges(1.0), f"SEED={seed}"
    cluster.run(5.0)
    before, since = cluster.sent, cluster.now
    cluster.run(60.0)
    per_node_s = (cluster.sent - before) / (cluster.now - since) / 30
    assert per_node_s < 3.5, f"SEED={seed}: {per_node_s} datagrams a second"
    down = [e for node in cluster.nodes.values() for e in node.events if isinstance(e, MemberDown)]
    assert down == [], f"SEED={seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_endpoint_is_known_at_once_a_failure_in_seconds(seed: int) -> None:
    cluster = Cluster(seed, 5)
    assert cluster.converges(1.0)
    cluster.run(3.0)
    started = cluster.now
    cluster.publish("n001", "10.0.1.3")
    assert cluster.run(1.0, cluster.agree_on_endpoints)
    assert cluster.now - started < 0.01, f"SEED={seed}"
    started = cluster.now
    cluster.crash("n001")
    assert cluster.run(15.0, cluster.agree), f"SEED={seed}"
    assert cluster.now - started < 8.0, f"SEED={seed}: {cluster.now - started:.1f} s"


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
def test_a_lost_update_is_repaired_by_the_digests(seed: int) -> None:
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


def test_sixty_nodes_hear_of_an_endpoint_in_a_second_and_of_a_failure_in_ten() -> None:
    cluster = Cluster(SEEDS[0], 60)
    assert cluster.converges(5.0)
    cluster.run(3.0)
    started = cluster.now
    cluster.publish("n007", "10.0.1.3")
    assert cluster.converges(2.0)
    assert cluster.now - started < 1.0
    cluster.crash("n007")
    assert cluster.converges(12.0)


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
