"""The way from Raft's thread to the event loop, where the state machine lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft.compaction import Encode
from swarmnet.manager.raft.member import Member

log = structlog.get_logger()

Act = Callable[[], None]


class StateMachine(Protocol):
    """What is replicated. All is called on the event loop; what `freeze` returns, on another thread."""

    def apply(self, index: int, command: bytes) -> object:
        """Deterministic. If it raises, the command counts as applied and changed nothing."""

    def freeze(self) -> Callable[[], bytes]: ...
    def restore(self, snapshot: bytes) -> None: ...


class Outlet(Protocol):
    """The other side. But for `transmit`, all is called on the event loop, in the order it happened."""

    def transmit(self, messages: list[tuple[str, raft.RaftMessage]]) -> None:
        """On the engine's thread: send these, in order, now."""

    def apply(self, index: int, command: bytes) -> None: ...
    def restore(self, state: bytes) -> None: ...
    def freeze(self, done: Callable[[Encode], None]) -> None: ...
    def elected(self, leads: bool) -> None:
        """True once this manager leads and has applied all that was committed before; False after."""

    def view(
        self, leader_id: str | None, members: Mapping[str, Member], acquaintances: Mapping[str, Member]
    ) -> None:
        """Who leads; who the members are; who else is to be spoken with (acquaintances.py)."""

    def failed_with(self, error: Exception) -> None:
        """The engine stopped: nothing more will come, nothing more may be promised."""


class Results:
    """What happened in a step, to be done on the loop in that order. `hand_over` has a call made there."""

    def __init__(self, hand_over: Callable[[Act], None], failed: Callable[[Exception], None]) -> None:
        self._hand_over = hand_over
        self._failed = failed
        self._acts: list[Act] = []
        self._broken = False

    def add(self, act: Act) -> None:
        self._acts.append(act)

    def flush(self) -> None:
        if self._acts:
            acts, self._acts = self._acts, []
            self._hand_over(partial(self._deliver, acts))

    def _deliver(self, acts: list[Act]) -> None:
        """On the loop. Once one cannot be taken there, none after it may be: the order is the meaning."""
        if self._broken:
            return
        try:
            for act in acts:
                act()
        except Exception as error:
            log.exception("what Raft agreed on could not be taken over")
            self._broken = True
            self._failed(error)
