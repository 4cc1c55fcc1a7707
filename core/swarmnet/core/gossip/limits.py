"""Every limit of gossip, in one place: what a message, a queue and a memory may hold, and what happens
beyond.

A message beyond its limit is dropped and counted. A memory beyond its limit takes nothing new, or lets go of
what can be had again; each says which.
"""

from __future__ import annotations

from typing import Final

# Messages.
MAX_DATAGRAM_BYTES: Final = 1400
"""Fits one packet on a 1500-byte link with room for an outer tunnel. Less where the path carries less."""
MIN_DATAGRAM_BYTES: Final = 1200
"""A path that carries less is of no use (RFC 9000, section 14, asks as much of it)."""
MAX_DELTA_BYTES: Final = 1100
"""One delta of a table, so that it fits the shortest datagram. An owner's burst is cut into several."""
MAX_DECODED: Final = 4096
"""Rumors and deltas that are kept in both forms: most come several times. The longest unused go."""
MAX_SYNC_BYTES: Final = 4 * 1024 * 1024
MAX_ID_BYTES: Final = 64
MAX_META_BYTES: Final = 256
"""What a member says of itself: it travels with each rumor of it."""
MAX_REPAIR_DATAGRAMS: Final = 8
"""In answer to one vector. The rest waits for the next one, or goes by a sync."""

# Members and their secrets.
MAX_MEMBERS: Final = 65_535
"""As many as there are node indices. More are not taken in."""
MAX_CHANNELS: Final = 16_384
"""Ciphers that are ready, one per sender and scope; the oldest is made again when it is needed."""
MAX_BOOTS: Final = 8
"""Replay windows of one sender, by its boot; the longest unused goes."""
MAX_JUMP: Final = 1 << 42
"""How far ahead (ms) an incarnation or Lamport time may be of the highest known. More than any wrong clock is
off (1970 is 2^41 ms ago); so small that it takes a million forgeries to push a counter to its end, beyond
which nothing could be refuted."""
MAX_PROBES: Final = 4096
"""Pings without an answer yet; beyond, none is sent."""
MAX_RELAYS: Final = 1024
"""Pings for others without an answer yet; beyond, their requests are dropped."""

# Tables, per network.
MAX_OWNERS: Final = 8192
MAX_ENTRIES: Final = 20_000
"""Tombstones included: what one sync can carry."""
MAX_ENTRIES_PER_OWNER: Final = 4096
MAX_GAPS: Final = 64
"""Deltas of one owner that came before an earlier one; beyond, the gap waits for a repair."""
MAX_REMEMBERED_SIGNATURES: Final = 50_000

# Queues.
MAX_QUEUED: Final = 4096
"""News on its way, per scope; beyond, the oldest goes, and the vectors repair what was missed."""
MAX_ROUND_DATAGRAMS: Final = 8
"""Of one round of news; the rest is due with the next one."""
MAX_SYNCS_PER_SCOPE: Final = 4
"""Syncs under way that this node asked for: each may carry the whole table."""

# The sockets.
MAX_BATCH_DATAGRAMS: Final = 64
"""Read in one go, before anything else has its turn."""
MAX_CONNECTIONS: Final = 32
MAX_CONNECTIONS_PER_HOST: Final = 16
"""So that one host cannot take all of them, nor their memory (MAX_SYNC_BYTES each)."""
RECEIVE_BUFFER_BYTES: Final = 2 * 1024 * 1024
"""In the kernel: a burst of a thousand datagrams."""
SYNC_TIMEOUT_S: Final = 5.0
"""For a whole sync, connecting included: a silent or slow stranger holds a connection no longer."""
