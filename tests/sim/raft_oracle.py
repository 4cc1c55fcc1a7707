"""What must hold of a cluster of managers, checked whenever one of them did something."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tests.sim.raft_world import World

from swarmnet.manager.raft.entries import Entry
from swarmnet.manager.raft.journal import Journal

_STATE: Final = struct.Struct("<QQI")


@dataclass(slots=True)
class State:
    """A state machine: where it stands, and a digest of all that it applied, in order."""

    index: int = 0
    count: int = 0
    digest: int = 0

    def encode(self) -> bytes:
        """As a snapshot, with some ballast."""
        return _STATE.pack(self.index, self.count, self.digest) + bytes(self.count % 300)

    @classmethod
    def decode(cls, encoded: bytes) -> State:
        return cls(*_STATE.unpack_from(encoded)) if encoded else cls()


class Oracle:
    """Knows what any manager ever led, committed, applied or told a client."""

    def __init__(self, world: World) -> None:
        self.shown_index = 0
        self.acknowledged: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        self.durable: dict[str, dict[int, int]] = {}
        self._world = world
        self._leaders: dict[int, str] = {}
        self._entries: dict[tuple[int, int], bytes] = {}
        self._committed: dict[int, tuple[int, int]] = {}  # index: its term, the term in which it was heard
        self._applied: dict[int, tuple[bytes, int, int]] = {}
        self._places: dict[bytes, int] = {}

    # What a manager did

    def leads(self, name: str, term: int, journal: Journal) -> None:
        """One leader a term, and it has all that was committed in earlier terms."""
        known = self._leaders.setdefault(term, name)
        if known != name:
            self._world.fail(f"{known} and {name} both lead in term {term}")
        for index, (entry_term, in_term) in self._committed.items():
            if in_term < term and index >= journal.first.index and journal.term_at(index) != entry_term:
                self._world.fail(f"{name} leads in term {term} without the committed entry {index}")

    def appended(self, name: str, entry: Entry) -> None:
        """What has the same index and term is the same."""
        command, index, term = entry
        if self._entries.setdefault((index, term), command) != command:
            self._world.fail(f"{name} has another entry {index} of term {term}")

    def synced(self, name: str, journal: Journal) -> None:
        """Remember what is on this manager's disk."""
        durable = self.durable.setdefault(name, {})
        for entry in reversed(journal.entries):
            if durable.get(entry[1]) == entry[2]:
                break
            durable[entry[1]] = entry[2]
        for index in range(journal.last.index + 1, max(durable, default=0) + 1):
            durable.pop(index, None)

    def committed(
        self,
        name: str,
        journal: Journal,
        indexes: range,
        *,
        in_term: int,
        leads: bool,
        members: Collection[Collection[str]],
    ) -> None:
        """An entry is committed for good, and by a leader only once it is on a majority's disks.

        `members`: who they were before this step, and after it.
        """
        for index in indexes:
            term = journal.term_at(index)
            if term is None:
                if index > journal.last.index:
                    self._world.fail(f"{name} commits entry {index}, which it does not have")
                continue
            if index not in self._committed and leads:
                self._check_majority(name, index, term, members)
            known, _ = self._committed.setdefault(index, (term, in_term))
            if known != term:
                self._world.fail(f"entry {index} of term {known} was committed; {name} has term {term}")

    def applied(self, name: str, state: State, index: int, command: bytes) -> None:
        """Everybody applies the same commands at the same places, each once."""
        if index <= state.index:
            self._world.fail(f"{name} applies {index} after {state.index}")
        if self._places.setdefault(command, index) != index:
            self._world.fail(f"{name} applies {command[:12]!r} twice: {self._places[command]}, {index}")
        state.index, state.count = index, state.count + 1
        state.digest = zlib.crc32(command, state.digest)
        known = self._applied.setdefault(index, (command, state.count, state.digest))
        if known != (command, state.count, state.digest):
            self._world.fail(f"{name} applies {command[:12]!r} at {index}, others {known[0][:12]!r}")

    def restored(self, name: str, state: State) -> None:
        known = self._applied.get(state.index, (b"", 0, 0))
        if known[1:] != (state.count, state.digest):
            self._world.fail(f"{name} restores a state of {state.index} that nobody had")

    # What a client was told

    def told_done(self, command: bytes, applied_index: int) -> None:
        place = self._places.get(command)
        if place is None or place > applied_index:
            self._world.fail(f"{command[:12]!r} is acknowledged, but was not applied")
            return
        self.acknowledged[command] = place
        self.shown_index = max(self.shown_index, place)

    def told_refused(self, command: bytes) -> None:
        self.refused.add(command)

    def read(self, name: str, state: State, floor: int) -> None:
        """A read sees all that anybody was shown before it was asked for."""
        if state.index < floor:
            self._world.fail(f"{name} answers a read from {state.index}; {floor} was shown before")
        self.shown_index = max(self.shown_index, state.index)

    def at_the_end(self, states: Mapping[str, State]) -> None:
        """All managers are alike; what was acknowledged is there, what was refused is not."""
        if len({(each.index, each.count, each.digest) for each in states.values()}) != 1:
            self._world.fail(f"the managers differ: {states}")
        end = next(iter(states.values())).index
        for command, place in self.acknowledged.items():
            if place > end or self._applied[place][0] != command:
                self._world.fail(f"{command[:12]!r} was acknowledged, and is lost")
        if (made := [each for each in self.refused if each in self._places]) != []:
            self._world.fail(f"{made[0][:12]!r} was refused for good, and was done")

    def _check_majority(self, name: str, index: int, term: int, members: Collection[Collection[str]]) -> None:
        holders = {each for each, durable in self.durable.items() if durable.get(index) == term}
        if not any(2 * len(holders.intersection(each)) > len(each) for each in members):
            self._world.fail(f"{name} commits entry {index}, on the disks of {holders} of {members}")
