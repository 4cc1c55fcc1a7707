"""The replicated state: typed tables, and commands that change them the same way everywhere.

A transaction reads the tables, decides, and collects changes; what it read becomes the command's
preconditions. The command goes through Raft's log. Applying it checks the preconditions first and is all or
nothing, so whatever happened between deciding and applying, either the decision still stands or nothing
changed (optimistic concurrency).

Messages in the tables are never modified, only replaced: a reader may keep one as long as it likes, and a
snapshot is a shallow copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.audit import Audit
from swarmnet.core.events import Kept, event_id
from swarmnet.core.placement import Placement
from swarmnet.core.secrecy import secrets_in

Object: TypeAlias = (
    types.Cluster
    | types.Node
    | types.Network
    | types.Config
    | types.Service
    | types.Task
    | types.KeyScope
    | store.ClusterSecrets
    | store.ScopeSecrets
    | types.Event
)
M = TypeVar("M", bound=Object)

TABLES: Final[Mapping[type[Message], str]] = {
    types.Cluster: "cluster",
    types.Node: "node",
    types.Network: "network",
    types.Config: "config",
    types.Service: "service",
    types.Task: "task",
    types.KeyScope: "key_scope",
    store.ClusterSecrets: "cluster_secrets",
    store.ScopeSecrets: "scope_secrets",
    types.Event: "event",
}
"""The kinds of objects and the names of their tables: the fields of store.proto's Change."""

_NAME: Final[Mapping[str, Callable[..., str]]] = {
    "node": lambda node: node.hostname,
    "network": lambda network: network.name,
    "config": lambda config: config.name,
    "service": lambda service: service.spec.name,
}
"""Of the tables whose objects are found by name: what it is."""

REMEMBERED_REQUESTS: Final = 100_000
"""Request ids kept to apply a retried command once; older ones are forgotten: no sooner than after some 15 s
of as many writes as managers can make, hours otherwise."""


@dataclass(frozen=True, slots=True)
class Event:
    """One object changed: `old` is None for a new one, `new` for a removed one."""

    kind: type[Object]
    old: Object | None
    new: Object | None


