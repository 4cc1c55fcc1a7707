"""What the chaos run tells a manager's launcher while it runs: a few numbers in memory that both map."""

from __future__ import annotations

import mmap
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final

_FORMAT: Final = struct.Struct("ddd")


class DieAt(IntEnum):
    """Before which call that makes a file durable the manager shall die, as by SIGKILL."""

    NEVER = 0
    ANY_SYNC = 1
    SNAPSHOT_SYNC = 2


class Controls:
    """`clock_offset_s` is added to the time of day, `sync_delay_s` to each sync."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(_FORMAT.size))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _FORMAT.size)

    @property
    def clock_offset_s(self) -> float:
        return self._get()[0]

    @clock_offset_s.setter
    def clock_offset_s(self, offset_s: float) -> None:
        self._set(0, offset_s)

    @property
    def sync_delay_s(self) -> float:
        return self._get()[1]

    @sync_delay_s.setter
    def sync_delay_s(self, delay_s: float) -> None:
        self._set(1, delay_s)

    @property
    def die_at(self) -> DieAt:
        return DieAt(int(self._get()[2]))

    @die_at.setter
    def die_at(self, when: DieAt) -> None:
        self._set(2, when)

    def _get(self) -> tuple[float, float, float]:
        clock, delay, die = _FORMAT.unpack_from(self._memory)
        return clock, delay, die

    def _set(self, position: int, value: float) -> None:
        struct.pack_into("d", self._memory, 8 * position, value)
