"""Follow something that the swarm does until it is done, and show it; no polling, no trust in one manager.

The watch stands before the state is read, so that no change falls between the two. When the stream breaks, as
it does when its manager dies, both are done again with the next manager.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final, Protocol, TextIO, TypeVar

from swarmnet.cli.manager import Manager
from swarmnet.core.errors import OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from swarmnet.api.v1 import control_pb2
    from swarmnet.api.v1 import types_pb2 as types

VersionedT = TypeVar(
    "VersionedT", "types.Service", "types.Task", "types.KeyScope", "types.Cluster", "types.Node"
)

RETRY_DELAYS_S: Final = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Longer than managers take to choose a new leader; after the last the operator is told."""


class Followed(Protocol):
    """Something in progress: how to read it, how a change changes it, and how it looks."""

    @property
    def kinds(self) -> Sequence[control_pb2.ObjectKind.ValueType]:
        """What to watch."""

    def load(self, manager: Manager) -> None:
        """Read the state as it is."""

    def absorb(self, event: control_pb2.WatchEvent) -> None:
        """Take a change in."""

    def done(self) -> bool: ...

    def lines(self, *, bars: bool) -> list[str]:
        """The state in lines; each keeps its place. Bars are for terminals."""


def follow(manager: Manager, followed: Followed, out: TextIO | None) -> None:
    """Show it until it is done; without `out`, just wait. Unavailable when no manager answers any more."""
    screen = Screen(out)
    failures = 0
    while True:
        try:
            with closing(manager.watch(followed.kinds)) as events:
                followed.load(manager)
                screen.show(followed)
                while not followed.done():
                    followed.absorb(next(events))
                    failures = 0
                    screen.show(followed)
                return
        except (Unavailable, OutcomeUnknown):
            if failures == len(RETRY_DELAYS_S):
                raise
        time.sleep(RETRY_DELAYS_S[failures])
        failures += 1
        manager.leave_endpoint()


def later(known: VersionedT | None, told: VersionedT) -> VersionedT:
    """Of an object read and one told of: changes from between the watch's start and the reading come late."""
    return known if known is not None and known.meta.version > told.meta.version else told


class Screen:
    """Redraws its lines in place on a terminal; elsewhere it writes those that changed."""

    def __init__(self, out: TextIO | None) -> None:
        self._out = out
        self._terminal = out is not None and out.isatty()
        self._shown: list[str] = []

    def show(self, followed: Followed) -> None:
        if self._out is None or (lines := followed.lines(bars=self._terminal)) == self._shown:
            return
        self._out.writelines(self._redrawn(lines) if self._terminal else self._changed(lines))
        self._out.flush()
        self._shown = lines

    def _redrawn(self, lines: Sequence[str]) -> Iterator[str]:
        width = shutil.get_terminal_size().columns - 1
        if self._shown:
            yield f"\x1b[{len(self._shown)}A"
        yield "\x1b[J"
        yield from (f"{line[:width]}\n" for line in lines)

    def _changed(self, lines: Sequence[str]) -> Iterator[str]:
        return (f"{line}\n" for i, line in enumerate(lines) if self._shown[i : i + 1] != [line])
