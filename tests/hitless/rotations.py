"""Rotations back to back: all scopes are asked to rotate again as soon as all have done so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from tests.hitless.swarm import Broken, Swarm

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation

PATIENCE_S: Final = 420.0
"""Above the deadline after which a straggler is fenced: a rotation that takes longer is stuck."""
_PAUSE_S: Final = 0.25

Scopes = Mapping[str, types.KeyScope]


class Rotations:
    """One rotation is one network's keys taken through all steps, to STABLE. Gossip's rotate beside them."""

    def __init__(self, swarm: Swarm, networks: frozenset[str], note: Callable[[str], None]) -> None:
        self._swarm = swarm
        self._networks = networks
        self._note = note
        self._seen: dict[str, str] = {}
        self._news_at = 0.0
        self.done = 0
        self.of_gossip = 0
        self.seconds: list[float] = []
        """From each request until all scopes had rotated."""
        self.most_epochs = 0
        """That any scope had, by the managers' word."""

    def run(self, count: int, tell: Callable[[int], None] = lambda done: None) -> int:
        """Until at least that many more are done. Returns how many were."""
        start = self.done
        while self.done - start < count:
            self._round()
            tell(self.done - start)
        return self.done - start

    def _round(self) -> None:
        before = self._swarm.keys()
        asked_at = self._news_at = time.monotonic()
        self._swarm.rotate()
        while not _all_rotated(before, after := self._swarm.keys()):
            self._look_at(after)
            if time.monotonic() - self._news_at > PATIENCE_S:
                raise Broken(f"rotations do not go on; waiting for {self._swarm.waiting_for()}")
            time.sleep(_PAUSE_S)
        self._look_at(after)
        self.seconds.append(time.monotonic() - asked_at)
        done = {id_: _epoch(after[id_]) - _epoch(scope) for id_, scope in before.items()}
        self.done += sum(done[each] for each in self._networks)
        self.of_gossip += sum(n for id_, n in done.items() if id_ not in self._networks)

    def _look_at(self, scopes: Scopes) -> None:
        for id_, scope in scopes.items():
            self.most_epochs = max(self.most_epochs, len(scope.epochs))
            phase = types.RotationPhase.Name(scope.phase).removeprefix("ROTATION_PHASE_").lower()
            seen = f"{phase} of epoch {max(each.number for each in scope.epochs)} of {id_[:6]}"
            if self._seen.get(id_) != seen:
                self._seen[id_], self._news_at = seen, time.monotonic()
                self._note(seen)


def at_rest(scopes: Scopes) -> bool:
    """Whether none rotates, or is to."""
    return all(scope.phase == rotation.STABLE and not scope.again for scope in scopes.values())


def _all_rotated(before: Scopes, after: Scopes) -> bool:
    return at_rest(after) and all(_epoch(after[id_]) > _epoch(scope) for id_, scope in before.items())


def _epoch(scope: types.KeyScope) -> int:
    return rotation.number_of(scope, types.EPOCH_ROLE_CURRENT)
