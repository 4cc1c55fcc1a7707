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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    print(line("gossip", case, unit, values, reach, peer=peer or NO_PEER, peer_name="memberlist"), flush=True)


@contextmanager
def both(nodes: int, patience_s: float) -> Iterator[Iterator[Fleet]]:
    """One fleet after the other, each while it is asked for: of that many nodes that know each other."""

    def turns() -> Iterator[Fleet]:
        for side in (OURS, PEER):
            with Fleet(side) as fleet:
                fleet.do("start", nodes=nodes, patience_s=patience_s)
                fleet.do("idle", seconds=SETTLE_S)
                yield fleet

    yield turns()


# -- updates, and none -------------------------------------------------------------------------------------


def measure_nodes(nodes: int, plan: Plan) -> None:
    """What one fleet of each side has to tell at that size."""
    idle: list[Answer] = []
    updates: list[list[Answer]] = []
    rates: list[Answer] = []
    with both(nodes, 3 * plan.patience_s) as fleets:
        for fleet in fleets:
            if "idle" in plan.cases:
                idle.append(fleet.do("idle", seconds=plan.idle_s))
            if "update" in plan.cases:
                told = [
                    fleet.do("update", seconds=UPDATE_WINDOW_S, size=update_bytes())
                    for _ in range(plan.warm_ups + plan.updates)
                ]
                updates.append(told[plan.warm_ups :])
            if "rate" in plan.cases:
                rates.append(
                    fleet.do(
                        "rate",
                        per_s=RATE_PER_S,
                        seconds=plan.rate_s,
                        grace_s=RATE_GRACE_S,
                        size=update_bytes(),
                    )
                )
    if updates:
        tell_updates(nodes, *updates)
    if idle:
        tell_idle(nodes, plan, *idle)
    if rates:
        tell_rates(nodes, plan, *rates)


def tell_updates(nodes: int, ours: list[Answer], peer: list[Answer]) -> None:
    case = f"one update at all of {nodes} nodes"
    sides = [[1000 * each.get("s", UPDATE_WINDOW_S) for each in side] for side in (ours, peer)]
    say(case, "ms", sides[0], UPDATE_REACH_MS.get(nodes), sides[1])
    window = f"{case}, all of {UPDATE_WINDOW_S} s around it"
    for unit, key, factor, most in (("bytes", "bytes", 1, 1.1), ("ms of CPU", "cpu_s", 1000, 1.0)):
        values = [[factor * each[key] for each in side] for side in (ours, peer)]
        say(window, unit, values[0], Reach(most, of="ratio"), values[1])


def tell_idle(nodes: int, plan: Plan, ours: Answer, peer: Answer) -> None:
    for unit, key, factor, reach in (
        ("bytes/s", "bytes", 1, Reach(1.0, of="ratio")),
        ("datagrams/s", "packets", 1, None),
        ("us of CPU/s", "cpu_s", 1e6, None),
    ):
        values = [[factor * side[key] / plan.idle_s / nodes] for side in (ours, peer)]
        say(f"idle, a node of {nodes}", unit, values[0], reach, values[1])


def tell_rates(nodes: int, plan: Plan, ours: Answer, peer: Answer) -> None:
    case = f"{RATE_PER_S:.0f} updates a second for {plan.rate_s:.0f} s at {nodes} nodes"
    arrived = [[100 * side["everywhere"] / side["offered"]] for side in (ours, peer)]
    say(f"{case}: arrived at every node", "%", arrived[0], Reach(100.0, at_least=True), arrived[1])
    for unit, key, most in (("s of CPU", "cpu_s", 1.0), ("bytes", "bytes", 1.5)):
        say(case, unit, [ours[key]], Reach(most, of="ratio"), [peer[key]])


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
    told = []
    with both(JOIN_NODES, plan.patience_s) as fleets:
        for fleet, times in zip(fleets, (plan.kills, plan.peer_kills), strict=True):
            told.append([fleet.do("kill", patience_s=plan.patience_s) for _ in range(times)])
    ours, peer = (_taken(side, plan) for side in told)
    say(f"a node killed, known to all of {JOIN_NODES}", "s", ours, Reach(3.0, of="max"), peer)


def _taken(told: list[Answer], plan: Plan) -> list[float]:
    return [each.get("s", plan.patience_s) for each in told]


# -- keys --------------------------------------------------------------------------------------------------


def measure_rotations(plan: Plan) -> None:
    """Of the nodes' part: how long managers take to tell each worker, by its stream, is in bench/keys.py."""
    with Fleet(OURS) as fleet:
        fleet.do("start", nodes=JOIN_NODES, patience_s=plan.patience_s)
        fleet.do("idle", seconds=SETTLE_S)
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
