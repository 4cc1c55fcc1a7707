"""A small disk of its own for a directory, to be filled up: a tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self) -> None:
        """Leave no room, whoever takes some meanwhile."""
        with self._ballast.open("wb") as file:
            while free := os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize:
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)

    def free(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[SmallDisk]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
