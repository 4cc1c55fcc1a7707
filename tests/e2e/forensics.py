"""What is to be found of keys: in a process's memory, on a host's disk, in its kernel, in what was sent."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.cli.lab.place import STATE_DIR, Lab
from swarmnet.core.keys import EpochSecret, esp_key, gossip_key
from swarmnet.core.secret import SecretBytes

PIECE_BYTES: Final = 16
"""A key is found when this much of it is, from any multiple of it on."""
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw\S+ ")
_PAGE_BYTES: Final = 4096
_ZEROS: Final = bytes(_PAGE_BYTES)

Pieces = Mapping[str, tuple[bytes, ...]]
"""What the key is of -> its pieces."""


@dataclass(frozen=True)
class Known:
    """Every epoch secret that the managers ever sent to anybody, by (scope, epoch)."""

    secrets: Mapping[tuple[str, int], bytes]
    nodes: tuple[str, ...]

    def pieces(self, scope: str) -> Pieces:
        """Of all secrets of the scope, and of all keys that any node could make of them."""
        found: dict[str, tuple[bytes, ...]] = {}
        for (of, epoch), secret in self.secrets.items():
            if of == scope:
                found[f"secret of epoch {epoch}"] = _cut(secret)
                found |= self._derived(EpochSecret(of, epoch, SecretBytes(secret)))
        return found

    def _derived(self, secret: EpochSecret) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        for sender in self.nodes:
            yield f"gossip key of {sender}, epoch {secret.epoch}", _cut(gossip_key(secret, sender).reveal())
        for sender, receiver in permutations(self.nodes, 2):
            key = esp_key(secret, sender, receiver).reveal()
            yield f"ESP key from {sender} to {receiver}, epoch {secret.epoch}", _cut(key)


def _cut(key: bytes) -> tuple[bytes, ...]:
    return tuple(key[at : at + PIECE_BYTES] for at in range(0, len(key) - PIECE_BYTES + 1, PIECE_BYTES))


def known(record: Path) -> Known:
    """From the records of all nodes."""
    nodes = tuple(sorted(file.name for file in record.iterdir()))
    secrets = {
        (scope.scope, epoch.number): epoch.secret
        for node in nodes
        for assignment in sent(record, node)
        for scope in assignment.keys
        for epoch in scope.epochs
    }
    return Known(secrets, nodes)


def sent(record: Path, node: str) -> list[dispatcher.Assignment]:
    """All that the node was ever sent."""
    raw, found, at = (record / node).read_bytes(), [], 0
    while at + 4 <= len(raw):
        (length,) = struct.unpack_from("!I", raw, at)
        found.append(dispatcher.Assignment.FromString(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def found(blocks: Iterable[bytes], pieces: Pieces) -> set[str]:
    """Which of the keys are in the blocks, be it in part."""
    here: set[str] = set()
    for block in blocks:
        here |= {name for name, parts in pieces.items() if any(part in block for part in parts)}
    return here


def memory(lab: Lab, host: str) -> Iterator[bytes]:
    """All that the host's daemon can write to of its memory, without pages of zeros: what a core holds."""
    pid = process_of(lab, host)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if mapping := _MAPPING.match(line):
                file.seek(int(mapping[1], 16))
                yield _without_zeros(file.read(int(mapping[2], 16) - int(mapping[1], 16)))


def _without_zeros(block: bytes) -> bytes:
    """Stacks and heaps are mostly never written to; no key has a page of zeros in it."""
    pages = (block[at : at + _PAGE_BYTES] for at in range(0, len(block), _PAGE_BYTES))
    return b"".join(page for page in pages if page != _ZEROS)


def process_of(lab: Lab, host: str) -> int:
    """The daemon's number here: the lab counts processes from 1 for itself."""
    inside = (lab.folder / "pids" / host).read_text().strip()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            same = os.stat(each / "ns" / "pid").st_ino == lab.process_namespace
            numbers = re.search(r"^NSpid:\s+(.*)$", (each / "status").read_text(), re.MULTILINE)
        except OSError:
            continue  # it ended, or is none of ours
        if same and numbers is not None and numbers[1].split()[-1] == inside:
            return int(each.name)
    raise AssertionError(f"the daemon of {host} does not run")


def disk(lab: Lab, host: str) -> Iterator[bytes]:
    """Every file of the host's state directory, and its daemon's log."""
    state = Path(f"{lab.root()}/proc/{lab.host(host).pid}/root{STATE_DIR}")
    files = [file for file in state.rglob("*") if file.is_file()]
    assert files, f"{host} has no state"
    for file in (*files, lab.logs / f"{host}.log"):
        yield file.read_bytes()


def kernel(lab: Lab, host: str) -> bytes:
    """The keys of the SAs that the host's kernel has, as bytes."""
    shown = lab.run(host, ["ip", "xfrm", "state"])
    assert shown.returncode == 0, shown.stderr
    return b"\n".join(bytes.fromhex(key) for key in re.findall(r"aead \S+ 0x([0-9a-f]+)", shown.stdout))
