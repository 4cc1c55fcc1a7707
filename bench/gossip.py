"""Gossip of real, encrypted worker nodes on loopback, and memberlist (what serf and consul speak) beside it.

    python -m bench.gossip [--quick] [--nodes 50 100 200]
                           [--only update idle rate join kill rotation pieces sim]

Each side is one process in a network namespace of its own (gossip_fleet.py, memberlist/main.go); they take
turns, so that what else the machine does meets both. A node of ours is the shell that a worker runs, with
its sockets, keys and signatures; one of memberlist has its LAN defaults, AES-256 and updates of the same
size, passed on as serf does it. Bytes are all that goes over that loopback: headers, TCP and idle talk
included; CPU is the process's. What did not happen in time counts as the patience it was given. Each figure
is one JSON line; a missed reach says "ok": false.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from bench.gossip_pieces import measure_pieces
from bench.gossip_process import OURS, PEER, Answer, Fleet, update_bytes
from bench.gossip_simulated import measure_simulated
from bench.report import NO_PEER, Reach, line

CASES: Final = ("update", "idle", "rate", "join", "kill", "rotation", "pieces", "sim")
PER_NODES: Final = {"update", "idle", "rate"}
UPDATE_REACH_MS: Final = {50: 35, 100: 50, 200: 80}
UPDATE_WINDOW_S: Final = 1.5
RATE_PER_S: Final = 50.0
RATE_GRACE_S: Final = 5.0
JOIN_NODES: Final = 100
MANY_NODES: Final = 200
SETTLE_S: Final = 4.0
STARTS: Final = 2
LOOKS: Final = 10
CALM_DATAGRAMS_S: Final = 4.0
"""A node of either kind sends two a second when nothing happens."""


@dataclass(frozen=True, slots=True)
class Plan:
    nodes: tuple[int, ...]
    cases: frozenset[str]
    updates: int
    warm_ups: int
    idle_s: float
    rate_s: float
    joins: int
    peer_joins: int
    kills: int
    peer_kills: int
    patience_s: float
    quick: bool


FULL: Final = Plan((50, 100, 200), frozenset(CASES), 15, 5, 6.0, 15.0, 20, 3, 5, 2, 30.0, quick=False)
QUICK: Final = Plan((50,), frozenset(CASES), 5, 3, 3.0, 4.0, 3, 1, 2, 1, 15.0, quick=True)


def say(
    case: str,
    unit: str,
    values: list[float],
    reach: Reach | float | None = None,
    peer: list[float] | None = None,
) -> None:
    """Without a peer's values there is no ratio, and nothing to judge it by."""
    if not peer and isinstance(reach, Reach) and reach.of == "ratio":
        reach = None
    print(line("gossip", case, unit, values, reach, peer=peer or NO_PEER, peer_name=PEER), flush=True)


@contextmanager
def settled(side: str, nodes: int, patience_s: float) -> Iterator[Fleet | None]:
    """A fleet of that many nodes that know each other and have come to rest; None if they never do."""
    with Fleet(side) as fleet:
        for _ in range(STARTS):
            if "s" in fleet.do("start", nodes=nodes, patience_s=patience_s) and _at_rest(fleet, nodes):
                yield fleet
                return
            fleet.do("stop")
        print(f"{nodes} nodes of {side} did not settle in {STARTS} attempts", file=sys.stderr)
        yield None


def _at_rest(fleet: Fleet, nodes: int) -> bool:
    fleet.do("idle", seconds=SETTLE_S)
    looks = (fleet.do("idle", seconds=1.0)["packets"] / nodes for _ in range(LOOKS))
    return any(datagrams_s <= CALM_DATAGRAMS_S for datagrams_s in looks)


# -- updates, and none -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What a fleet has to tell at one size; all of it empty if it was not asked, or never came to rest."""

    idle: list[Answer] = field(default_factory=list)
    updates: list[Answer] = field(default_factory=list)
    rate: list[Answer] = field(default_factory=list)

    def values(self, of: str, key: str, factor: float = 1.0) -> list[float]:
        return [factor * each[key] for each in getattr(self, of)]


def measure_nodes(nodes: int, plan: Plan) -> None:
    ours, peer = (ask(side, nodes, plan) for side in (OURS, PEER))
    if ours.updates:
        tell_updates(nodes, ours, peer)
    if ours.idle:
        tell_idle(nodes, plan, ours, peer)
    if ours.rate:
        tell_rate(nodes, plan, ours, peer)


def ask(side: str, nodes: int, plan: Plan) -> Told:
    told, size = Told(), update_bytes()
    with settled(side, nodes, plan.patience_s) as fleet:
        if fleet is None:
            return told
        if "idle" in plan.cases:
            told.idle.append(fleet.do("idle", seconds=plan.idle_s))
        if "update" in plan.cases:
            for _ in range(plan.warm_ups):
                fleet.do("update", seconds=UPDATE_WINDOW_S, size=size)
            for _ in range(plan.updates):
                told.updates.append(
                    {"s": UPDATE_WINDOW_S} | fleet.do("update", seconds=UPDATE_WINDOW_S, size=size)
                )
        if "rate" in plan.cases:
            told.rate.append(
                fleet.do("rate", per_s=RATE_PER_S, seconds=plan.rate_s, grace_s=RATE_GRACE_S, size=size)
            )
    return told


