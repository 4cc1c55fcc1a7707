"""What docker tells of a swarm's objects: created, updated, removed; and new tokens and roots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.events import Told

if TYPE_CHECKING:
    from swarmnet.core.state import Event


def tell_object(told: Told, change: Event) -> None:
    """Add what there is to tell of one object, if anything."""
    if change.kind is store.ClusterSecrets:
        _tell_tokens(told, change.old, change.new)
    if change.kind is types.Cluster:
        _tell_root(told, change.old, change.new)
    if (named := _NAMED.get(change.kind)) is None:
        return
    type_, name_of = named
    found: Any = change.new if change.new is not None else change.old
    about = (found.meta.id, name_of(found), 0)
    if change.old is None or change.new is None:
        told.add(type_, "create" if change.old is None else "remove", about)
    elif (changed := _CHANGED[change.kind](change.old, change.new)) is not None:
        told.add(type_, "update", about, **changed)


def _node_changed(old: types.Node, new: types.Node) -> Mapping[str, str] | None:
    """Only what operators and the managers change of it."""
    found = dict(_words("availability", types.Availability, old.availability, new.availability))
    found |= _words("role", types.Role, old.role, new.role)
    found |= _words("state", types.NodeState, old.state, new.state)
    same = old.hostname == new.hostname and old.labels == new.labels
    return None if same and not found else found


def _words(what: str, enum: Any, old: int, new: int) -> Iterator[tuple[str, str]]:
    """`state.old` and `state.new`, as docker has it, if they differ."""
    if old != new:
        for when, value in (("old", old), ("new", new)):
            yield f"{what}.{when}", enum.Name(value).rpartition("_")[2].lower()


def _service_changed(old: types.Service, new: types.Service) -> Mapping[str, str] | None:
    if old.spec.replicas != new.spec.replicas:
        return {"replicas.old": str(old.spec.replicas), "replicas.new": str(new.spec.replicas)}
    return None if old.spec == new.spec else {}


def _config_changed(old: types.Config, new: types.Config) -> Mapping[str, str] | None:
    return None if old.labels == new.labels else {}


def _no_change(old: object, new: object) -> None:
    """What else changes of these is the managers' own bookkeeping."""


def _tell_tokens(told: Told, old: Any, new: Any) -> None:
    if old is None or new is None:
        return
    for role in ("worker", "manager"):
        if getattr(old, f"{role}_token_secret") != getattr(new, f"{role}_token_secret"):
            told.add(types.EVENT_TYPE_SWARM, "join-token-rotate", (new.meta.id, "", 0), role=role)


def _tell_root(told: Told, old: Any, new: Any) -> None:
    if old is not None and new is not None and old.root_digest != new.root_digest:
        told.add(types.EVENT_TYPE_SWARM, "root-rotate", (new.meta.id, "", 0), digest=new.root_digest)


_NAMED: Final[Mapping[type[Message], tuple[types.EventType.ValueType, Callable[[Any], str]]]] = {
    types.Node: (types.EVENT_TYPE_NODE, lambda node: node.hostname),
    types.Network: (types.EVENT_TYPE_NETWORK, lambda network: network.name),
    types.Service: (types.EVENT_TYPE_SERVICE, lambda service: service.spec.name),
    types.Config: (types.EVENT_TYPE_CONFIG, lambda config: config.name),
}
_CHANGED: Final[Mapping[type[Message], Callable[[Any, Any], Mapping[str, str] | None]]] = {
    types.Node: _node_changed,
    types.Network: _no_change,
    types.Service: _service_changed,
    types.Config: _config_changed,
}
