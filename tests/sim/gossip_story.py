"""A story of a gossip cluster by its seed: random faults, then peace, and what has to hold of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tests.sim.cluster import Clock, Cluster, Node, groups, signed

from swarmnet.core.gossip.events import Event, MemberDown, MemberUp
from swarmnet.core.gossip.timing import Timing

TIMING: Final = Timing(dead_keep_s=4.0, tombstone_keep_s=2.0, house_period_s=1.0, reconnect_period_s=2.0)
"""Memories are short, so that a story sees them end."""
REFUTED_WITHIN_S: Final = 6.0
"""How long a live and reachable node may be held for dead: until it has heard of it, and been heard."""
PEACE_S: Final = 60.0
STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """`violation` is what does not hold; `datagrams` and `seconds` (simulated): how much there was to it."""

    seed: int
    violation: str | None
    datagrams: int
    seconds: float
    told: tuple[str, ...] = ()


class Story:
    """Everything random comes from the seed, so a story told twice is the same."""

    def __init__(self, seed: int, size: int) -> None:
        self.seed = seed
        self.told: list[str] = []
        self.cluster = Cluster(seed, timing=TIMING)
        self.cluster.on_event = self._saw
        self.cluster.peers = frozenset(f"n{index:03}" for index in range(size))
        self._names = sorted(self.cluster.peers)
        self._down: list[str] = []
        self._wrong: dict[tuple[str, str], float] = {}
        self._whole_since = 0.0
        self._next_ip = 0
        self._choose_clocks()

    def tell(self) -> Outcome:
        random, wire = self.cluster.random, self.cluster.wire
        for name in self._names:
            self.cluster.start(name)
        self.cluster.run(1.0)
        wire.loss = random.choice([0.0, 0.01, 0.05, 0.2])
        wire.duplication = random.choice([0.0, 0.1])
        wire.delay = (0.0002, random.choice([0.002, 0.02, 0.05]))
        self._say(f"loss {wire.loss}, duplication {wire.duplication}, delay up to {wire.delay[1]} s")
        for _ in range(STEPS):
            self._step()
            self.cluster.run(random.uniform(0.0, 1.2))
        return Outcome(self.seed, self._ending(), self.cluster.sent, self.cluster.now, tuple(self.told))

    # -- faults --------------------------------------------------------------------------------------------

    def _choose_clocks(self) -> None:
        random = self.cluster.random
        for name in self._names:
            self.cluster.clocks[name] = Clock(
                random.uniform(0, 1e6), 1 + random.uniform(-1e-3, 1e-3), random.randint(-5000, 5000)
            )

    def _step(self) -> None:
        choose: Callable[[list[str]], str] = self.cluster.random.choice
        up = sorted(self.cluster.nodes)
        match choose(["publish"] * 5 + ["crash", "crash", "restart", "leave", "heal", "cut", "cut one way"]):
            case "publish":
                name = choose(up)
                ips = [self._fresh_ip() for _ in range(self.cluster.random.choice([0, 1, 1, 2, 15]))]
                self._say(f"{name} has {len(ips)} endpoints")
                self.cluster.publish(name, *ips)
            case "crash" if len(up) > len(self._names) // 2:
                self._down.append(choose(up))
                self._say(f"{self._down[-1]} crashes")
                self.cluster.crash(self._down[-1])
            case "leave" if len(up) > len(self._names) // 2:
                self._leave(choose(up))
            case "restart" if self._down:
                name = self._down.pop()
                self._say(f"{name} starts again")
                self.cluster.start(name, published=(signed(name, self._fresh_ip()),))
            case "cut" | "cut one way" as kind:
                self._cut(one_way=kind != "cut")
            case "heal":
                self._say("the wire is whole")
                self._mend()

    def _leave(self, name: str) -> None:
        self._say(f"{name} leaves")
        node = self.cluster.nodes[name]
        node.core.leave(node.clock.read(self.cluster.now))
        self.cluster.settle(node)
        self.cluster.run(0.3)
        self.cluster.crash(name)
        self._down.append(name)

    def _cut(self, *, one_way: bool) -> None:
        part = {name for name in self._names if self.cluster.random.random() < 0.4}
        both = groups(part, self.cluster.peers - part)
        self._say(f"{' '.join(sorted(part))} are cut off" + (", one way" if one_way else ""))
        self.cluster.wire.cut = (lambda s, t: s in part and both(s, t)) if one_way else both

    def _mend(self) -> None:
        if self.cluster.wire.cut is not None:
            self.cluster.wire.cut = None
            self._whole_since = self.cluster.now

    def _fresh_ip(self) -> str:
        self._next_ip += 1
        return f"10.0.{self._next_ip // 250}.{self._next_ip % 250 + 1}"

    # -- what has to hold ----------------------------------------------------------------------------------

    def _ending(self) -> str | None:
        self._mend()
        self.cluster.wire.loss = min(self.cluster.wire.loss, 0.02)
        self._say("peace")
        if not self.cluster.converges(PEACE_S):
            return "not all live nodes see the same members and endpoints"
        self._say("all agree")
        return self._leaks() or self._wrongly_dead() or self._drifted()

    def _drifted(self) -> str | None:
        return None if self.cluster.converges(5.0) else "they agreed, and do not any more"

    def _wrongly_dead(self) -> str | None:
        for (observer, name), since in self._wrong.items():
            if observer in self.cluster.nodes and name in self.cluster.nodes:
                return f"{observer} holds {name} for dead since {since:.1f} s"
        return None

    def _leaks(self) -> str | None:
        """What was for somebody gone, or on its way, is forgotten in time."""
        self.cluster.wire = replace(self.cluster.wire, loss=0.0)
        for _ in range(10):
            self.cluster.run(2.0)
            if (leak := self._leak()) is None:
                return None
        return leak

    def _leak(self) -> str | None:
        live = sum(len(node.published) for node in self.cluster.nodes.values())
        for node in self.cluster.nodes.values():
            sizes = node.core.sizes()
            expected = {"members": len(self.cluster.nodes) - 1, "queued": 0, "entries": live}
            expected |= {name: min(sizes[name], 1) for name in ("probes", "syncs")}
            if sizes != expected:
                return f"{node.name} holds {sizes}, not {expected}"
        return None

    def _saw(self, node: Node, event: Event) -> None:
        now = self.cluster.now
        match event:
            case MemberUp(name):
                since = self._wrong.pop((node.name, name), now)
                began = max(since, self._whole_since)
                if self.cluster.wire.cut is None and now - began > REFUTED_WITHIN_S:
                    self._wrong[node.name, name] = since
            case MemberDown(name):
                if name in self.cluster.nodes:
                    self._wrong[node.name, name] = now
            case _:
                return
        self._say(f"  {node.name}: {event}")

    def _say(self, what: str) -> None:
        self.told.append(f"{self.cluster.now:8.3f}  {what}")


def run(seed: int, size: int = 25) -> Outcome:
    return Story(seed, size).tell()
