"""How far this node has come with each key, across restarts of the worker and of the host.

The nonces of an SA are made of its sequence numbers (RFC 4106, section 3.1), so no number may be sent twice
under one key; and none may be received twice (RFC 4303, section 3.4.3). But SAs are made anew: the node left
the network and came back, somebody flushed the kernel's tables, the host restarted. So the ledger keeps, for
every key that an SA was made of, after which number the next SA of that key has to begin:

    taken away by us    after what the kernel had counted; the other end follows
    gone by itself      nobody knows how far it had come. An outbound one begins 2^48 further on, where no SA
                        has been; the other end cannot follow, as only half of the number is on the wire. So
                        the key is `lost`: the node asks for a rotation, and until then nothing gets through

By fingerprint: no key is in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.errors import Internal

_MODE: Final = 0o600
_STRIDE: Final = 1 << 48
_MARGIN: Final = 1 << 20
"""Packets that may have left between the kernel's count and the end of the SA."""
_FOLLOWED: Final = 1 << 32
"""A new SA at the other end takes every number below this for what it is."""


class Count(NamedTuple):
    """The last sequence numbers of an SA: an outbound one has only sent, an inbound one only received."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class _Use:
    """`begin`: the number after which the next SA begins; while one is `open`, this one began there."""

    begin: int = 0
    open: bool = False
    lost: bool = False


class Ledger:
    """Scope, epoch, fingerprint -> how far its key was used. Kept in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._uses: dict[str, dict[int, dict[str, _Use]]] = _load(path)
        made = (each for epochs in self._uses.values() for each in epochs.values())
        self._by_key = {key: use for each in made for key, use in each.items()}

    def begin(self, sas: Iterable[Sa]) -> dict[str, int]:
        """Fingerprint -> the number after which each SA has to begin; on disk before the SAs are made."""
        begins = {}
        for sa in sas:
            made = self._uses.setdefault(sa.scope, {}).setdefault(sa.epoch, {})
            use = self._by_key[sa.fingerprint] = made.setdefault(sa.fingerprint, _Use())
            if use.open and sa.outbound:
                use.begin = (use.begin // _STRIDE + 1) * _STRIDE
            use.lost = use.lost or use.open or use.begin >= _FOLLOWED
            use.open = True
            begins[sa.fingerprint] = use.begin
        if begins:
            self._save()
        return begins

    def knows(self, sas: Iterable[Sa]) -> bool:
        """Whether it has to be told of any of them when they go."""
        return any(sa.fingerprint in self._by_key for sa in sas)

    def end(self, counts: Mapping[str, Count]) -> None:
        """These SAs are gone from the kernel, or go next: fingerprint -> how far each had come."""
        known = counts.keys() & self._by_key.keys()
        for key in known:
            use, count = self._by_key[key], counts[key]
            last = count.sent + _MARGIN if count.sent else count.received
            use.begin, use.open = max(use.begin, last), False
        if known:
            self._save()

    def lost(self, sa: Sa) -> bool:
        """Whether the two ends of this one's key do not go on where they stopped."""
        use = self._by_key.get(sa.fingerprint)
        return use is not None and use.lost

    def forget(self, live: Mapping[str, frozenset[int]]) -> None:
        """Drop the epochs that are over: of each scope in `live`, those older than its oldest live epoch."""
        over = [
            (scope, epoch)
            for scope, numbers in live.items()
            if numbers
            for epoch in self._uses.get(scope, {})
            if epoch < min(numbers)
        ]
        for scope, epoch in over:
            for key in self._uses[scope].pop(epoch):
                del self._by_key[key]
        if over:
            self._save()

    def erase(self) -> None:
        """Forget all: the node is no longer of the cluster."""
        self._uses.clear()
        self._by_key.clear()
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._path.with_suffix(".new")
        content = {
            scope: {
                epoch: {key: [use.begin, use.open, use.lost] for key, use in made.items()}
                for epoch, made in epochs.items()
            }
            for scope, epochs in self._uses.items()
        }
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _load(path: Path) -> dict[str, dict[int, dict[str, _Use]]]:
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {
            scope: {
                int(epoch): {
                    str(key): _Use(int(begin), *map(bool, how)) for key, (begin, *how) in made.items()
                }
                for epoch, made in epochs.items()
            }
            for scope, epochs in found.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise Internal(
            f"the ledger of used keys at {path} cannot be read: {error}",
            hint="Delete the file, then run `swarmnet key rotate`, so that no key is used twice.",
        ) from error
