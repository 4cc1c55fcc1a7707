"""What was sent and what came, in a file that the story, the sender and the receiver map.

    8 bytes each    rate, mark       the story's: datagrams a second in total; a new stretch begins
                    sent             the sender's: datagrams so far; they are numbered from 0
                    reordered, strayed, dropped, delay      the receiver's, see the properties
    then 1 byte a datagram: how often it came, by its number; the receiver's

Every field has one writer, and a field is one aligned word: nobody needs a lock.
"""

from __future__ import annotations

import mmap
import struct
from enum import IntEnum
from pathlib import Path
from typing import Final

MAX_DATAGRAMS: Final = 1 << 27
_HEAD_BYTES: Final = 64
_NUMBER: Final = struct.Struct("=Q")
_REAL: Final = struct.Struct("=d")


class Field(IntEnum):
    """By place."""

    RATE = 0
    MARK = 1
    SENT = 2
    REORDERED = 3
    STRAYED = 4
    DROPPED = 5
    DELAY_NS = 6


class Ledger:
    """A new file if there is none; sparse, so it takes what was used of it."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_HEAD_BYTES + MAX_DATAGRAMS)
            self._memory = mmap.mmap(file.fileno(), _HEAD_BYTES + MAX_DATAGRAMS)

    def get(self, field: Field) -> int:
        """REORDERED: came after a later one of its stream. STRAYED: came to a task it was not sent to.
        DROPPED: by a receiving socket that was full. DELAY_NS: the longest on its way since MARK changed.
        """
        return int(_NUMBER.unpack_from(self._memory, 8 * field)[0])

    def put(self, field: Field, value: int) -> None:
        _NUMBER.pack_into(self._memory, 8 * field, value)

    @property
    def rate_per_s(self) -> float:
        return float(_REAL.unpack_from(self._memory, 8 * Field.RATE)[0])

    @rate_per_s.setter
    def rate_per_s(self, rate: float) -> None:
        _REAL.pack_into(self._memory, 8 * Field.RATE, rate)

    def came(self, number: int) -> None:
        """Once more; 255 times are as many as any more."""
        place = _HEAD_BYTES + number
        self._memory[place] = min(self._memory[place] + 1, 255)

    def times(self, first: int, end: int) -> bytes:
        """How often each of the datagrams from `first` up to, not including, `end` came."""
        return self._memory[_HEAD_BYTES + first : _HEAD_BYTES + end]
