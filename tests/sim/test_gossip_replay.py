"""What was captured is worth nothing: a million times over, and also after any restart."""

from __future__ import annotations

from tests.sim.cluster import NETWORK, Cluster

TIMES = 1_000_000


def test_a_captured_message_is_never_accepted_again_also_after_the_receivers_restart() -> None:
    cluster = Cluster(1, 3)
    captured: list[tuple[str, bytes]] = []
    cluster.run(2.0)  # by then everybody knows everybody, and hears what is said
    cluster.on_datagram = lambda source, target, payload: captured.append((target, payload))
    cluster.publish("n001", "10.0.1.3")
    cluster.run(3.0)
    cluster.publish("n001")
    cluster.run(1.0)
    cluster.on_datagram = None
    assert {target for target, _ in captured} == {"n000", "n001", "n002"}
    replay(cluster, captured, TIMES // 2)
    cluster.crash("n000")
    cluster.start("n000")
    cluster.crash("n001")
    cluster.start("n001")
    assert cluster.converges(3.0)
    replay(cluster, captured, TIMES // 2)


def replay(cluster: Cluster, captured: list[tuple[str, bytes]], times: int) -> None:
    """To its receiver and, each tenth time, reflected to somebody else."""
    before = {name: node.core.members() for name, node in cluster.nodes.items()}
    dropped = {name: refused(cluster, name) for name in before}
    names, sent = sorted(before), dict.fromkeys(before, 0)
    for number in range(times):
        target, payload = captured[number % len(captured)]
        target = names[number % 3] if number % 10 == 0 else target
        cluster.nodes[target].core.receive(payload, cluster.now)
        sent[target] += 1
    for name, node in cluster.nodes.items():
        assert refused(cluster, name) - dropped[name] == sent[name]
        assert node.core.members() == before[name]
        assert node.core.endpoints(NETWORK) == ()


def refused(cluster: Cluster, name: str) -> int:
    counters = cluster.nodes[name].core.counters()
    return sum(value for counter, value in counters.items() if counter.startswith("dropped_"))
