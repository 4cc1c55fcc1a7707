"""The key that opens an autolocked swarm's managers: `SWMKEY-1-` and 32 bytes in base64, as docker has it."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Final

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.secret import SecretBytes

UNLOCK_KEY_BYTES: Final = 32
_PREFIX: Final = "SWMKEY-1-"


def unlock_key_text(key: SecretBytes) -> str:
    """As operators keep it; it is a secret."""
    return _PREFIX + b64encode(key.reveal()).decode().rstrip("=")


def parse_unlock_key(text: str) -> SecretBytes:
    """InvalidArgument, which never repeats the text, when it has another form."""
    encoded = text.strip().removeprefix(_PREFIX)
    try:
        raw = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.strip().startswith(_PREFIX) or len(raw) != UNLOCK_KEY_BYTES:
        raise InvalidArgument(
            "invalid unlock key",
            hint=f"An unlock key looks like {_PREFIX}<43 characters>. "
            "`swarmnet swarm unlock-key` prints it on a manager that is not locked.",
        )
    return SecretBytes(raw)
