"""Three managers against three members of etcd: writes, linearizable reads, and the time without a leader.

    python -m bench.raft [--quick] [--rounds 5] [--seconds 3] [--kills 100] [--only writes|reads|failover]

Both clusters run on loopback with mutual TLS, on the same disk, synced before anything is acknowledged; the
load is that of one client process, for both the same (raft_load.py): of ours through its client for programs,
which has one stream for all calls, and beside it with one rpc a call ("unary"). They take turns, so that what
else the machine does meets both. Each figure is one JSON line; a missed reach says "ok": false.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bench.raft_etcd import Etcd
from bench.raft_load import Client, Cluster, Load, failover, load
from bench.raft_swarmnet import Swarmnet
from bench.report import Reach, line

ROOT: Final = Path(__file__).parents[1]
TASKS: Final = (1, 16, 64, 256)
AS_FAST: Final = Reach(1.0, of="ratio", at_least=True)
REACH: Final = {
    "1 writer, p50": Reach(1.2, of="ratio"),
    "64 writers, rate": AS_FAST,
    "256 writers, rate": AS_FAST,
    "leader killed until the next write, p50": Reach(0.7),
    "leader killed until the next write, longest": Reach(1.5, of="max"),
}

Clusters: TypeAlias = tuple[Swarmnet, Cluster]
Figures: TypeAlias = dict[tuple[str, str], tuple[list[float], list[float]]]
"""(case, unit) -> the values of swarmnet, those of etcd."""


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    kills: int

    def __post_init__(self) -> None:
        if min(self.rounds, self.seconds, self.kills) <= 0:
            raise ValueError("a plan needs rounds, seconds and kills")


async def compare_load(clusters: Clusters, what: str, plan: Plan) -> Figures:
    """`what`: writer or reader. Ours through the client for programs; and, as cases of their own, each call
    by itself."""
    ours, peer = clusters
    leader = await ours.leader()
    piped, unary = ours.client(leader), ours.unary_client(leader)
    other = peer.client(await peer.leader())
    figures: Figures = defaultdict(lambda: ([], []))
    for _ in range(plan.rounds):
        for tasks in TASKS:
            case = f"{tasks} {what}{'s' * (tasks > 1)}"
            found = [await load(_call(each, what), tasks, plan.seconds) for each in (piped, other, unary)]
            _note(figures, case, found[0], found[1])
            _note(figures, f"{case}, unary", found[2], found[1])
    for client in (piped, unary, other):
        await client.close()
    return figures


def _call(client: Client, what: str) -> Callable[[int, str], Awaitable[object]]:
    return client.write if what == "writer" else lambda key, _: client.read(key)


def _note(figures: Figures, case: str, *sides: Load) -> None:
    for side, found in enumerate(sides):
        figures[f"{case}, rate", "calls/s"][side].append(found.per_s)
        figures[f"{case}, p50", "ms"][side].append(found.p50_ms)
        figures[f"{case}, p99", "ms"][side].append(found.p99_ms)


async def compare_failover(clusters: Clusters, plan: Plan) -> Figures:
    """Five kills of ours for one of etcd's, which takes longer."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(plan.kills):
        taken[0].append(await failover(clusters[0]))
        if number % 5 == 0:
            taken[1].append(await failover(clusters[1]))
    case = "leader killed until the next write"
    return {(f"{case}, p50", "s"): taken, (f"{case}, longest", "s"): taken}


def tell(figures: Figures, peer_name: str) -> None:
    for (case, unit), (ours, peers) in figures.items():
        print(line("raft", case, unit, ours, REACH.get(case), peer=peers, peer_name=peer_name), flush=True)


async def measure(plan: Plan, only: str) -> None:
    (ROOT / "out").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "out", prefix="bench-raft-") as folder:
        clusters: Clusters = Swarmnet(Path(folder) / "swarmnet"), Etcd(Path(folder) / "etcd")
        try:
            for cluster in clusters:
                await cluster.start()
            if only in ("", "writes"):
                tell(await compare_load(clusters, "writer", plan), clusters[1].name)
            if only in ("", "reads"):
                tell(await compare_load(clusters, "reader", plan), clusters[1].name)
            if only in ("", "failover"):
                tell(await compare_failover(clusters, plan), clusters[1].name)
        finally:
            for cluster in clusters:
                await cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short round and five kills: to iterate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=("writes", "reads", "failover"), default="")
    chosen = parser.parse_args()
    plan = Plan(1, 1.5, 5) if chosen.quick else Plan(chosen.rounds, chosen.seconds, chosen.kills)
    asyncio.run(measure(plan, chosen.only))


if __name__ == "__main__":
    main()
