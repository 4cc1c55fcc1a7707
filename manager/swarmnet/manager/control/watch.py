"""Changes as they happen, for clients that would otherwise poll."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc.aio

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, Unavailable
from swarmnet.core.state import TABLES, Event, Object
from swarmnet.manager.control.surroundings import Noun

_KINDS: Final[dict[int, type[Object]]] = {
    control.OBJECT_KIND_CLUSTER: types.Cluster,
    control.OBJECT_KIND_NODE: types.Node,
    control.OBJECT_KIND_NETWORK: types.Network,
    control.OBJECT_KIND_CONFIG: types.Config,
    control.OBJECT_KIND_SERVICE: types.Service,
    control.OBJECT_KIND_TASK: types.Task,
    control.OBJECT_KIND_KEY_SCOPE: types.KeyScope,
    control.OBJECT_KIND_EVENT: types.Event,
}


class WatchNoun(Noun):
    async def Watch(
        self, request: control.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[control.WatchEvent, None]:
        """The initial metadata is sent when the watch has begun: what happens after it is seen."""
        if unknown := [kind for kind in request.kinds if kind not in _KINDS]:
            raise InvalidArgument(
                f"no object kind {unknown[0]} to watch", hint="Leave the kinds out to watch all of them."
            )
        kinds = [_KINDS[kind] for kind in request.kinds or _KINDS]
        with self._store.subscribe(*kinds) as subscription:
            await context.send_initial_metadata(())
            while (events := await subscription.next()) is not None:
                for event in events:
                    yield self._seen(event)
        raise Unavailable("some changes were missed", hint="List the objects again, then watch anew.")

    def _seen(self, event: Event) -> control.WatchEvent:
        changed = event.new if event.new is not None else event.old
        assert changed is not None, "an event without an object"
        removed = event.new is None
        out = control.WatchEvent(at=self._store.now() if removed else changed.meta.updated_at)
        created = event.old is None
        out.action = (
            control.WatchEvent.REMOVED
            if removed
            else control.WatchEvent.CREATED
            if created
            else control.WatchEvent.UPDATED
        )
        getattr(out, TABLES[event.kind]).CopyFrom(changed)
        return out
