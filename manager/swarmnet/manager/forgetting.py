"""What is taken out of the state becomes unreadable on this manager's disk: soon, and not too often.

By what the state and the disk say, not by events: a manager that was down, or got a snapshot, sees it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import store_pb2
from swarmnet.manager.raft.seal import DataKey
from swarmnet.manager.store import Store

log = structlog.get_logger()
PERIOD_S: Final = 60.0
"""A thousand scopes that retire an epoch each cost one new data key and one snapshot, not a thousand."""


class Sealed(Protocol):
    """Raft's files."""

    @property
    def data_key(self) -> DataKey:
        """The newest one: what left the state before it was made is on its way to become unreadable."""

    def renew_data_key(self) -> None: ...


async def keep_forgetting(
    store: Store, files: Sealed, wait: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """For ever."""
    with store.subscribe(store_pb2.ScopeSecrets, store_pb2.ClusterSecrets) as changes:
        while True:
            if store.state.erased_index <= files.data_key.made_at:
                await changes.next()
                continue
            log.info("data key renewed", erased_index=store.state.erased_index)
            files.renew_data_key()
            await wait(PERIOD_S)
