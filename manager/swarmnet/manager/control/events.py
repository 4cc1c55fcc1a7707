"""The swarm's events: those that are kept, and those to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any

import grpc.aio

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.state import Event
from swarmnet.core.timestamps import seconds
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.refusals import received
from swarmnet.manager.store import Subscription


class EventNoun(Noun):
    async def Events(
        self, request: control.EventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[types.Event, None]:
        """The subscription stands before the state is read, so that nothing falls between the two."""
        last = request.after
        with self._store.subscribe(types.Event) as subscription:
            await context.send_initial_metadata(())
            fresh: Iterable[types.Event] = list(self._store.state.all(types.Event))
            while True:
                for event in fresh:
                    if event.meta.id > last:
                        last = event.meta.id
                        if _is_wanted(event, request):
                            yield event
                if not request.follow or self._is_over(request):
                    return
                fresh = await self._next(subscription, request)

    async def _next(
        self, subscription: Subscription, request: control.EventsRequest
    ) -> Sequence[types.Event]:
        """The next ones; all that are kept, when some were missed; none at the end."""
        left_s = self._left_s(request) if request.HasField("until") else None
        try:
            changes = await asyncio.wait_for(subscription.next(), left_s)
        except TimeoutError:
            return ()
        return list(self._store.state.all(types.Event)) if changes is None else list(_told(changes))

    def _left_s(self, request: control.EventsRequest) -> float:
        return seconds(request.until) - seconds(self._store.now())

    def _is_over(self, request: control.EventsRequest) -> bool:
        return request.HasField("until") and self._left_s(request) <= 0

    async def NoteRefusals(
        self, request: control.NoteRefusalsRequest, context: object
    ) -> control.NoteRefusalsResponse:
        await self._store.tell(received(request.refusals), request.request_id)
        return control.NoteRefusalsResponse()


def _told(changes: Iterable[Event]) -> Iterator[types.Event]:
    return (change.new for change in changes if isinstance(change.new, types.Event))


def _is_wanted(event: types.Event, request: control.EventsRequest) -> bool:
    if request.types and event.type not in request.types:
        return False
    at = event.meta.created_at.ToNanoseconds()
    if request.HasField("until") and at > request.until.ToNanoseconds():
        return False
    return not request.HasField("since") or at >= request.since.ToNanoseconds()
