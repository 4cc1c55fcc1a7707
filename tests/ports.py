"""Free TCP ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from typing import Final

_PORTS: Final = range(12_000, 32_000)
"""Below those that Linux gives outgoing connections (ip_local_port_range): one of these would take a port
that was free a moment ago."""
_choose: Final = random.SystemRandom().choice
_given: Final[set[int]] = set()


def free_port() -> int:
    """Nobody listens there on 127.0.0.1, and nobody in this process was given it before."""
    while True:
        port = _choose(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
