"""Pings that were sent for somebody else, and wait for an answer."""

from __future__ import annotations

from dataclasses import dataclass

from swarmnet.core.gossip.limits import MAX_RELAYS


@dataclass(frozen=True, slots=True)
class Relay:
    target: str
    asker: str
    asker_sequence: int


class Relays:
    """By the sequence number of the ping. What is neither answered nor late yet is bounded."""

    def __init__(self) -> None:
        self._open: dict[int, Relay] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, sequence: int, target: str, asker: str, asker_sequence: int) -> bool:
        """False if there are too many."""
        if len(self._open) >= MAX_RELAYS:
            return False
        self._open[sequence] = Relay(target, asker, asker_sequence)
        return True

    def answered(self, sequence: int, by: str) -> Relay | None:
        """Close the relay of that ping if that is its target."""
        relay = self._open.get(sequence)
        return self._open.pop(sequence) if relay is not None and relay.target == by else None

    def late(self, sequence: int) -> Relay | None:
        """Close it; None if it was answered."""
        return self._open.pop(sequence, None)
