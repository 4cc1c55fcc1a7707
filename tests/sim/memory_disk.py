"""A disk in memory whose power can be cut: what was not synced is then there, in part, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

SECTOR_BYTES: Final = 512


class PowerCut(BaseException):
    """Raised by every operation from the cut until `restart`: nothing may catch it but the test."""


@dataclass(slots=True)
class _Inode:
    """`changes` came after `synced`: (offset, bytes) of a write, (size, None) of a new size."""

    synced: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)


_NameChange = Callable[[dict[Path, _Inode]], object]


@dataclass
class MemoryDisk:
    """A `swarmnet.manager.raft.disk.Disk`.

    `capacity_bytes` may be changed at any time. `cut_after`: the power goes when that many more operations
    were done. `fault` is asked before each operation (its name, its path) and may raise. `syncs` counts.
    """

    random: Random = field(default_factory=lambda: Random(0))
    capacity_bytes: int = 1 << 40
    cut_after: int | None = None
    fault: Callable[[str, Path], None] | None = None
    syncs: int = 0
    operations: list[str] = field(default_factory=list)
    _files: dict[Path, _Inode] = field(default_factory=dict)
    _synced_files: dict[Path, _Inode] = field(default_factory=dict)
    _name_changes: list[tuple[Path, _NameChange]] = field(default_factory=list)
    _folders: set[Path] = field(default_factory=set)
    _locked: set[Path] = field(default_factory=set)
    _boot: int = 0

    # Disk

    def make_folder(self, path: Path) -> None:
        self._do("make folder", path)
        self._folders.update((path, *path.parents))

    def is_folder(self, path: Path) -> bool:
        return path in self._folders

    def names(self, folder: Path) -> list[str]:
        self._check_folder(folder)
        return sorted(path.name for path in self._files if path.parent == folder)

    def read(self, path: Path) -> bytes:
        return bytes(self._inode(path).content)

    def create(self, path: Path) -> _MemoryFile:
        self._do("create", path)
        self._check_folder(path.parent)
        inode = _Inode()
        self._change_names(path.parent, lambda files: files.update({path: inode}))
        return _MemoryFile(self, path, inode)

    def open(self, path: Path) -> _MemoryFile:
        return _MemoryFile(self, path, self._inode(path))

    def rename(self, path: Path, to: Path) -> None:
        self._do("rename", path)
        inode = self._inode(path)

        def change(files: dict[Path, _Inode]) -> None:
            files.pop(path, None)
            files[to] = inode

        self._change_names(path.parent, change)

    def remove(self, path: Path) -> None:
        self._do("remove", path)
        self._inode(path)
        self._change_names(path.parent, lambda files: files.pop(path, None))

    def sync_folder(self, path: Path) -> None:
        self._do("sync folder", path)
        self._check_folder(path)
        self.syncs += 1
        for folder, change in self._name_changes:
            if folder == path:
                change(self._synced_files)
        self._name_changes = [each for each in self._name_changes if each[0] != path]

    def free_bytes(self, folder: Path) -> int:
        return max(0, self.capacity_bytes - self.used_bytes())

    def lock(self, path: Path) -> _MemoryLock:
        self._do("lock", path)
        if path in self._locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        self._locked.add(path)
        return _MemoryLock(self, path)

    # The test's side

    def used_bytes(self) -> int:
        return sum(len(inode.content) for inode in self._files.values())

    def kill(self) -> None:
        """SIGKILL of the process: what it wrote stays, synced or not; its open files and locks are gone."""
        self.cut_after = None
        self._boot += 1
        self._locked.clear()

    def restart(self) -> None:
        """The power was cut and is back: of what was not synced, `random` says what is left."""
        self.kill()
        files = dict(self._synced_files)
        likely = self.random.choice((0.0, 0.5, 0.9, 1.0))
        for _, change in self._name_changes:
            if self.random.random() < likely:
                change(files)
        self._files, self._synced_files, self._name_changes = files, dict(files), []
        for inode in {id(each): each for each in files.values()}.values():
            self._tear(inode)

    def _tear(self, inode: _Inode) -> None:
        left = inode.synced
        for place, data in inode.changes:
            match self.random.choice(("lost", "kept", "begun", "sectors")):
                case "lost":
                    pass
                case "kept":
                    _apply(left, place, data)
                case "begun" if data is not None:
                    _apply(left, place, data[: self.random.randint(0, len(data))])
                case "sectors" if data is not None:
                    for start in range(0, len(data), SECTOR_BYTES):
                        if self.random.random() < 0.5:
                            _apply(left, place + start, data[start : start + SECTOR_BYTES])
                case _:
                    pass
        inode.content, inode.changes = bytearray(left), []

    # Inside

    def _do(self, operation: str, path: Path) -> None:
        if self.cut_after is not None and self.cut_after <= 0:
            raise PowerCut(f"{operation} {path}")
        if self.cut_after is not None:
            self.cut_after -= 1
        self.operations.append(f"{operation} {path.name}")
        if self.fault is not None:
            self.fault(operation, path)

    def _change_names(self, folder: Path, change: _NameChange) -> None:
        change(self._files)
        self._name_changes.append((folder, change))

    def _check_folder(self, path: Path) -> None:
        if path not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def _inode(self, path: Path) -> _Inode:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._files[path]


class _MemoryFile:
    def __init__(self, disk: MemoryDisk, path: Path, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._boot = disk._boot

    def write(self, offset: int, data: bytes) -> None:
        """As much as there is room for, and ENOSPC if that is not all."""
        self._begin("write")
        grows = offset + len(data) - len(self._inode.content)
        lacks = max(0, grows - self._disk.free_bytes(self._path.parent))
        self._change(offset, bytes(data[: len(data) - lacks]))
        if lacks:
            self._refuse()

    def allocate(self, size_bytes: int) -> None:
        self._begin("allocate")
        grows = size_bytes - len(self._inode.content)
        if grows > self._disk.free_bytes(self._path.parent):
            self._refuse()
        if grows > 0:
            self._change(size_bytes, None)

    def truncate(self, size_bytes: int) -> None:
        self._begin("truncate")
        self._change(size_bytes, None)

    def sync(self) -> None:
        self._begin("sync")
        self._disk.syncs += 1
        for place, data in self._inode.changes:
            _apply(self._inode.synced, place, data)
        self._inode.changes.clear()

    def close(self) -> None:
        pass

    def _begin(self, operation: str) -> None:
        assert self._boot == self._disk._boot, "a file of a process that is dead"
        self._disk._do(operation, self._path)

    def _change(self, place: int, data: bytes | None) -> None:
        _apply(self._inode.content, place, data)
        self._inode.changes.append((place, data))

    def _refuse(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


@dataclass
class _MemoryLock:
    disk: MemoryDisk
    path: Path

    def close(self) -> None:
        self.disk._locked.discard(self.path)


def _apply(content: bytearray, place: int, data: bytes | None) -> None:
    """Write `data` at `place`, or make the content `place` bytes long."""
    end = place if data is None else place + len(data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[place:]
    else:
        content[place:end] = data
