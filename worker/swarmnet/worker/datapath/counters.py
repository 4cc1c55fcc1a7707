"""Counts of what the kernel encrypted, decrypted and refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from swarmnet.core.datapath.xfrm import Sa
from swarmnet.worker.datapath.xfrm import SaUse

_STATISTICS: Final = Path("/proc/thread-self/net/xfrm_stat")
"""Of the calling thread's namespace, the underlay's. Names as in the kernel's xfrm_proc documentation."""


def counters(sas: Iterable[tuple[Sa, SaUse]]) -> dict[str, int]:
    """`esp_*` are sums over our SAs; the others are the kernel's own names, e.g. XfrmInTmplMismatch."""
    uses = [use for _, use in sas]
    return {
        "esp_sas": len(uses),
        "esp_packets": sum(use.packets for use in uses),
        "esp_bytes": sum(use.octets for use in uses),
        "esp_outside_window": sum(use.replay_window for use in uses),
        "esp_replayed": sum(use.replayed for use in uses),
        "esp_not_authentic": sum(use.integrity_failed for use in uses),
        **_statistics(),
    }


def _statistics() -> dict[str, int]:
    """Empty where the kernel keeps none (CONFIG_XFRM_STATISTICS)."""
    if not _STATISTICS.exists():
        return {}
    rows = (line.split() for line in _STATISTICS.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}
