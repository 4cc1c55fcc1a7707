"""Which bytes of a replicated object are secret: by store.proto, where such fields are marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from swarmnet.api.v1 import store_pb2 as store

_KINDS: Final = (store.ClusterSecrets, store.ScopeSecrets)
"""What only managers may see. A marked field elsewhere is not to be logged, and no more than that."""


def secrets_in(each: Message) -> frozenset[bytes]:
    """The secrets that an object of the state holds now."""
    return frozenset(filter(None, _values(each))) if isinstance(each, _KINDS) else frozenset()


def _values(each: Message) -> Iterator[bytes]:
    for field, value in each.ListFields():
        if field.GetOptions().debug_redact:
            yield from map(_encoded, _items(field, value))


def _items(field: FieldDescriptor, value: object) -> Iterable[object]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return cast("dict[object, object]", value).values()
    return cast("Iterable[object]", value) if field.is_repeated else (value,)


def _encoded(value: object) -> bytes:
    return value.SerializeToString() if isinstance(value, Message) else cast("bytes", value)
