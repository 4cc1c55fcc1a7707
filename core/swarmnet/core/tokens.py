"""Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`, both base36.

The digest (SHA-256 of the root certificate in DER, 50 digits) lets a joining node pin the root before it
sends the secret (128 random bits, 25 digits). docker's swarm uses the same form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from swarmnet.core.errors import MalformedToken
from swarmnet.core.ids import from_base36, to_base36
from swarmnet.core.secret import SecretBytes

_PREFIX: Final = "SWMTKN-1"
_DIGEST_DIGITS: Final = 50
_SECRET_DIGITS: Final = 25


def root_digest(root_der: bytes) -> str:
    """The 50 base36 digits that pin a root certificate (DER)."""
    return to_base36(hashlib.sha256(root_der).digest(), _DIGEST_DIGITS)


@dataclass(frozen=True, slots=True)
class JoinToken:
    digest: str
    secret: SecretBytes

    def text(self) -> str:
        """The token as operators pass it; it is a secret."""
        return f"{_PREFIX}-{self.digest}-{to_base36(self.secret.reveal(), _SECRET_DIGITS)}"


def make_token(root_der: bytes, random16: bytes) -> JoinToken:
    """A token for the root from 16 random bytes."""
    return JoinToken(root_digest(root_der), SecretBytes(random16))


def parse_token(text: str) -> JoinToken:
    """MalformedToken, which never repeats the text, when it has another form."""
    parts = text.strip().rsplit("-", 2)
    try:
        prefix, digest, secret = parts
        if prefix != _PREFIX or len(digest) != _DIGEST_DIGITS or len(secret) != _SECRET_DIGITS:
            raise ValueError("form")
        from_base36(digest, 32)
        return JoinToken(digest, SecretBytes(from_base36(secret, 16)))
    except ValueError:
        raise MalformedToken(
            "invalid join token",
            hint="A join token looks like SWMTKN-1-<50 characters>-<25 characters>. "
            "Print it on a manager with `swarmnet swarm join-token worker` (or `manager`).",
        ) from None
