"""Events in the making, and those that are kept: how many, and which go first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import (
    KEPT_EVENT_BYTES,
    KEPT_KEY_EVENTS,
    KEPT_NOTICES,
    KEPT_OTHER_EVENTS,
    KEPT_REFUSALS,
)

Subject: TypeAlias = tuple[str, str, int]
"""(id, name, epoch)"""


NOTICES: Final = frozenset({"repair", "path"})
"""Actions of events that nodes tell of themselves."""


@dataclass
class Told:
    """Events in the making; the same about several subjects becomes one."""

    events: dict[tuple[object, ...], types.Event] = field(default_factory=dict)

    def add(
        self,
        type_: types.EventType.ValueType,
        action: str,
        subject: Subject | None,
        nodes: Iterable[str] = (),
        reason: str = "",
        **attributes: str,
    ) -> None:
        among = tuple(sorted(nodes))
        key = (type_, action, among, reason, tuple(sorted(attributes.items())))
        if (event := self.events.get(key)) is None:
            event = self.events[key] = types.Event(
                type=type_, action=action, nodes=among, reason=reason, attributes=attributes
            )
        if subject is not None:
            id_, name, epoch = subject
            event.subjects.add(id=id_, name=name, epoch=epoch)


def event_id(index: int, number: int) -> str:
    """Of the event `number` of the change at a Raft index: ascending, as text too."""
    return f"{index:016x}{number:04x}"


_SHELVES: Final[Mapping[str, int]] = {
    "keys": KEPT_KEY_EVENTS,
    "refusals": KEPT_REFUSALS,
    "notices": KEPT_NOTICES,
    "others": KEPT_OTHER_EVENTS,
}
"""What is kept apart, and how many: neither who is refused nor a bad node may push history out."""


@dataclass
class _Row:
    ids: deque[tuple[str, int]] = field(default_factory=deque)
    size: int = 0


class Kept:
    """Which events are there. `add` names those that have to go for a new one: the oldest of its own sort."""

    def __init__(self) -> None:
        self._rows = {shelf: _Row() for shelf in _SHELVES}

    def add(self, event: types.Event) -> Iterator[str]:
        shelf = _shelf_of(event)
        row = self._rows[shelf]
        size = event.ByteSize()
        row.ids.append((event.meta.id, size))
        row.size += size
        while len(row.ids) > _SHELVES[shelf] or row.size > KEPT_EVENT_BYTES:
            gone, gone_size = row.ids.popleft()
            row.size -= gone_size
            yield gone


def _shelf_of(event: types.Event) -> str:
    if event.type == types.EVENT_TYPE_NODE and event.action in NOTICES:
        return "notices"
    if event.type != types.EVENT_TYPE_KEY:
        return "others"
    return "refusals" if event.action == "refuse" else "keys"
