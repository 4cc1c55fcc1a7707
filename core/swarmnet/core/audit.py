"""The events that a change of the state is: derived while it is applied, and so as certain as the change.

    Audit(state)       before: what the nodes concerned are entitled to
      ... the changes are made ...
    .events(changes)   after: what happened, alike things together

Nothing here decides anything; whoever changes the state need not know that there are events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.audit_objects import tell_object
from swarmnet.core.entitlement import entitled, scopes_of
from swarmnet.core.events import Subject, Told
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.placement import is_on_node

if TYPE_CHECKING:
    from swarmnet.core.state import Event, State

_KEY: Final = types.EVENT_TYPE_KEY
_UNNAMED: Final = "requested"


class Audit:
    """Of one command. `changes`: the objects as they will be, before they are."""

    def __init__(self, state: State, changes: Sequence[store.Change]) -> None:
        self._state = state
        self._nodes = set(_nodes_concerned(state, changes))
        self._before = self._held()

    def _held(self) -> Mapping[str, frozenset[str]]:
        return {node_id: scopes_of(self._state, node_id) for node_id in self._nodes}

    def events(self, changes: Sequence[Event]) -> Sequence[types.Event]:
        """Without ids and times."""
        told = Told()
        scopes = {_id_of(each): each for each in changes if each.kind is types.KeyScope}
        nodes = {_id_of(each): each for each in changes if each.kind is types.Node}
        gained = self._tell_entitlement(told, nodes)
        for change in scopes.values():
            _tell_scope(told, self._state, change, gained)
        for change in changes:
            tell_object(told, change)
        return list(told.events.values())

    def _tell_entitlement(self, told: Told, nodes: Mapping[str, Event]) -> set[tuple[str, str]]:
        """Returns the (scope, node) that are new."""
        after, gained = self._held(), set()
        for node_id in sorted(self._nodes):
            change = nodes.get(node_id)
            for scope_id in sorted(after[node_id] - self._before[node_id]):
                gained.add((scope_id, node_id))
                for subject in self._live(scope_id):
                    told.add(_KEY, "issue", subject, (node_id,), _why_gained(change, scope_id))
            action, why = _why_lost(change)
            for scope_id in sorted(self._before[node_id] - after[node_id]):
                for subject in self._live(scope_id):
                    told.add(_KEY, action, subject, (node_id,), why)
        return gained

    def _live(self, scope_id: str) -> Iterator[Subject]:
        scope = self._state.get(types.KeyScope, scope_id)
        name = _name_of(self._state, scope_id)
        return ((scope_id, name, epoch.number) for epoch in (scope.epochs if scope is not None else ()))


def _nodes_concerned(state: State, changes: Sequence[store.Change]) -> Iterator[str]:
    """Those whose entitlement may change. What only moves on in its task's life has none."""
    for change in changes:
        kind = change.WhichOneof("object")
        if kind == "node":
            yield change.node.meta.id
        elif kind == "task":
            old = state.get(types.Task, change.task.meta.id)
            was = old.node_id if old is not None and is_on_node(old) else ""
            will_be = change.task.node_id if not change.remove and is_on_node(change.task) else ""
            if was != will_be:
                yield from filter(None, (was, will_be))


def _id_of(change: Event) -> str:
    found = change.new if change.new is not None else change.old
    assert found is not None, "a change without an object"
    return found.meta.id


def _name_of(state: State, scope_id: str) -> str:
    network = None if scope_id == GOSSIP_SCOPE else state.get(types.Network, scope_id)
    return network.name if network is not None else scope_id


def _why_gained(change: Event | None, scope_id: str) -> str:
    if change is None:
        return "task assigned"
    if change.old is None:
        return "node joined"
    return "node is a worker" if scope_id == GOSSIP_SCOPE else "task assigned"


def _why_lost(change: Event | None) -> tuple[str, str]:
    """(action, reason)"""
    if change is None:
        return "withdraw", "last task ended"
    if change.new is None:
        return "withdraw", "node removed"
    node = cast("types.Node", change.new)
    if node.fenced:
        return "fence", node.message or "fenced"
    if node.role == types.ROLE_MANAGER:
        return "withdraw", "node promoted"
    return "withdraw", "node drained by force" if node.drained_by_force else "last task ended"


def _tell_scope(told: Told, state: State, change: Event, gained: set[tuple[str, str]]) -> None:
    old, new = cast("types.KeyScope | None", change.old), cast("types.KeyScope | None", change.new)
    scope_id = _id_of(change)
    name = _name_of(state, scope_id)
    reason = _reason(old, new)
    before = {each.number for each in old.epochs} if old is not None else set()
    after = {each.number for each in new.epochs} if new is not None else set()
    for number in sorted(after - before):
        told.add(_KEY, "create", (scope_id, name, number), (), reason)
        if nodes := [n for n in entitled(state, scope_id) if (scope_id, n) not in gained]:
            told.add(_KEY, "issue", (scope_id, name, number), nodes, reason)
    if old is not None and new is not None:
        current = _current(new)
        if current != _current(old):
            told.add(_KEY, "switch", (scope_id, name, current), (), reason)
        if new.phase == types.ROTATION_PHASE_RETIRE != old.phase:
            up = [n for n in entitled(state, scope_id) if _is_up(state, n)]
            told.add(_KEY, "acknowledge", (scope_id, name, current), up, reason)
        if new.again and not old.again:
            told.add(_KEY, "rotate", (scope_id, name, current), (), reason or _UNNAMED)
    for number in sorted(before - after):
        told.add(_KEY, "retire", (scope_id, name, number), (), reason)


def _reason(old: types.KeyScope | None, new: types.KeyScope | None) -> str:
    if old is None:
        return "swarm created" if new is not None and new.meta.id == GOSSIP_SCOPE else "network created"
    if new is None:
        return "network removed"
    if not {each.number for each in old.epochs} & {each.number for each in new.epochs}:
        return "swarm recovered"
    return new.reason or old.reason


def _current(scope: types.KeyScope) -> int:
    return next((each.number for each in scope.epochs if each.role == types.EPOCH_ROLE_CURRENT), 0)


def _is_up(state: State, node_id: str) -> bool:
    node = state.get(types.Node, node_id)
    return node is not None and node.state != types.NODE_STATE_DOWN
