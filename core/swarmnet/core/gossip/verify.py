"""The managers' signatures of endpoints, each verified once and remembered: 100 us each time else."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

from swarmnet.core.endpoints import Endpoint, claim, holds
from swarmnet.core.gossip.limits import MAX_REMEMBERED_SIGNATURES


class Verifier:
    """Without a key nothing is believed. Only what was found genuine is remembered: junk takes no memory."""

    def __init__(self) -> None:
        self._public_key = b""
        self._genuine: OrderedDict[bytes, None] = OrderedDict()

    def set_key(self, public_key: bytes) -> None:
        if public_key != self._public_key:
            self._public_key = public_key
            self._genuine.clear()

    def believes(self, endpoint: Endpoint, signature: bytes) -> bool:
        if (said := claim(endpoint, signature)) is None:
            return False
        mark = sha256(said.ed25519 + said.message).digest()
        if mark in self._genuine:
            self._genuine.move_to_end(mark)
            return True
        if not self._public_key or not holds(self._public_key, said):
            return False
        self._genuine[mark] = None
        if len(self._genuine) > MAX_REMEMBERED_SIGNATURES:
            self._genuine.popitem(last=False)
        return True
