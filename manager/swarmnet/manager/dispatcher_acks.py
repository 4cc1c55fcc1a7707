"""What the workers say they have of each scope's keys. Volatile: they tell a new leader again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.rotation import Report
from swarmnet.core.state import State
from swarmnet.manager.entitlement import entitled, up

_NONE: Final[Mapping[str, Report]] = {}


class Acknowledgements:
    """The latest report of every node. `on_change` is called after each new one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._scopes: dict[str, frozenset[str]] = {}
        """By node, what it reported on."""
        self._reports: dict[str, Mapping[str, Report]] = {}
        """By scope, then by node. Each is replaced, never changed: who has looked at one knows it again."""
        self.on_change: Callable[[], None] = _nobody_listens

    def put(self, node_id: str, report: dispatcher.KeyReport) -> None:
        """Replace the node's report. Scopes that do not exist are left out: it cannot grow at will."""
        told = {
            each.scope: Report(frozenset(each.installed), each.sending, each.exhausted, each.error)
            for each in report.scopes
            if self._state.get(types.KeyScope, each.scope) is not None
        }
        for scope_id in self._scopes.get(node_id, frozenset()) - told.keys():
            self._drop(scope_id, node_id)
        for scope_id, its in told.items():
            before = self.of(scope_id)
            if before.get(node_id) != its:
                self._reports[scope_id] = {**before, node_id: its}
        self._scopes[node_id] = frozenset(told)
        self.on_change()

    def forget(self, node_id: str) -> None:
        """The node starts a session: what it had before counts no more."""
        for scope_id in self._scopes.pop(node_id, ()):
            self._drop(scope_id, node_id)

    def clear(self) -> None:
        self._scopes.clear()
        self._reports.clear()

    def of(self, scope_id: str) -> Mapping[str, Report]:
        """Node id -> its report on the scope, of the nodes that told one."""
        return self._reports.get(scope_id, _NONE)

    def waiting_for(self, scope_id: str) -> tuple[str, ...]:
        """Ids of the nodes, none of them down, that have not acknowledged the step in progress."""
        scope = self._state.get(types.KeyScope, scope_id)
        if scope is None or scope.phase == rotation.STABLE:
            return ()
        nodes = (self._state.get(types.Node, node_id) for node_id in entitled(self._state, scope_id))
        waited_on = up(node for node in nodes if node is not None)
        return tuple(sorted(rotation.waiting_for(scope, waited_on, self.of(scope_id))))

    def _drop(self, scope_id: str, node_id: str) -> None:
        others = {node: report for node, report in self._reports.pop(scope_id).items() if node != node_id}
        if others:
            self._reports[scope_id] = others


def _nobody_listens() -> None:
    pass
