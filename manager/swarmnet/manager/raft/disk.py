"""Files that are either as before or as wanted, whatever moment the power goes."""

from __future__ import annotations

import os
from pathlib import Path

from swarmnet.core.errors import Internal


def damaged(path: Path, what: str) -> Internal:
    """The error for a file that cannot be trusted; starting without it could lose what others rely on."""
    return Internal(
        f"{path} {what}",
        hint="Restore this manager's state directory from a backup, or remove the manager from the swarm, "
        "empty the directory and let it join again.",
    )


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` at the descriptor's position. OSError as write(2), a full disk included."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` (mode 0600) this content, durably: new file, fsync, rename, fsync of the directory."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    sync_directory(path.parent)