@dataclass(frozen=True, slots=True)
class Applied:
    """The command took effect at `index` (its first time, for a repeated request id)."""

    index: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A precondition no longer held; nothing changed."""

    kind: str
    id: str


class State:
    """The tables. `apply` is deterministic and never raises for a command that State itself encoded."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._tables: dict[str, dict[str, Object]] = {name: {} for name in TABLES.values()}
        self._named: dict[str, dict[str, dict[str, Object]]] = {table: {} for table in _NAME}
        self._versions: dict[str, int] = dict.fromkeys(TABLES.values(), 0)
        self._requests: OrderedDict[str, int] = OrderedDict()
        self._kept = Kept()
        self.placement = Placement()
        """Where the tasks are."""
        self.index = 0
        self.erased_index = 0
        """Of the last command that took a secret out of the state."""

    def get(self, kind: type[M], id_: str) -> M | None:
        return cast("M | None", self._tables[TABLES[kind]].get(id_))

    peek = get
    """As of a transaction: here no reading makes a precondition."""

    def all(self, kind: type[M]) -> Iterable[M]:
        """Every object of the kind, oldest first."""
        return cast("Iterable[M]", self._tables[TABLES[kind]].values())

    def named(self, kind: type[M], name: str) -> Iterable[M]:
        """Every object of the kind with that name. Only for kinds that have names."""
        return cast("Iterable[M]", self._named[TABLES[kind]].get(name, {}).values())

    def cluster(self) -> types.Cluster | None:
        return next(iter(self.all(types.Cluster)), None)

    def table_version(self, kind: type[Message]) -> int:
        """Index of the last change of any object of the kind."""
        return self._versions[TABLES[kind]]

    def applied(self, request_id: str) -> int:
        """Index at which the request took effect; 0 if it has not, or is forgotten."""
        return self._requests.get(request_id, 0)

    def apply(self, index: int, raw: bytes) -> Applied | Rejected:
        """Apply an encoded Command at a Raft index."""
        command = store.Command.FromString(raw)
        self.index = index
        if command.request_id and (first := self._requests.get(command.request_id)):
            return Applied(first)
        for condition in command.preconditions:
            if self._version_of(condition.kind, condition.id) != condition.version:
                return Rejected(condition.kind, condition.id)
        audit = Audit(self, command.changes)
        changes = [self._change(change, index, command.at) for change in command.changes]
        told = [*audit.events(changes), *command.events]
        kept = [self._tell(each, index, number, command.at) for number, each in enumerate(told)]
        if command.request_id:
            self._requests[command.request_id] = index
            if len(self._requests) > REMEMBERED_REQUESTS:
                self._requests.popitem(last=False)
        return Applied(index, (*changes, *kept))

    def _version_of(self, table: str, id_: str) -> int:
        if not id_:
            return self._versions[table]
        found = self._tables[table].get(id_)
        return found.meta.version if found is not None else 0

    def _change(self, change: store.Change, index: int, at: Timestamp) -> Event:
        name = change.WhichOneof("object")
        assert name is not None
        new = cast("Object", getattr(change, name))
        table = self._tables[name]
        old = table.get(new.meta.id)
        self._versions[name] = index
        if old is not None and secrets_in(old) - (set() if change.remove else secrets_in(new)):
            self.erased_index = index
        if change.remove:
            self._replace(name, old, None)
            return Event(type(new), old, None)
        new.meta.version = index
        new.meta.created_at.CopyFrom(old.meta.created_at if old is not None else at)
        new.meta.updated_at.CopyFrom(at)
        self._replace(name, old, new)
        return Event(type(new), old, new)

    def _tell(self, event: types.Event, index: int, number: int, at: Timestamp) -> Event:
        """Keep an event, in the place of the oldest ones if need be."""
        event.meta.CopyFrom(
            types.Meta(id=event_id(index, number), version=index, created_at=at, updated_at=at)
        )
        self._versions["event"] = index
        self._replace("event", None, event)
        return Event(types.Event, None, event)

    def _replace(self, table: str, old: Object | None, new: Object | None) -> None:
        """The one place that changes a table, and what is found by name with it."""
        if old is not None and new is None:
            del self._tables[table][old.meta.id]
        if new is not None:
            self._tables[table][new.meta.id] = new
        if table == "task":
            self.placement.replace(cast("types.Task | None", old), cast("types.Task | None", new))
        if table == "event":
            for gone in self._kept.add(cast("types.Event", new)):
                del self._tables[table][gone]
        if (name_of := _NAME.get(table)) is None:
            return
        names = self._named[table]
        if old is not None:
            same = names[name_of(old)]
            del same[old.meta.id]
            if not same:
                del names[name_of(old)]
        if new is not None:
            names.setdefault(name_of(new), {})[new.meta.id] = new

    def freeze(self) -> Callable[[], bytes]:
        """A cheap copy; calling it, on any thread, encodes the state as it was now."""
        tables = {name: list(table.values()) for name, table in self._tables.items()}
        versions, requests = dict(self._versions), list(self._requests.items())
        index, erased_index = self.index, self.erased_index

        def encode() -> bytes:
            snapshot = store.Snapshot(index=index, table_versions=versions, erased_index=erased_index)
            for name, objects in tables.items():
                snapshot.objects.extend(_change_of(name, each) for each in objects)
            snapshot.requests.extend(store.AppliedRequest(request_id=i, index=n) for i, n in requests)
            return snapshot.SerializeToString()

        return encode

    def restore(self, raw: bytes) -> None:
        """Become what `freeze` saw."""
        snapshot = store.Snapshot.FromString(raw)
        self._clear()
        self.index, self.erased_index = snapshot.index, snapshot.erased_index
        self._versions.update(snapshot.table_versions)
        self._requests.update((each.request_id, each.index) for each in snapshot.requests)
        for change in snapshot.objects:
            name = change.WhichOneof("object")
            assert name is not None
            each = cast("Object", getattr(change, name))
            self._replace(name, None, each)


