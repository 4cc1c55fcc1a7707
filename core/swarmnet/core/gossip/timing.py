"""The times and counts of the gossip protocol: meaning, unit, and why this default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    probe_period_s: float = 1.0
    """One member is probed per period. Idle cost: one ping and one ack per second and node, at any size."""
    probe_timeout_s: float = 0.2
    """Until others are asked, and again until it is suspected. A LAN answers in 1 ms, a busy host in some
    10."""
    indirect_probes: int = 3
    """Members asked to try it too, so that one bad path is not taken for a dead node."""
    suspicion_s: float = 0.3
    """Least time to refute, times log10 of the members, at least twice: rumor and refutation each need some
    rounds."""
    suspicion_slack: float = 4.0
    """So many times longer while nobody else confirms."""
    confirmations: int = 3
    """Other members whose confirmation brings the wait down to the least."""
    silent_pings: int = 2
    """A suspected member is pinged every probe_timeout_s; so many without an answer are evidence."""
    max_awareness: int = 8
    """How many times slower a node may become that finds itself in bad health (Lifeguard)."""
    late_s: float = 0.1
    """A timer that is served so much later says that this node was held up: what others did meanwhile
    waits to be read, so nothing is concluded yet."""
    fanout: int = 3
    """Receivers of each round, the first of which leaves nobody out: with 5 % loss one in 8,000."""
    busy_fanout: int = 2
    """The same under load: what everybody is told twice costs everybody less."""
    repeat_s: tuple[float, ...] = (0.025, 0.12)
    """Between the rounds of one item: the second, to anybody, misses one in 20 of those; the last one stands
    for all later."""
    burst_rounds: int = 5
    """News goes at once for so many rounds; then they are spread, and what comes meanwhile shares
    datagrams."""
    round_period_s: float = 0.15
    """Between two rounds under load, while this node keeps up."""
    slowest_round_period_s: float = 0.5
    """The same of one that does not."""
    sync_period_s: float = 3.0
    """A difference to others that lasts so long is settled by a sync, by TCP."""
    first_sync_s: float = 0.4
    """The same of a node that has just started: those that start together lack much of each other."""
    recent_s: float = 10.0
    """Who has other members than this node is told first what has changed within this time."""
    reconnect_period_s: float = 5.0
    """A dead member or absent seed is tried, so that a healed partition closes."""
    join_retry_s: float = 0.5
    """Between attempts to reach any seed as long as no member is known."""
    dead_keep_s: float = 600.0
    """A dead member is remembered, and tried again, so long. Absent seeds are tried for ever."""
    tombstone_keep_s: float = 120.0
    """A deleted entry is told so long to whom it may be news; later, they are told the whole of its
    owner's."""
    house_period_s: float = 10.0
    """Between searches for what may be forgotten."""
