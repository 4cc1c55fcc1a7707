"""A swarm's control API for programs.

    async with Client(["10.0.0.1:2377", "10.0.0.2:2377"], Identity.in_folder(Path("operator"))) as swarm:
        config = await swarm.GetConfig(GetRequest(ref="web"))

All calls of the program share one stream to one manager: make as many at once as you like. When a manager
is lost, the calls go on at the next one, where that is safe: reads, and whatever takes a request id, which is
made up if the request has none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final, Self

from swarmnet.client.control import A, Control, Q, Rpc
from swarmnet.client.managers import Identity, Managers
from swarmnet.client.pipe import NotSent, Pipe
from swarmnet.core.errors import (
    DeadlineExceeded,
    NoLeader,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    ResourceExhausted,
    SwarmnetError,
    Unavailable,
)

TIMEOUT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_UNDONE: Final = (NotSent, NoLeader, NotLeader)
"""What surely changed nothing."""
_PASSING: Final = (Unavailable, OutcomeUnknown)
_SETTLES_NOTHING: Final = (Unavailable, OutcomeUnknown, DeadlineExceeded, ResourceExhausted, NotFound)
"""After these, what an earlier try left open may still take effect."""

__all__ = ["TIMEOUT_S", "Client", "Identity"]


class Client(Control):
    """Connects with the first call. Event loop only."""

    def __init__(
        self, managers: Sequence[str], identity: Identity | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`managers`: host:port each; or unix:PATH, for root on that host, who needs no identity."""
        self._managers = Managers(managers, identity)
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._managers.close()

    async def invoke(self, rpc: Rpc[Q, A], request: Q, timeout_s: float | None) -> A:
        """OutcomeUnknown when it may have taken effect, and this cannot be told; else the managers' own
        error, or Unavailable when there is none to be reached."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
        raw, pause_s = _encoded(rpc, request), _FIRST_PAUSE_S
        open_: SwarmnetError | None = None
        while True:
            try:
                return rpc.answer.FromString(await self._ask(rpc, raw, ends_at - loop.time()))
            except SwarmnetError as error:
                if not rpc.reads and isinstance(error, _PASSING) and not isinstance(error, _UNDONE):
                    open_ = error
                over = loop.time() + pause_s >= ends_at
                if over or not _is_repeatable(rpc, error):
                    raise _verdict(rpc, error, open_) from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask(self, rpc: Rpc[Any, Any], raw: bytes, left_s: float) -> bytes:
        pipe = self._managers.open_pipe() or await self._connected_pipe(left_s)
        try:
            return await pipe.call(rpc.name, raw, left_s)
        except _PASSING:
            self._managers.leave(pipe)
            raise

    async def _connected_pipe(self, left_s: float) -> Pipe:
        try:
            async with asyncio.timeout(left_s):
                return await self._managers.pipe()
        except TimeoutError:
            raise NotSent("no manager could be reached in time", hint="Are they running?") from None


def _encoded(rpc: Rpc[Q, Any], request: Q) -> bytes:
    """With a request id, where it can have one."""
    if not rpc.takes_id or request.request_id:  # type: ignore[attr-defined]
        return request.SerializeToString()
    ours = type(request)()
    ours.CopyFrom(request)
    ours.request_id = secrets.token_hex(12)  # type: ignore[attr-defined]
    return ours.SerializeToString()


def _is_repeatable(rpc: Rpc[Any, Any], error: SwarmnetError) -> bool:
    return isinstance(error, _UNDONE) or (rpc.repeatable and isinstance(error, _PASSING))


def _verdict(rpc: Rpc[Any, Any], error: SwarmnetError, open_: SwarmnetError | None) -> SwarmnetError:
    """What the caller is told in the end."""
    if isinstance(error, DeadlineExceeded) and not rpc.reads:
        open_ = error
    if open_ is None or not isinstance(error, _SETTLES_NOTHING):
        return error
    return OutcomeUnknown(
        f"{rpc.name} may or may not have taken effect: {open_.message}",
        hint="Look first, or repeat it with the same request id.",
    )