def _change_of(table: str, each: Object, *, remove: bool = False) -> store.Change:
    change = store.Change(remove=remove)
    getattr(change, table).CopyFrom(each)
    return change


class Transaction:
    """A decision in the making. Reads through it see its own changes and become preconditions.

    Every object that is put or removed is a precondition too, by the version it was read with. `scan` reads a
    whole table without promising that it stays so: for loops whose decision rests on the objects they change.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._read: dict[tuple[str, str], int] = {}
        self._changes: dict[tuple[str, str], store.Change] = {}
        self._events: list[types.Event] = []

    def cluster(self) -> types.Cluster:
        """The cluster object; there is one in every swarm."""
        cluster = next(iter(self.scan(types.Cluster)), None)
        assert cluster is not None, "no cluster object in a swarm"
        return cluster

    @property
    def placement(self) -> Placement:
        """Where the tasks were before this transaction: without a precondition."""
        return self._state.placement

    def get(self, kind: type[M], id_: str) -> M | None:
        key = (TABLES[kind], id_)
        if (change := self._changes.get(key)) is not None:
            return None if change.remove else cast("M", getattr(change, key[0]))
        found = self._state.get(kind, id_)
        self._read.setdefault(key, found.meta.version if found is not None else 0)
        return found

    def all(self, kind: type[M]) -> list[M]:
        """Every object of the kind; a change of any of them until the commit rejects it."""
        self._read.setdefault((TABLES[kind], ""), self._state.table_version(kind))
        return self.scan(kind)

    def scan(self, kind: type[M]) -> list[M]:
        """Every object of the kind, without a precondition."""
        return self._as_changed(kind, self._state.all(kind))

    def peek(self, kind: type[M], id_: str) -> M | None:
        """An object without a precondition."""
        return self.get(kind, id_) if (TABLES[kind], id_) in self._changes else self._state.get(kind, id_)

    def named(self, kind: type[M], name: str) -> list[M]:
        """Every object with that name, without a precondition. Only for kinds that have names."""
        name_of = _NAME[TABLES[kind]]
        found = self._as_changed(kind, self._state.named(kind, name))
        return [each for each in found if name_of(each) == name] if self._changes else found

    def _as_changed(self, kind: type[M], stored: Iterable[M]) -> list[M]:
        """What is stored and not changed here, and all of the kind that is put here."""
        if not self._changes:
            return list(stored)
        table = TABLES[kind]
        mine = {id_: c for (name, id_), c in self._changes.items() if name == table}
        found = [each for each in stored if each.meta.id not in mine]
        return found + [cast("M", getattr(c, table)) for c in mine.values() if not c.remove]

    def edit(self, each: M) -> M:
        """A copy that may be modified and then put."""
        copy = type(each)()
        copy.CopyFrom(each)  # type: ignore[arg-type]
        return copy

    def put(self, each: Object) -> None:
        """Create or replace; meta.version is the one it was read with (0 = new)."""
        self._write(each, remove=False)

    def remove(self, each: Object) -> None:
        self._write(each, remove=True)

    def _write(self, each: Object, *, remove: bool) -> None:
        table = TABLES[type(each)]
        self._read.setdefault((table, each.meta.id), each.meta.version)
        self._changes[table, each.meta.id] = _change_of(table, each, remove=remove)

    def tell(self, event: types.Event) -> None:
        """Of what no object shows. What changes objects makes its events by itself: core/audit.py."""
        self._events.append(event)

    @property
    def changed(self) -> bool:
        return bool(self._changes or self._events)

    def command(self, at: Timestamp, request_id: str = "") -> store.Command | None:
        """What to propose; None when nothing changed."""
        if not self.changed:
            return None
        conditions = (
            store.Precondition(kind=kind, id=id_, version=version)
            for (kind, id_), version in self._read.items()
        )
        return store.Command(
            request_id=request_id,
            at=at,
            preconditions=conditions,
            changes=self._changes.values(),
            events=self._events,
        )
