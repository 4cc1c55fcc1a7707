"""Find what a request refers to: an id, a name, or a unique prefix of an id, in that order."""

from __future__ import annotations

from typing import NoReturn, TypeVar

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, NotFound
from swarmnet.core.state import TABLES, State, Transaction

T = TypeVar("T", types.Network, types.Config, types.Service, types.Node, types.Task)
Reader = State | Transaction


def network(reader: Reader, ref: str) -> types.Network:
    return _find(reader, types.Network, ref) or _absent(f"network {ref} not found", "network ls")


def config(reader: Reader, ref: str) -> types.Config:
    return _find(reader, types.Config, ref) or _absent(f"no such config: {ref}", "config ls")


def service(reader: Reader, ref: str) -> types.Service:
    return _find(reader, types.Service, ref) or _absent(f"no such service: {ref}", "service ls")


def node(reader: Reader, ref: str) -> types.Node:
    return _find(reader, types.Node, ref) or _absent(f"no such node: {ref}", "node ls")


def _find(reader: Reader, kind: type[T], ref: str) -> T | None:
    if (exact := reader.peek(kind, ref)) is not None:
        return exact
    if named := list(reader.named(kind, ref)):
        return _only(named, ref, "name")
    everything = reader.scan(kind) if isinstance(reader, Transaction) else reader.all(kind)
    return _only([each for each in everything if ref and each.meta.id.startswith(ref)], ref, "ID prefix")


def _only(matches: list[T], ref: str, how: str) -> T | None:
    if len(matches) > 1:
        raise InvalidArgument(
            f"{TABLES[type(matches[0])]} {ref} is ambiguous ({len(matches)} matches found based on {how})",
            hint=f"Name it by its ID: {', '.join(each.meta.id for each in matches[:5])}.",
        )
    return matches[0] if matches else None


def _absent(message: str, verb: str) -> NoReturn:
    raise NotFound(message, hint=f"`swarmnet {verb}` lists what there is.")
