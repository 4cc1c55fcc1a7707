"""Memory that is freed is overwritten, so that a key that was dropped is not left to be found in a core.

Secrets pass through bytes objects, protobuf's arenas, gRPC's and netlink's buffers, whose memory nobody wipes
when it is freed. glibc can do it, in every library at once, but only from the start of a process (mallopt(3),
M_PERTURB; its thread caches would be left out, so they are off), and Python's own allocator has to leave its
work to it. Elsewhere than on glibc this does nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

SWEEP_AFTER_S: Final = 1.0
"""By then the pass that dropped a key, and what it awaited, are over; several drops share one sweep."""

_WIPING: Final[Mapping[str, str]] = {
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
    "PYTHONMALLOC": "malloc",
}


def wiping_environment(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of a process that wipes what it frees; None if this one is."""
    if all(environment.get(name) == value for name, value in _WIPING.items()):
        return None
    return {**environment, **_WIPING}


def wipe_what_is_freed() -> None:
    """Start this process again, with the same number and arguments, unless it wipes already."""
    if (environment := wiping_environment(os.environ)) is not None:
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - it is ourselves


class Sweeper:
    """Frees what nobody can reach any more soon after a key was dropped: one that is part of a cycle of
    objects would stay until the collector happens to look, for minutes in a quiet worker. Event loop only."""

    def __init__(self, collect: Callable[[], object] = gc.collect) -> None:
        self._collect = collect
        self._due: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(SWEEP_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        self._due = None
        self._collect()
