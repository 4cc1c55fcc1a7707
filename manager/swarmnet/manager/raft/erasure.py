"""What was taken out of the state becomes unreadable on this manager's disk, too.

    renew       a new data key seals every frame and snapshot from here on
    compact     a snapshot without the secret lets go of all that older keys sealed
    destroy     the old keys are no longer kept: whatever is left of those frames is noise

Each step shows on disk, so that a manager that was stopped in between goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from swarmnet.manager.raft.compaction import Compaction
from swarmnet.manager.raft.disk import is_full
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.seal import DataKeys

log = structlog.get_logger()
_RETRY_S: Final = 10.0


class Erasure:
    """Raft's thread only. There are never more than two data keys."""

    def __init__(
        self, keys: DataKeys, journal: Journal, snapshots: Compaction, clock: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._journal = journal
        self._snapshots = snapshots
        self._clock = clock
        self._retry_at = 0.0

    def begin(self, applied_index: int) -> None:
        """Make all unreadable that was taken out of the state up to here; nothing while another one goes on.

        OSError when nothing is known of the disk any more.
        """
        if not self._keys.old:
            self._unless_full(lambda: self._keys.renew(applied_index))

    def step(self, applied_index: int) -> bool:
        """Do what can be done now; True asks for a snapshot. OSError as `begin`."""
        if not self._keys.old or self._clock() < self._retry_at:
            return False
        newest = self._keys.newest
        if (since := self._journal.sealed_since(newest)) is None:
            if not self._journal.seal_anew():
                self._put_off()
        elif self._snapshots.newest < since - 1:
            return applied_index >= since - 1
        elif self._snapshots.sealed_under != newest.number:
            self._snapshots.reseal()
        elif self._journal.oldest_key is not newest:
            self._journal.drop_covered()
        else:
            self._unless_full(self._keys.forget_old)
            log.info("old data keys destroyed", made_at=newest.made_at)
        return False

    def _unless_full(self, write: Callable[[], None]) -> None:
        """Without room it is tried again; until then what is to be erased stays."""
        try:
            write()
        except OSError as error:
            if not is_full(error):
                raise
            self._put_off()

    def _put_off(self) -> None:
        self._retry_at = self._clock() + _RETRY_S
        log.error("no room to replace the data key", retry_in_s=_RETRY_S)
