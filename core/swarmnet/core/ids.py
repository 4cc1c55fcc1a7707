"""Identifiers: 128 random bits written as 25 characters of base36, as docker's swarm writes them."""

from __future__ import annotations

from typing import Final

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.limits import MAX_NAME_LENGTH

ID_LENGTH: Final = 25
SHORT_ID_LENGTH: Final = 12
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def to_base36(raw: bytes, length: int) -> str:
    """Write `raw`, a big-endian number, as `length` base36 digits. ValueError when it does not fit."""
    number = int.from_bytes(raw, "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    if number:
        raise ValueError(f"{len(raw)} bytes do not fit {length} base36 digits")
    return "".join(reversed(digits))


def from_base36(text: str, size: int) -> bytes:
    """Read what to_base36 wrote. ValueError for another alphabet or a number above `size` bytes."""
    if not text or any(c not in _DIGITS for c in text):
        raise ValueError("not base36")
    try:
        return int(text, 36).to_bytes(size, "big")
    except OverflowError as error:
        raise ValueError(f"more than {size} bytes") from error


def make_id(random16: bytes) -> str:
    """An identifier from 16 random bytes."""
    if len(random16) != 16:
        raise ValueError("an id takes 16 random bytes")
    return to_base36(random16, ID_LENGTH)


def is_id(text: str) -> bool:
    return len(text) == ID_LENGTH and all(c in _DIGITS for c in text)


def check_name(text: str, what: str, *, longest: int = MAX_NAME_LENGTH) -> str:
    """A name an operator gave: letters, digits, `_`, `.` and `-`, starting with a letter or digit."""
    allowed = all(c.isascii() and (c.isalnum() or c in "_.-") for c in text)
    if not text or len(text) > longest or not allowed or not text[0].isalnum():
        raise InvalidArgument(
            f"invalid {what} name {text!r}",
            hint=f"Use 1 to {longest} of the characters a-z A-Z 0-9 _ . - and start with a letter or digit.",
        )
    return text
