"""Secret bytes that cannot be printed by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretBytes:
    """Bytes whose repr, str and format hide them; `reveal` is the only way to read them.

    Comparison takes the same time wherever the first difference is. `erase` overwrites this copy; copies
    that `reveal` handed out are the caller's to drop.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = bytearray(raw)

    def reveal(self) -> bytes:
        return bytes(self._raw)

    def erase(self) -> None:
        self._raw[:] = bytes(len(self._raw))

    def __len__(self) -> int:
        return len(self._raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is no dictionary key")

    def __repr__(self) -> str:
        return f"<secret, {len(self._raw)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
