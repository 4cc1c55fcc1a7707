"""Streams that are served here, so that they end when their caller's certificate counts no more.

A call is checked when it comes in; a stream lasts. What a manager that is removed or demoted has forwarded
ends with it: it would go on to hear what others are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError, Unauthenticated
from swarmnet.core.state import Event
from swarmnet.manager.identity import Caller, current_caller
from swarmnet.manager.store import Store


@dataclass(eq=False, slots=True)
class _Stream:
    caller: Caller
    service: str
    task: asyncio.Task[Any]
    error: SwarmnetError | None = None


class OpenStreams:
    """`check` raises Unauthenticated for (caller, service) that may not call any more."""

    def __init__(self, check: Callable[[Caller, str], None]) -> None:
        self._check = check
        self._open: set[_Stream] = set()

    @contextmanager
    def serving(self, service: str) -> Iterator[None]:
        """Around a stream of the current caller, in its task. Unauthenticated once that may call no more."""
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(current_caller(), service, task)
        self._open.add(stream)
        try:
            yield
        except asyncio.CancelledError:
            if stream.error is None:
                raise
            task.uncancel()
            raise stream.error from None
        finally:
            self._open.discard(stream)

    async def run(self, store: Store) -> None:
        """For ever: look at those whom a change of nodes concerns."""
        with store.subscribe(types.Node) as changes:
            while True:
                events = await changes.next()
                self._look(None if events is None else _changed(events))

    def _look(self, node_ids: set[str] | None) -> None:
        for stream in self._open:
            if node_ids is None or {stream.caller.node_id, stream.caller.via} & node_ids:
                self._end_unless_known(stream)

    def _end_unless_known(self, stream: _Stream) -> None:
        try:
            self._check(stream.caller, stream.service)
        except Unauthenticated as error:
            if stream.error is None:
                stream.error = error
                stream.task.cancel()


def _changed(events: list[Event]) -> set[str]:
    """Ids of the nodes that are gone or have another role, now or wanted."""
    return {
        event.old.meta.id
        for event in events
        if event.old is not None and _roles(event.old) != _roles(event.new)
    }


def _roles(node: object) -> tuple[object, ...] | None:
    return (node.role, node.desired_role) if isinstance(node, types.Node) else None
