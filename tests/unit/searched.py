"""Looks for secrets in files, however they may be written there."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path


def files_under(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file())


def words_in(folder: Path, words: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Which of these stand in which file, as they are, in hex, or in base64 at any shift."""
    forms = {word: [word, word.hex().encode(), *in_base64(word)] for word in words}
    found = []
    for path in files_under(folder):
        raw = path.read_bytes()
        found += [
            (path.name, word) for word, written in forms.items() if any(each in raw for each in written)
        ]
    return found


def in_base64(word: bytes) -> list[bytes]:
    return [b64encode(bytes(shift) + word)[8:-4] for shift in range(3)]
