"""Loses control messages on their way: a fifth of all packets of the control ports, none of others.

At the bridge's port of each host, on the way to it. The queues are there from the start, so that to change
what is lost is one word to netem: putting queues in place loses whatever passes meanwhile.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from swarmnet.cli.lab.place import Lab
from swarmnet.core.limits import BOOTSTRAP_PORT, GOSSIP_PORT, MANAGER_PORT, RAFT_PORT

LOST_PERCENT: Final = 20
_PORTS: Final = (MANAGER_PORT, BOOTSTRAP_PORT, RAFT_PORT, GOSSIP_PORT)
_TCP_AND_UDP: Final = (6, 17)
_ESP: Final = 50


class ControlLoss:
    """For all managers and workers of the lab."""

    def __init__(self, lab: Lab) -> None:
        self._hosts = [host.name for host in (*lab.of_kind("manager"), *lab.of_kind("worker"))]
        for host in self._hosts:
            _tc(_queues(host))

    @contextmanager
    def raging(self) -> Iterator[None]:
        self._lose(LOST_PERCENT)
        try:
            yield
        finally:
            self._lose(0)

    def _lose(self, percent: int) -> None:
        _tc(f"qdisc change dev {host} parent 1:2 handle 20: netem loss {percent}%" for host in self._hosts)

    def lost(self) -> int:
        """Packets so far."""
        shown = subprocess.run(
            ["tc", "-s", "qdisc", "show"], capture_output=True, text=True, check=True
        ).stdout
        netem = [part for part in shown.split("qdisc ") if part.startswith("netem")]
        return sum(int(part.split("dropped ")[1].split(",")[0]) for part in netem)


def _queues(host: str) -> Iterator[str]:
    """Everything into the first of two bands, the control ports into the second, which is netem's."""
    yield f"qdisc add dev {host} root handle 1: prio bands 2 priomap {' '.join('0' * 16)}"
    yield f"qdisc add dev {host} parent 1:2 handle 20: netem loss 0%"
    filter_ = f"filter add dev {host} parent 1: protocol ip prio"
    yield f"{filter_} 1 u32 match ip protocol {_ESP} 0xff flowid 1:1"
    for protocol in _TCP_AND_UDP:
        for port in _PORTS:
            for side in ("sport", "dport"):
                match = f"match ip protocol {protocol} 0xff match ip {side} {port} 0xffff"
                yield f"{filter_} 2 u32 {match} flowid 1:2"


def _tc(lines: Iterable[str]) -> None:
    subprocess.run(["tc", "-batch", "-"], input="\n".join(lines), text=True, check=True)
