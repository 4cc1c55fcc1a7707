"""Handing over leadership on purpose, while commands keep coming.

A follower can only take over once it has all of the log, and while the leader takes new commands it hardly
ever does. So from the request on the leader takes none (they are refused as by a manager that does not lead,
and go to the next leader), asks a follower as soon as one is there, and leads on if none took over in time.
"""

from __future__ import annotations

from typing import Final

HANDOVER_S: Final = 1.0
"""No longer without commands: then the leader goes on."""
_ASK_AGAIN_S: Final = 0.2
"""The message may be lost; a follower that got it has been elected by then."""


class Handover:
    """At most one at a time. `now`: seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.target: str | None = None
        self._until: float | None = None
        self._ask_at = 0.0

    def begin(self, target: str | None, now: float) -> None:
        """`target` is to take over; None: whoever has most of the log."""
        self.target, self._until, self._ask_at = target, now + HANDOVER_S, now

    def end(self) -> None:
        self._until = None

    def goes_on(self, now: float) -> bool:
        """Whether commands are refused for it."""
        return self._until is not None and now < self._until

    def is_due(self, now: float) -> bool:
        """Whether to ask a follower now."""
        return self.goes_on(now) and now >= self._ask_at

    def asked(self, now: float) -> None:
        self._ask_at = now + _ASK_AGAIN_S
