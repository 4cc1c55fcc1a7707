"""A rotation of keys on its way through its three steps, for every scope that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.follow import later
from swarmnet.cli.manager import Manager

_STEPS: Final[Mapping[types.RotationPhase.ValueType, str]] = {
    types.ROTATION_PHASE_STABLE: "waiting to start",
    types.ROTATION_PHASE_PREPARE: "prepare: every node installs epoch {newest}",
    types.ROTATION_PHASE_SWITCH: "switch: every node sends with epoch {newest}",
    types.ROTATION_PHASE_RETIRE: "retire: every node drops epoch {oldest}",
}


def list_keys(manager: Manager) -> dict[str, control_pb2.KeyView]:
    """Every scope by its id."""
    request = control_pb2.ListKeysRequest()
    answer = manager.call(lambda control: control.ListKeys, request, repeatable=True)
    return {view.scope.meta.id: view for view in answer.keys}


def current_epoch(scope: types.KeyScope) -> int:
    """The epoch that senders use, 0 for none."""
    return max((each.number for each in scope.epochs if each.role == types.EPOCH_ROLE_CURRENT), default=0)


class Rotation:
    """Done when every scope has a newer current epoch than before, and no step is left to do.

    A rotation asked for while another one was in progress follows it: `again` stays set until it starts.
    """

    kinds = (control_pb2.OBJECT_KIND_KEY_SCOPE,)

    def __init__(self, scope_ids: Iterable[str], before: Mapping[str, control_pb2.KeyView]) -> None:
        self._before = {
            id_: current_epoch(before[id_].scope) if id_ in before else 0 for id_ in sorted(scope_ids)
        }
        self._names = {id_: view.name for id_, view in before.items()}
        self._scopes: dict[str, types.KeyScope] = {}

    def load(self, manager: Manager) -> None:
        views = list_keys(manager)
        self._names.update({id_: view.name for id_, view in views.items()})
        self._scopes = {id_: view.scope for id_, view in views.items()}

    def absorb(self, event: control_pb2.WatchEvent) -> None:
        if event.action == control_pb2.WatchEvent.REMOVED:
            self._scopes.pop(event.key_scope.meta.id, None)
        else:
            known = self._scopes.get(event.key_scope.meta.id)
            self._scopes[event.key_scope.meta.id] = later(known, event.key_scope)

    def done(self) -> bool:
        return all(map(self._rotated, self._before))

    def lines(self, *, bars: bool) -> list[str]:
        del bars
        ready = sum(map(self._rotated, self._before))
        steps = (f"{self._names.get(id_, id_)}: {self._step(id_)}" for id_ in self._before)
        return [f"overall progress: {ready} out of {len(self._before)} scopes", *steps]

    def _rotated(self, scope_id: str) -> bool:
        scope = self._scopes.get(scope_id)
        if scope is None:  # its network is gone, and its keys with it
            return True
        stable = scope.phase == types.ROTATION_PHASE_STABLE and not scope.again
        return stable and current_epoch(scope) > self._before[scope_id]

    def _step(self, scope_id: str) -> str:
        scope = self._scopes.get(scope_id)
        if scope is None:
            return "removed"
        if self._rotated(scope_id):
            return f"done: epoch {current_epoch(scope)} is in use"
        numbers = [each.number for each in scope.epochs] or [0]
        return _STEPS[scope.phase].format(newest=max(numbers), oldest=min(numbers))
