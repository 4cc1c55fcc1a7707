"""Which keys this node has sent with, across restarts of the worker and of the host.

An outbound SA that is made a second time (the kernel's tables were flushed, the host restarted, the node
left the network and came back) counts its packets from 1 again under the same key: receivers take them for
replays, and the sequence numbers that nonces are made of repeat. The ledger remembers a fingerprint of every
key that an outbound SA was made of, so that the node can ask for a rotation instead of going on. No key is
in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.errors import Internal

_MODE: Final = 0o600


class Ledger:
    """How many outbound SAs were made of each key: scope, epoch, fingerprint -> count. Kept in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[str, dict[int, dict[str, int]]] = _load(path)

    def record(self, sas: Iterable[Sa]) -> None:
        """On disk once this returns, and before the SAs are made."""
        count = 0
        for sa in sas:
            made = self._made.setdefault(sa.scope, {}).setdefault(sa.epoch, {})
            made[sa.fingerprint] = made.get(sa.fingerprint, 0) + 1
            count += 1
        if count:
            self._save()

    def reused(self, sa: Sa) -> bool:
        """Whether more than one SA was made of this one's key."""
        return self._made.get(sa.scope, {}).get(sa.epoch, {}).get(sa.fingerprint, 0) > 1

    def forget(self, live: Mapping[str, frozenset[int]]) -> None:
        """Drop the epochs that are over: of each scope in `live`, those older than its oldest live epoch."""
        over = [
            (scope, epoch)
            for scope, numbers in live.items()
            if numbers
            for epoch in self._made.get(scope, {})
            if epoch < min(numbers)
        ]
        for scope, epoch in over:
            del self._made[scope][epoch]
        if over:
            self._save()

    def erase(self) -> None:
        """Forget all: the node is no longer of the cluster."""
        self._made.clear()
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "w") as file:
            json.dump(self._made, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _load(path: Path) -> dict[str, dict[int, dict[str, int]]]:
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {
            scope: {
                int(epoch): {str(key): int(count) for key, count in made.items()}
                for epoch, made in epochs.items()
            }
            for scope, epochs in found.items()
        }
    except (ValueError, AttributeError) as error:
        raise Internal(
            f"the ledger of used keys at {path} cannot be read: {error}",
            hint="Delete the file, then run `swarmnet key rotate`, so that no key is used twice.",
        ) from error