def tell_updates(nodes: int, ours: Told, peer: Told) -> None:
    case = f"one update at all of {nodes} nodes"
    taken = [each.values("updates", "s", 1000) for each in (ours, peer)]
    say(case, "ms", taken[0], UPDATE_REACH_MS.get(nodes), taken[1])
    window = f"{case}, all of {UPDATE_WINDOW_S} s around it"
    for unit, key, factor, most in (("bytes", "bytes", 1, 1.1), ("ms of CPU", "cpu_s", 1000, 1.0)):
        values = [each.values("updates", key, factor) for each in (ours, peer)]
        say(window, unit, values[0], Reach(most, of="ratio"), values[1])


def tell_idle(nodes: int, plan: Plan, ours: Told, peer: Told) -> None:
    for unit, key, factor, reach in (
        ("bytes/s", "bytes", 1, Reach(1.0, of="ratio")),
        ("datagrams/s", "packets", 1, None),
        ("us of CPU/s", "cpu_s", 1e6, None),
    ):
        values = [each.values("idle", key, factor / plan.idle_s / nodes) for each in (ours, peer)]
        say(f"idle, a node of {nodes}", unit, values[0], reach, values[1])


def tell_rate(nodes: int, plan: Plan, ours: Told, peer: Told) -> None:
    case = f"{RATE_PER_S:.0f} updates a second for {plan.rate_s:.0f} s at {nodes} nodes"
    arrived = [[100 * each["everywhere"] / each["offered"] for each in side.rate] for side in (ours, peer)]
    say(f"{case}: arrived at every node", "%", arrived[0], Reach(100.0, at_least=True), arrived[1])
    for unit, key, most in (("s of CPU", "cpu_s", 1.0), ("bytes", "bytes", 1.5)):
        say(case, unit, ours.values("rate", key), Reach(most, of="ratio"), peer.values("rate", key))


# -- who is there ------------------------------------------------------------------------------------------


def measure_joins(plan: Plan) -> None:
    ours, peer = (
        joins(side, JOIN_NODES, times, plan) for side, times in ((OURS, plan.joins), (PEER, plan.peer_joins))
    )
    case = f"{JOIN_NODES} nodes join at once"
    say(case, "s", _taken(ours, plan), Reach(3.0, of="max"), _taken(peer, plan))
    if plan.quick:
        return
    ours, peer = (joins(side, MANY_NODES, 1, plan) for side in (OURS, PEER))
    case = f"{MANY_NODES} nodes join at once"
    converged = Reach(0.99 * plan.patience_s, of="max")
    say(
        f"{case}, if ever within {plan.patience_s:.0f} s",
        "s",
        _taken(ours, plan),
        converged,
        _taken(peer, plan),
    )
    deaths = [[each["false_deaths"] for each in side] for side in (ours, peer)]
    say(f"{case}: false deaths", "members held dead", deaths[0], Reach(0, of="max"), deaths[1])


def joins(side: str, nodes: int, times: int, plan: Plan) -> list[Answer]:
    told = []
    with Fleet(side) as fleet:
        for _ in range(times):
            told.append(fleet.do("start", nodes=nodes, at_once=True, patience_s=plan.patience_s))
            fleet.do("stop")
    return told


def measure_kills(plan: Plan) -> None:
    ours, peer = (kills(side, times, plan) for side, times in ((OURS, plan.kills), (PEER, plan.peer_kills)))
    say(f"a node killed, known to all of {JOIN_NODES}", "s", ours, Reach(3.0, of="max"), peer)


def kills(side: str, times: int, plan: Plan) -> list[float]:
    with settled(side, JOIN_NODES, plan.patience_s) as fleet:
        if fleet is None:
            return []
        return _taken([fleet.do("kill", patience_s=plan.patience_s) for _ in range(times)], plan)


def _taken(told: list[Answer], plan: Plan) -> list[float]:
    return [each.get("s", plan.patience_s) for each in told]


# -- keys --------------------------------------------------------------------------------------------------


def measure_rotations(plan: Plan) -> None:
    """Of the nodes' part: how long managers take to tell each worker, by its stream, is in bench/keys.py."""
    with settled(OURS, JOIN_NODES, plan.patience_s) as fleet:
        if fleet is None:
            raise RuntimeError("no fleet to rotate the keys of")
        told = [fleet.do("rotate", patience_s=plan.patience_s) for _ in range(2 if plan.quick else 5)]
    case = f"both scopes' keys rotated under updates, confirmed by all of {JOIN_NODES} nodes"
    say(case, "s", _taken(told, plan), Reach(0.5, of="max"))
    say(f"{case}: messages lost", "messages", [each["lost"] for each in told], Reach(0, of="max"))


def measure(plan: Plan) -> None:
    if plan.cases & PER_NODES:
        for nodes in plan.nodes:
            measure_nodes(nodes, plan)
    for case, does in (("join", measure_joins), ("kill", measure_kills), ("rotation", measure_rotations)):
        if case in plan.cases:
            does(plan)
    if "pieces" in plan.cases:
        measure_pieces(say, quick=plan.quick)
    if "sim" in plan.cases:
        measure_simulated(say, quick=plan.quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="50 nodes and few rounds: to iterate")
    parser.add_argument("--nodes", type=int, nargs="+")
    parser.add_argument("--only", choices=CASES, nargs="+")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else FULL
    measure(
        replace(
            plan,
            nodes=tuple(chosen.nodes or plan.nodes),
            cases=frozenset(chosen.only or plan.cases),
        )
    )


if __name__ == "__main__":
    main()
