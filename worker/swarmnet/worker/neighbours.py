"""The endpoints of other nodes that the data path goes by.

Gossip forgets a node's endpoints as soon as it hears nothing of that node, and knows none at all after a
restart. The node's tasks may well go on: what stopped is a process that only programs the kernel. So an
endpoint that gossip no longer tells of is believed on

    while its node is silent            for as long as the managers count that node among the network's peers
    when its node is there again        for a while, in which the node tells what it still has

and ends at once when the managers take the node off the network, or somebody else proves to have the address.
Endpoints are signed by the managers; nothing here is believed that was not verified when it was heard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from swarmnet.core.endpoints import Endpoint

LINGER_S: Final = 30.0
"""A node that came back has told everything by then, also where every fifth packet of gossip is lost and its
host has no time for it. To believe an endpoint too long sends packets to nobody; too short loses them."""


@dataclass(slots=True)
class _Known:
    endpoint: Endpoint
    missing_since: float | None = None
    """Since when its node speaks without telling of it."""


class Neighbours:
    """By network. Times are those of one monotonic clock, in seconds."""

    def __init__(self, remembered: Iterable[Endpoint] = ()) -> None:
        self._known: dict[str, list[_Known]] = {}
        for each in remembered:
            self._known.setdefault(each.network_id, []).append(_Known(each))

    def update(
        self,
        network_id: str,
        heard: Iterable[Endpoint],
        peers: frozenset[str],
        speaking: frozenset[str],
        now: float,
    ) -> tuple[Endpoint, ...]:
        """What to believe. `heard` is what gossip tells now, `speaking` the nodes that gossip can ask."""
        fresh = list(heard)
        taken = set(fresh) | {each.ip for each in fresh} | {each.mac for each in fresh}
        kept = []
        for known in self._known.get(network_id, []):
            each = known.endpoint
            if each.node_id in peers and not taken & {each, each.ip, each.mac}:
                silent = each.node_id not in speaking
                known.missing_since = None if silent else (known.missing_since or now)
                if known.missing_since is None or now - known.missing_since < LINGER_S:
                    kept.append(known)
        self._known[network_id] = [*(_Known(each) for each in fresh), *kept]
        return tuple(known.endpoint for known in self._known[network_id])

    def keep_only(self, network_ids: Iterable[str]) -> None:
        """Forget every other network."""
        self._known = {each: self._known[each] for each in network_ids if each in self._known}

    def next_end(self) -> float | None:
        """When the next endpoint stops being believed if nothing is heard of it."""
        since = [
            k.missing_since for each in self._known.values() for k in each if k.missing_since is not None
        ]
        return min(since) + LINGER_S if since else None

    def everything(self) -> frozenset[Endpoint]:
        return frozenset(known.endpoint for each in self._known.values() for known in each)


def load(path: Path) -> Neighbours:
    """What the predecessor of this process believed; nothing if the host restarted or it is unreadable."""
    try:
        return Neighbours(
            Endpoint(network_id, task_id, ip_address(ip), mac, node_id)
            for network_id, task_id, ip, mac, node_id in json.loads(path.read_bytes())
        )
    except (FileNotFoundError, ValueError, TypeError):
        return Neighbours()


def save(path: Path, endpoints: Iterable[Endpoint]) -> None:
    """Replace the file; like the kernel's state that it mirrors, it need not outlive the host."""
    rows = [[e.network_id, e.task_id, str(e.ip), e.mac, e.node_id] for e in endpoints]
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(rows))
    fresh.replace(path)
