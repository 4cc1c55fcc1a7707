"""Calls that were turned away, as events of the swarm: added up over a window, so that they stay few,
however often somebody is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import PermissionDenied, SwarmnetError, SwarmScoped, Unauthenticated
from swarmnet.manager.admission import PeerContext, claimed, peer_host
from swarmnet.manager.gathering import WINDOW_S, Deliver, Gathering
from swarmnet.manager.identity import current_caller

TOLD_APART: Final = 32
"""Refusals by reason, node, scope and address in a window; what is beyond is told by its reason only."""
_LONGEST_REASON: Final = 300
_LONGEST_ATTRIBUTE: Final = 80
_ATTRIBUTES: Final = ("address", "code", "via")


class Refusals:
    """Those of this manager, on their way into the state."""

    def __init__(self, deliver: Deliver, window_s: float = WINDOW_S) -> None:
        self._pending = Gathering("refusals", deliver, window_s)

    def note(
        self,
        error: SwarmnetError,
        *,
        node_id: str = "",
        address: str = "",
        via: str = "",
        scope: tuple[str, str] = ("", ""),
    ) -> None:
        """One call was turned away. `via`: the manager that forwarded it; `scope`: id and name.

        Only who may not, or must not, counts: a request that is merely wrong is no matter of security.
        """
        if not isinstance(error, Unauthenticated | PermissionDenied | SwarmScoped):
            return
        key: tuple[str, ...] = (error.reason, node_id, address, via, scope[0])
        if key not in self._pending and len(self._pending) >= TOLD_APART:
            key, node_id, address, via, scope = (error.reason,), "", "", "", ("", "")
        self._pending.add(key, lambda: _refusal(error, node_id, address, via, scope))

    def note_call(self, error: SwarmnetError, context: PeerContext) -> None:
        """What a door refused; but for attachments, which are told with their network."""
        if isinstance(error, SwarmScoped):
            return
        caller = claimed(context)
        if caller is None:
            self.note(error, address=peer_host(context.peer()))
        else:
            address = "" if caller.via else peer_host(context.peer())
            self.note(error, node_id=caller.node_id, address=address, via=caller.via)

    def note_attachment(self, error: SwarmnetError, network: types.Network) -> None:
        """A network refused a container or process that is no task."""
        caller = current_caller()
        scope = (network.meta.id, network.name)
        self.note(error, node_id=caller.node_id, via=caller.via, scope=scope)

    async def run(self) -> None:
        """For ever."""
        await self._pending.run()


def _refusal(
    error: SwarmnetError, node_id: str, address: str, via: str, scope: tuple[str, str]
) -> types.Event:
    found = {"address": address, "code": error.reason, "via": via}
    return types.Event(
        type=types.EVENT_TYPE_KEY,
        action="refuse",
        subjects=[types.EventSubject(id=scope[0], name=scope[1])] if scope[0] else [],
        nodes=[node_id] if node_id else [],
        reason=error.message[:_LONGEST_REASON],
        attributes={name: value for name, value in found.items() if value},
    )


def received(events: Iterable[types.Event]) -> list[types.Event]:
    """What another manager tells of refusals: nothing else, and no more than it has to."""
    return [
        types.Event(
            type=types.EVENT_TYPE_KEY,
            action="refuse",
            subjects=each.subjects[:1],
            nodes=each.nodes[:1],
            reason=each.reason[:_LONGEST_REASON],
            count=each.count,
            attributes={
                name: each.attributes[name][:_LONGEST_ATTRIBUTE]
                for name in _ATTRIBUTES
                if name in each.attributes
            },
        )
        for each in list(events)[: 2 * TOLD_APART]
    ]
