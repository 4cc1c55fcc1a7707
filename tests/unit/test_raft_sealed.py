"""Whoever has the files of a manager but not its key learns nothing of what they hold."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.raft_log import KEK, SMALL
from tests.unit.raft_replay import Net
from tests.unit.searched import files_under, words_in

from swarmnet.core.errors import FailedPrecondition, Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import seal, storage
from swarmnet.manager.raft.disk import REAL_DISK
from swarmnet.manager.raft.seal import DataKey

SECRET = b"epoch-secret-0123456789abcdef-of-a-network"
PLAIN = b"a-service-named-ledger"
NAMES = ("candidate-with-a-name", "follower-with-a-name", "another-with-a-name")


def open_to_others(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.stat().st_mode & 0o077]


def worked(folder: Path) -> list[Path]:
    """All that leads to a file: entries, members, votes, segments, a snapshot made and one received."""
    net = Net(NAMES, folder, layout=SMALL)
    first, _, third = (net[name] for name in NAMES)
    first.campaign()
    net.settle()
    for number in range(60):
        first.put(b"%d " % number + SECRET + PLAIN)
        net.settle(NAMES[:2], rounds=2)
    first.raft.compact()
    for _ in range(4):
        first.step()
    net.drop_all()
    net.settle(rounds=10)
    assert third.applied == first.applied
    assert len(first.acknowledged) == 60
    net.close()
    return [folder / name for name in NAMES]


async def test_no_file_holds_anything_in_clear(tmp_path: Path) -> None:
    folders = worked(tmp_path)
    kinds = {path.name if path.parent.name != "journal" else "segment" for path in files_under(tmp_path)}
    assert kinds == {"data.keys", "lock", "segment", "snapshot"}
    assert sum(path.name == "snapshot" for path in files_under(tmp_path)) == 2
    words = [SECRET, PLAIN, KEK.reveal(), *(name.encode() for name in NAMES)]
    for folder in folders:
        assert words_in(folder, words) == []
    assert open_to_others(tmp_path) == []


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    for number, raw in enumerate((SECRET, SECRET.hex().encode(), b64encode(b"xy" + SECRET + b"tail"))):
        (tmp_path / str(number)).write_bytes(bytes(100) + raw)
    assert sorted(words_in(tmp_path, [SECRET, PLAIN])) == [(str(number), SECRET) for number in range(3)]


async def test_the_data_key_is_in_no_file_and_nothing_opens_without_it(tmp_path: Path) -> None:
    folder, *_ = worked(tmp_path)
    (raw_key,) = (each.secret.reveal() for each in keys_in(folder))
    assert len(raw_key) == seal.KEY_BYTES
    assert words_in(tmp_path, [raw_key]) == []
    with pytest.raises(FailedPrecondition, match="does not open"):
        storage.open_existing(folder, SecretBytes(b"w" * 32))
    (folder / "data.keys").unlink()
    seal.create_data_keys(REAL_DISK, folder / "data.keys", KEK)
    with pytest.raises(Internal, match="sealed with another key"):
        storage.open_existing(folder, KEK)


def keys_in(folder: Path) -> list[DataKey]:
    """All the data keys that are on this manager's disk, opened."""
    found = seal.load_data_keys(REAL_DISK, folder / "data.keys", KEK)
    return [*found.old, found.newest]


async def test_the_same_entry_never_looks_the_same(tmp_path: Path) -> None:
    """Equal commands, and the same log at two managers, show nothing in common."""
    folders = worked(tmp_path)
    sealed = [raw for folder in folders for raw in bodies(folder)]
    blocks = [raw[at : at + 16] for raw in sealed for at in range(0, len(raw) - 15, 16)]
    assert len(blocks) > 1000
    assert len(set(blocks)) == len(blocks)


def bodies(folder: Path) -> Iterator[bytes]:
    """The sealed frames of a manager, and its snapshot."""
    for path in files_under(folder):
        if path.parent.name == "journal":
            yield from (frame[8:] for frame in path.read_bytes().rstrip(b"\0").split(b"\xf0SNF")[1:])
        elif path.name == "snapshot":
            yield path.read_bytes()[8:]
