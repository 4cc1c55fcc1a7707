"""Clients that read, write and swap registers at once, at any manager, and note what they saw.

A request whose outcome is unknown is mostly sent again with the same id, at another manager, until the
answer is definite: it then counts as one operation, from the first call to the last answer. Sometimes it is
left unknown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.linearizability import Action, CompareAndSwap, Operation, Read, Write
from tests.chaos.register import Different, Missing, Refused, Registers, Unknown, Versioned

CLIENTS: Final = 5
OPERATIONS_A_KEY: Final = 300
_AT_ONCE: Final = 2
_TIMEOUTS_S: Final = (0.4, 0.4, 3.0)
_LONGEST_S: Final = 12.0
_REST_S: Final = (0.002, 0.04)
_AGAIN_S: Final = 0.03


@dataclass
class Notes:
    """What all clients saw: the history of each key, and every version that a value was seen at."""

    histories: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    versions: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    outcomes: Counter[str] = field(default_factory=Counter)
    retried: int = 0

    def add(self, key: str, operation: Operation) -> None:
        self.histories[key].append(operation)

    def saw(self, key: str, seen: Versioned) -> None:
        self.versions[key, seen.value].add(seen.version)

    def repeated(self) -> list[str]:
        """Values that were written more than once: each write has its own value, so each has one version."""
        return [
            f"{value} of {key} has versions {sorted(seen)}"
            for (key, value), seen in self.versions.items()
            if len(seen) > 1
        ]


@dataclass
class Keys:
    """The keys in use, a few at a time; one with a long enough history makes room for a new one."""

    notes: Notes
    used: list[str] = field(default_factory=list)
    _closed: int = 0

    def close(self) -> None:
        """The histories of the keys used so far are complete."""
        self._closed = len(self.used)

    def some(self, choose: random.Random) -> str:
        recent = self.used[self._closed :][-_AT_ONCE:]
        open_keys = [key for key in recent if len(self.notes.histories[key]) < OPERATIONS_A_KEY]
        if len(open_keys) < _AT_ONCE:
            self.used.append(f"k{len(self.used) + 1}")
            open_keys.append(self.used[-1])
        return choose.choice(open_keys)


class Client:
    """Does one operation after the other."""

    def __init__(
        self, name: str, managers: Sequence[Registers], keys: Keys, notes: Notes, choose: random.Random
    ) -> None:
        self._name = name
        self._managers = managers
        self._keys = keys
        self._notes = notes
        self._choose = choose
        self._number = 0
        self._last_seen: dict[str, Versioned] = {}
        self.resting = asyncio.Event()
        """Set by its owner: the client finishes what it does, and then waits for `going`."""

    async def work(self, going: asyncio.Event) -> None:
        while True:
            self.resting.set()
            await going.wait()
            self.resting.clear()
            await self._operate(self._keys.some(self._choose))
            await asyncio.sleep(self._choose.uniform(*_REST_S))

    async def read(self, key: str, manager: Registers) -> None:
        """A read of its own, for the history."""
        called = time.monotonic()
        try:
            seen = await manager.read(key, self._timeout_s())
        except Missing:
            self._done(key, Read(None), called)
        except (Refused, Unknown):
            self._notes.outcomes["read failed"] += 1
        else:
            self._note(key, seen)
            self._done(key, Read(seen.value), called)

    async def _operate(self, key: str) -> None:
        known = self._last_seen.get(key)
        what = self._choose.choices(["read", "write", "swap"], [40, 30, 30])[0]
        if what == "read":
            await self.read(key, self._choose.choice(self._managers))
        elif known is None or self._choose.random() < 0.05:
            await self._create(key)
        elif what == "swap":
            await self._swap(key, known)
        else:
            await self._write(key)

    async def _create(self, key: str) -> None:
        value, id_ = self._fresh()
        await self._change(
            key,
            CompareAndSwap(None, value),
            CompareAndSwap(None, value, swapped=False),
            lambda manager: manager.create(key, value, id_, self._timeout_s()),
        )
        self._last_seen.setdefault(key, Versioned(value, 0))

    async def _write(self, key: str) -> None:
        value, id_ = self._fresh()
        await self._change(
            key, Write(value), None, lambda manager: manager.write(key, value, id_, self._timeout_s())
        )

    async def _swap(self, key: str, known: Versioned) -> None:
        """On the version seen last; where none was seen yet, on whatever a read gives."""
        value, id_ = self._fresh()
        if known.version == 0:
            await self.read(key, self._choose.choice(self._managers))
            return
        await self._change(
            key,
            CompareAndSwap(known.value, value),
            CompareAndSwap(known.value, value, swapped=False),
            lambda manager: manager.write(key, value, id_, self._timeout_s(), known.version),
        )

    async def _change(
        self,
        key: str,
        action: Action,
        refused: Action | None,
        ask: Callable[[Registers], Awaitable[Versioned | None]],
    ) -> None:
        """`refused` is what it was if the register was not as expected."""
        called, unknown = time.monotonic(), False
        patience_s = self._choose.choice([0.0, _LONGEST_S, _LONGEST_S])
        while True:
            try:
                seen = await ask(self._choose.choice(self._managers))
            except Different:
                assert refused is not None
                return self._done(key, refused, called)
            except Missing:
                self._done(key, Read(None), called)
                return self._left_unknown(key, action, called) if unknown else None
            except Refused:
                if not unknown:
                    self._notes.outcomes["refused"] += 1
                    return None
            except Unknown:
                unknown = True
            else:
                if seen is not None:
                    self._note(key, seen)
                self._notes.retried += unknown
                return self._done(key, action, called)
            if time.monotonic() - called > patience_s:
                return self._left_unknown(key, action, called)
            await asyncio.sleep(_AGAIN_S)

    def _left_unknown(self, key: str, action: Action, called: float) -> None:
        self._notes.outcomes["unknown"] += 1
        self._notes.add(key, Operation(action, called, client=self._name))

    def _note(self, key: str, seen: Versioned) -> None:
        self._last_seen[key] = seen
        self._notes.saw(key, seen)

    def _done(self, key: str, action: Action, called: float) -> None:
        self._notes.outcomes["ok"] += 1
        self._notes.add(key, Operation(action, called, time.monotonic(), self._name))

    def _timeout_s(self) -> float:
        """Mostly short, to do much; sometimes long enough for the answer of a manager that was stopped."""
        return self._choose.choice(_TIMEOUTS_S)

    def _fresh(self) -> tuple[str, str]:
        """A value that nobody else writes, and the id of the request that does."""
        self._number += 1
        return f"{self._name}.{self._number}", f"{self._name}-{self._number}"
