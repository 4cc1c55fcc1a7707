"""Where this worker's managers are, kept on disk so that a restart finds them. Nothing here is secret."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from swarmnet.api.v1.dispatcher_pb2 import ManagerAddress
from swarmnet.core.errors import Internal
from swarmnet.worker.identity import replace_file

_FILE: Final = "managers.json"
_UNKNOWN: Final = "unknown "


class Managers:
    """Addresses (host:port) by node id, in the order in which to try them."""

    def __init__(self, state_dir: Path, rng: random.Random) -> None:
        self._path = state_dir / _FILE
        self._rng = rng
        self._known: dict[str, str] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(sorted(self._known.values()))

    def load(self) -> None:
        """Internal when the file is damaged."""
        if not self._path.exists():
            return
        try:
            read = json.loads(self._path.read_bytes())
            self._known = {str(node_id): str(address) for node_id, address in read.items()}
        except (ValueError, AttributeError) as error:
            raise Internal(f"{self._path} is damaged", hint="Remove it and join the swarm again.") from error

    def replace(self, managers: Iterable[ManagerAddress]) -> bool:
        """Whether that was news. An empty list is never believed: there would be no way back."""
        fresh = {each.node_id: each.address for each in managers}
        if not fresh or fresh == self._known:
            return False
        self._known = fresh
        return True

    def replace_addresses(self, addresses: Iterable[str]) -> None:
        """As known from joining, before any manager has said who is who."""
        self._known = {f"{_UNKNOWN}{number}": each for number, each in enumerate(addresses)}

    def node_id_at(self, address: str) -> str:
        """Empty when it is not known."""
        found = (node_id for node_id, each in self._known.items() if each == address)
        return next((each for each in found if not each.startswith(_UNKNOWN)), "")

    def save(self) -> None:
        """Blocks until it is on disk."""
        replace_file(self._path, json.dumps(self._known).encode())

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)

    def order(self, last: str) -> list[ManagerAddress]:
        """All of them, shuffled so that workers spread, the one tried last at the end."""
        known = [ManagerAddress(node_id=node_id, address=each) for node_id, each in self._known.items()]
        self._rng.shuffle(known)
        known.sort(key=lambda each: each.address == last)
        return known
