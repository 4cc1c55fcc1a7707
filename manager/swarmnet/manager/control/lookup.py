"""Find what a request refers to: an id, a name, or a unique prefix of an id, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, NotFound
from swarmnet.core.state import State, Transaction

T = TypeVar("T", types.Network, types.Config, types.Service, types.Node, types.Task)
Reader = State | Transaction


def network(reader: Reader, ref: str) -> types.Network:
    found = _find(_all(reader, types.Network), ref, "network", lambda each: each.name)
    return found or _absent(f"network {ref} not found", "network ls")


def config(reader: Reader, ref: str) -> types.Config:
    found = _find(_all(reader, types.Config), ref, "config", lambda each: each.name)
    return found or _absent(f"no such config: {ref}", "config ls")


def service(reader: Reader, ref: str) -> types.Service:
    found = _find(_all(reader, types.Service), ref, "service", lambda each: each.spec.name)
    return found or _absent(f"no such service: {ref}", "service ls")


def node(reader: Reader, ref: str) -> types.Node:
    found = _find(_all(reader, types.Node), ref, "node", lambda each: each.hostname)
    return found or _absent(f"no such node: {ref}", "node ls")


def _all(reader: Reader, kind: type[T]) -> Iterable[T]:
    return reader.scan(kind) if isinstance(reader, Transaction) else reader.all(kind)


def _find(objects: Iterable[T], ref: str, what: str, name_of: Callable[[T], str]) -> T | None:
    candidates = list(objects)
    for fits, how in (
        (lambda each: each.meta.id == ref, "id"),
        (lambda each: name_of(each) == ref, "name"),
        (lambda each: bool(ref) and each.meta.id.startswith(ref), "ID prefix"),
    ):
        matches = [each for each in candidates if fits(each)]
        if len(matches) > 1:
            raise InvalidArgument(
                f"{what} {ref} is ambiguous ({len(matches)} matches found based on {how})",
                hint=f"Name it by its ID: {', '.join(each.meta.id for each in matches[:5])}.",
            )
        if matches:
            return matches[0]
    return None


def _absent(message: str, verb: str) -> NoReturn:
    raise NotFound(message, hint=f"`swarmnet {verb}` lists what there is.")
