"""Digests that change with each change instead of being made anew: against mistakes, not forgers."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1


def mark(handle_number: int, time: int) -> int:
    """32 bits of somebody at some time. The digest of a set is the XOR of its marks, in whatever order.

    The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    mixed = (handle_number ^ time * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ mixed >> 31) & 0xFFFF_FFFF
