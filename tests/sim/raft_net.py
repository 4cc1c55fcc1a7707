"""The managers' network in memory: a stream per direction and pair, as wire.py keeps them.

A stream delivers in order or breaks, and takes what is under way along. A harsh network does what wire.py
rules out, too: it reorders, doubles, and delivers from streams long broken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final, Protocol

from tests.sim.raft_world import World

from swarmnet.api.v1 import raft_pb2 as raft

_RETRY_S: Final = (0.02, 0.3)
_STALE_S: Final = 2.0


class Host(Protocol):
    """A running manager."""

    name: str

    def knows(self, peer: str) -> bool:
        """Whether that is a member, as far as it has heard."""

    def connected(self, peer: str) -> None: ...
    def disconnected(self, peer: str, *, refused: bool) -> None: ...
    def received(self, peer: str, message: raft.RaftMessage) -> None: ...


@dataclass(slots=True)
class Weather:
    """Seconds; probabilities of each message."""

    delay: tuple[float, float] = (0.0003, 0.002)
    spike: float = 0.0
    spike_s: float = 0.5
    disorder: float = 0.0
    doubled: float = 0.0
    stale: float = 0.0
    patience: tuple[float, float] = (0.2, 3.0)
    """How long a stream lasts on which nothing gets through."""


@dataclass(slots=True)
class _Link:
    """The stream from one manager to another."""

    up: bool = False
    session: int = 0
    free_at: float = 0.0
    held: list[raft.RaftMessage] = field(default_factory=list)


class Network:
    def __init__(self, world: World, weather: Weather, names: Iterable[str]) -> None:
        self.weather = weather
        self.hosts: dict[str, Host] = {}
        self._world = world
        self._links = {pair: _Link() for pair in permutations(names, 2)}
        self._blocked: set[tuple[str, str]] = set()

    # The managers' side

    def joined(self, host: Host) -> None:
        """It runs now; it dials all the others, and hears of those that are its members."""
        self.hosts[host.name] = host
        for source, target in self._links:
            if source == host.name:
                self._dial(source, target)

    def gone(self, name: str) -> None:
        """It crashed: its streams end at once, those to it when their senders notice."""
        del self.hosts[name]
        for (source, target), link in self._links.items():
            if source == name:
                self._end(link)
            elif target == name and link.up:
                self._later((0.0, 0.01), source, target, link.session)

    def placed(self, source: str) -> None:
        """Its members changed: keep a stream to each, and to no others."""
        for target in {each for one, each in self._links if one == source}:
            if not self.hosts[source].knows(target):
                self._break(source, target, refused=False)

    def send(self, source: str, target: str, message: raft.RaftMessage) -> None:
        link = self._links[source, target]
        if not link.up:
            return
        if (source, target) in self._blocked:
            link.held.append(message)
        else:
            self._carry(source, target, link, message)

    # The faults' side

    def block(self, source: str, target: str) -> None:
        """Nothing gets through that way; in time the stream is given up."""
        if (source, target) not in self._blocked:
            self._blocked.add((source, target))
            if (link := self._links[source, target]).up:
                self._later(self.weather.patience, source, target, link.session)

    def heal(self) -> None:
        blocked, self._blocked = self._blocked, set()
        for source, target in sorted(blocked):
            if (link := self._links[source, target]).up:
                for message in link.held:
                    self._carry(source, target, link, message)
                link.held.clear()

    # Inside

    def _dial(self, source: str, target: str) -> None:
        """Try to open the stream, again and again while `source` runs."""
        link = self._links[source, target]
        session = link.session
        self._world.after(
            self._world.random.uniform(*_RETRY_S), lambda: self._try(source, target, link, session)
        )

    def _try(self, source: str, target: str, link: _Link, session: int) -> None:
        if source not in self.hosts or link.up or link.session != session:
            return
        here, there = self.hosts[source], self.hosts.get(target)
        open_ways = self._blocked.isdisjoint(((source, target), (target, source)))
        if there is None or not open_ways or not here.knows(target) or not there.knows(source):
            self._dial(source, target)
            return
        link.up = True
        link.free_at = self._world.now
        here.connected(target)

    def _carry(self, source: str, target: str, link: _Link, message: raft.RaftMessage) -> None:
        weather, world = self.weather, self._world
        delay = world.random.uniform(*weather.delay)
        if weather.spike and world.chance(weather.spike):
            delay += world.random.uniform(0.0, weather.spike_s)
        arrival = world.now + delay
        if not (weather.disorder and world.chance(weather.disorder)):
            arrival = link.free_at = max(arrival, link.free_at)
        session = link.session
        world.at(arrival, lambda: self._arrive(source, target, link, session, message))
        if weather.doubled and world.chance(weather.doubled):
            again = arrival + world.random.uniform(0.0, _STALE_S)
            world.at(again, lambda: self._arrive(source, target, link, session, message))

    def _arrive(self, source: str, target: str, link: _Link, session: int, message: raft.RaftMessage) -> None:
        host = self.hosts.get(target)
        if host is None:
            return
        if link.session != session and not (self.weather.stale and self._world.chance(self.weather.stale)):
            return
        if host.knows(source):
            host.received(source, message)
        elif link.session == session:
            self._break(source, target, refused=True)

    def _later(self, within: tuple[float, float], source: str, target: str, session: int) -> None:
        """Break the stream after a while, unless it is another one by then or all is well again."""
        link = self._links[source, target]

        def broken() -> None:
            hopeless = target not in self.hosts or (source, target) in self._blocked
            if link.session == session and link.up and hopeless:
                self._break(source, target, refused=False)

        self._world.after(self._world.random.uniform(*within), broken)

    def _break(self, source: str, target: str, *, refused: bool) -> None:
        link = self._links[source, target]
        if not link.up:
            return
        self._end(link)
        if (host := self.hosts.get(source)) is not None:
            host.disconnected(target, refused=refused)
            self._dial(source, target)

    def _end(self, link: _Link) -> None:
        link.up = False
        link.session += 1
        link.held.clear()
