"""All that Raft asks of a disk; files that are as before or as wanted, whatever moment the power goes."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

from swarmnet.core.errors import Internal


class File(Protocol):
    """An open file. Written but not synced bytes may be there after a power cut, in part, or not at all.

    OSError from `sync` says that nothing is known of the file any more: stop using it.
    """

    def write(self, offset: int, data: bytes) -> None: ...
    def allocate(self, size_bytes: int) -> None:
        """Make the file at least this long, zeros, and have room on the disk for all of it."""

    def truncate(self, size_bytes: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Lock(Protocol):
    """Held until `close`, or until the process ends."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Every method raises OSError as the system call does. Names are durable once their folder is synced."""

    def make_folder(self, path: Path) -> None:
        """Make it (mode 0700) and what is above it, durably, if it is not there."""

    def is_folder(self, path: Path) -> bool: ...
    def names(self, folder: Path) -> list[str]: ...
    def read(self, path: Path) -> bytes: ...
    def create(self, path: Path) -> File:
        """A new, empty file (mode 0600), in place of what has that name."""

    def open(self, path: Path) -> File:
        """An existing file, to change it."""

    def rename(self, path: Path, to: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...
    def free_bytes(self, folder: Path) -> int:
        """What a process without privileges may still store there."""

    def lock(self, path: Path) -> Lock:
        """Keep every other process out. BlockingIOError when one is in."""


class RealDisk:
    """The disk of this machine."""

    def make_folder(self, path: Path) -> None:
        missing = [each for each in (path, *path.parents) if not each.is_dir()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(each.parent)

    def is_folder(self, path: Path) -> bool:
        return path.is_dir()

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path) -> File:
        return _RealFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))

    def open(self, path: Path) -> File:
        return _RealFile(os.open(path, os.O_WRONLY))

    def rename(self, path: Path, to: Path) -> None:
        path.replace(to)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, folder: Path) -> int:
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def lock(self, path: Path) -> Lock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return _RealFile(descriptor)


class _RealFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def allocate(self, size_bytes: int) -> None:
        os.posix_fallocate(self._descriptor, 0, size_bytes)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


REAL_DISK: Final = RealDisk()
_UNFINISHED: Final = ".new"


def damaged(path: Path, what: str) -> Internal:
    """The error for a file that cannot be trusted; starting without it could lose what others rely on."""
    return Internal(
        f"{path} {what}",
        hint="Restore this manager's state directory from a backup, or remove the manager from the swarm, "
        "empty the directory and let it join again.",
    )


def is_full(error: OSError) -> bool:
    """Whether it says that there is no room; everything else says that the disk cannot be relied on."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """Give `path` this content, durably: new file, sync, rename, sync of the folder. If full, as before."""
    fresh = path.with_name(path.name + _UNFINISHED)
    file = disk.create(fresh)
    try:
        file.write(0, data)
        file.sync()
    except OSError as error:
        if is_full(error):
            disk.remove(fresh)
        raise
    finally:
        file.close()
    disk.rename(fresh, path)
    disk.sync_folder(path.parent)


def remove_unfinished(disk: Disk, folder: Path) -> None:
    """Give back the room of what a crash left of `replace_file`."""
    for name in disk.names(folder):
        if name.endswith(_UNFINISHED):
            disk.remove(folder / name)
