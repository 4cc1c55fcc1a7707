"""The same protocol in memory, at sizes and for times that no machine has sockets for: bench/gossip.py's
simulated cases."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from typing import Final, TypeAlias

from bench.report import Reach
from tests.sim.cluster import Cluster, Node, Wire

from swarmnet.core.gossip.events import EndpointsChanged, Event, MemberDown

Say: TypeAlias = Callable[..., None]
SMALL: Final = 100
LARGE: Final = 1000
_UDP_BYTES: Final = 28
_PATIENCE_S: Final = 120.0
_SETTLE_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class Large:
    """What one large cluster told: bytes/s of a node, hops of updates, false deaths in so many node-hours."""

    idle_bytes_s: float
    hops: list[float]
    hops_under_faults: list[float]
    node_hours: float
    deaths: float


def measure_simulated(say: Say, *, quick: bool) -> None:
    size = 200 if quick else LARGE
    times = (5.0, 3, 5.0) if quick else (10.0, 5, 20.0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        promised = pool.apply_async(large, (size, *times))
        small_bytes_s = idle_bytes_s(settled(SMALL, 1), times[0])
        hours, deaths = false_deaths(2, 25, 0.05, here_s=10.0 if quick else 100.0)
        found = promised.get()
    most = ceil(log2(size)) + 4
    case = f"simulated, one update at all of {size} nodes"
    say(case, "hops", found.hops, Reach(most, of="max"))
    say(f"{case}, 5% loss, 1% just died", "hops", found.hops_under_faults, Reach(2 * most, of="max"))
    case = f"simulated, idle: bytes of a node of {size} / of one of {SMALL}"
    say(case, "ratio", [found.idle_bytes_s / small_bytes_s], Reach(1.1))
    for what, amount, count in (
        ("25 nodes, 5% loss", hours, deaths),
        (f"{size} nodes, 10% loss", found.node_hours, found.deaths),
    ):
        say(f"simulated, {what}, {amount:.1f} node-hours", "false deaths", [count], Reach(0, of="max"))


def large(size: int, idle_s: float, updates: int, lossy_s: float) -> Large:
    cluster = settled(size, 1)
    idle = idle_bytes_s(cluster, idle_s)
    hops = [update_hops(cluster, number) for number in range(updates)]
    hours, deaths = lose(cluster, 0.1, lossy_s)
    cluster.wire = Wire(loss=0.05)
    for name in sorted(cluster.nodes)[:: max(size // (size // 100), 1)]:
        cluster.crash(name)
    under_faults = [update_hops(cluster, updates + number) for number in range(updates)]
    return Large(idle, hops, under_faults, hours, deaths)


def settled(size: int, seed: int) -> Cluster:
    cluster = Cluster(seed, size)
    if not cluster.converges(_PATIENCE_S):
        raise RuntimeError(f"{size} simulated nodes did not find each other in {_PATIENCE_S} s")
    cluster.run(_SETTLE_S)
    return cluster


def idle_bytes_s(cluster: Cluster, seconds: float) -> float:
    """Of a node, with UDP's and IP's headers."""
    before = cluster.sent_bytes + _UDP_BYTES * cluster.sent
    cluster.run(seconds)
    return (cluster.sent_bytes + _UDP_BYTES * cluster.sent - before) / seconds / len(cluster.nodes)


def update_hops(cluster: Cluster, number: int) -> float:
    """From node to node until the last one has it: the longest of the ways by which it came first. What a
    sync brought counts as one more than the longest so far; if one never has it, as all nodes."""
    origin = sorted(cluster.nodes)[-1 - number]
    hops: dict[str, float] = {origin: 0}
    senders: dict[bytes, str] = {}
    arrived = b""

    def sent(source: str, _: str, payload: bytes) -> None:
        senders[payload] = source

    def came(payload: bytes) -> None:
        nonlocal arrived
        arrived = payload

    def happened(node: Node, event: Event) -> None:
        if isinstance(event, EndpointsChanged) and node.name not in hops:
            hops[node.name] = hops.get(senders.get(arrived, ""), max(hops.values())) + 1

    before = cluster.on_event
    cluster.on_datagram, cluster.on_arrival, cluster.on_event = sent, came, happened
    cluster.publish(origin, f"10.1.{number // 250}.{number % 250 + 1}")
    cluster.run(30.0, until=lambda: len(hops) == len(cluster.nodes))
    cluster.on_datagram, cluster.on_arrival, cluster.on_event = None, None, before
    cluster.run(2.0)
    return max(hops.values()) if len(hops) == len(cluster.nodes) else float(len(cluster.nodes))


def lose(cluster: Cluster, loss: float, seconds: float) -> tuple[float, float]:
    """(node-hours, how many live nodes were given up, by any other)."""
    deaths = 0

    def happened(_: Node, event: Event) -> None:
        nonlocal deaths
        deaths += isinstance(event, MemberDown)

    before, wire = cluster.on_event, cluster.wire
    cluster.on_event, cluster.wire = happened, Wire(loss=loss)
    cluster.run(seconds)
    cluster.on_event, cluster.wire = before, wire
    return len(cluster.nodes) * seconds / 3600, float(deaths)


def false_deaths(seed: int, size: int, loss: float, *, here_s: float) -> tuple[float, float]:
    """As many node-hours as there is time for here."""
    cluster, end = settled(size, seed), time.monotonic() + here_s
    hours = deaths = 0.0
    while time.monotonic() < end:
        more, lost = lose(cluster, loss, 60.0)
        hours, deaths = hours + more, deaths + lost
    return hours, deaths
