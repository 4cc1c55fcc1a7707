"""The numbers of the gossip protocol: meaning, unit, and why this default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_DATAGRAM_BYTES: Final = 1400
"""Fits one packet on a 1500-byte link with room for an outer tunnel."""
MAX_SYNC_BYTES: Final = 4 * 1024 * 1024
MAX_MEMBERS: Final = 65_535
MAX_ENTRIES: Final = 25_000
"""Per network: what one sync of MAX_SYNC_BYTES can carry."""
MAX_QUEUED: Final = 4096
"""Per broadcast queue; beyond it the most repeated item goes, and the digests repair what was missed."""
MAX_JUMP: Final = 1 << 42
"""How far ahead (ms) an incarnation or Lamport time may be of the highest known. More than any wrong clock is
off (1970 is 2^41 ms ago); so small that it takes a million forgeries to push a counter to its end, beyond
which nothing could be refuted."""


@dataclass(frozen=True, slots=True)
class Timing:
    probe_period_s: float = 1.0
    """One member is probed per period. Idle cost: one ping and one ack per second and node, at any size."""
    probe_timeout_s: float = 0.5
    """A LAN answers in 1 ms, an overloaded host in some 100."""
    indirect_probes: int = 3
    """Members asked to try it too, so that one bad path is not taken for a dead node."""
    suspicion_s: float = 2.0
    """Least time to refute, times log10 of the members: rumor and refutation take some rounds each."""
    suspicion_slack: float = 3.0
    """So many times longer while nobody else confirms."""
    confirmations: int = 3
    """Other members whose confirmation brings the wait down to suspicion_s."""
    max_awareness: int = 8
    """How many times slower a node may become that finds itself in bad health (Lifeguard)."""
    fanout: int = 4
    """Receivers of each round: 4 reach 98 % of any number of nodes, and all when there are five."""
    gossip_period_s: float = 0.2
    """Between the rounds in which news is repeated."""
    coalesce_s: float = 0.005
    """Between two first rounds: news of a burst shares datagrams."""
    sync_period_s: float = 30.0
    """Push/pull of the membership with a random member."""
    reconnect_period_s: float = 5.0
    """A dead member or absent seed is tried, so that a healed partition closes."""
    join_retry_s: float = 0.5
    """Between attempts to reach any seed as long as no member is known."""
    digest_period_s: float = 1.0
    """One network's digest to one of its peers, in turn: bounds how long a lost update stays lost."""
    dead_keep_s: float = 600.0
    """A dead member is remembered, and tried again, so long."""
    tombstone_keep_s: float = 120.0
    """A deleted entry is remembered so long; a copy that outlives it is deleted again by its owner."""
    house_period_s: float = 10.0
    """Between searches for what may be forgotten."""
