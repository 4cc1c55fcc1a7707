"""Renews this manager's own certificate at a random point between 50% and 80% of its life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from swarmnet.core.errors import SwarmnetError
from swarmnet.manager.ca.credentials import Credentials

log = structlog.get_logger()
_LONGEST_WAIT_S: Final = 3600.0
"""The wall clock is looked at again this often: a wait does not notice that somebody set it."""
_RETRY_S: Final = (5.0, 600.0)


async def keep_renewed(
    current: Callable[[], Credentials],
    renew: Callable[[], Awaitable[None]],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """For ever. A renewal that fails is tried again, ever less often, and logged: there are weeks left."""
    pause_s = _RETRY_S[0]
    due = _due(current())
    while True:
        if (left_s := (due - now()).total_seconds()) > 0:
            await wait(min(left_s, _LONGEST_WAIT_S))
            continue
        try:
            await renew()
        except SwarmnetError as error:
            log.warning("certificate not renewed", error=str(error), expires=str(current().expires_at()))
            await wait(pause_s)
            pause_s = min(pause_s * 2, _RETRY_S[1])
            continue
        due, pause_s = _due(current()), _RETRY_S[0]
        log.info("certificate renewed", expires=str(current().expires_at()))


def _due(credentials: Credentials) -> datetime:
    return credentials.renew_at(random.random())  # noqa: S311 - spreads load, keeps no secret
