"""Keys on their way to a worker, sealed once more inside of TLS: what TLS leaves in memory opens nothing.

A library that decrypts a stream keeps what it decrypted in buffers of its own, for as long as it likes. So
that a key is gone from a worker's memory when the worker forgets it, each message's keys are sealed under one
that is used for this message only and forgotten on both sides.

    shared  = X25519(the worker's pair of this session, the manager's pair of this session)      RFC 7748
    link 0  = shared, then the worker's public key, then the manager's
    step    = HKDF-SHA256(link n, info "swarmnet/1 key chain") -> key n (32 bytes), link n+1 (32 bytes)
    sealed  = AES-256-GCM(key n, nonce of zeros: the key is used once)

Who the other side is, TLS has proved already.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmnet.core.secret import SecretBytes

PUBLIC_KEY_BYTES: Final = 32
_LABEL: Final = b"swarmnet/1 key chain"
_NONCE: Final = bytes(12)


class KeyChain:
    """One end of a session: what one end seals, the other opens, each message once and in order."""

    def __init__(self, link: SecretBytes) -> None:
        self._link = link

    def seal(self, plain: bytes) -> bytes:
        return AESGCM(self._next()).encrypt(_NONCE, plain, None)

    def open(self, sealed: bytes) -> bytes:
        """ValueError for what is not the next message of the other end; the chain is of no use after that."""
        try:
            return AESGCM(self._next()).decrypt(_NONCE, sealed, None)
        except InvalidTag:
            raise ValueError("not sealed by the other end of this session, or out of order") from None

    def _next(self) -> bytes:
        made = HKDF(SHA256(), 64, salt=None, info=_LABEL).derive(self._link.reveal())
        self._link.erase()
        self._link = SecretBytes(made[32:])
        return made[:32]


class KeyOffer:
    """A pair for one session, made of 32 random bytes. It is forgotten once it has made its chain."""

    def __init__(self, random32: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random32)
        self.public = self._private.public_key().public_bytes_raw()

    def workers_end(self, managers_public: bytes) -> KeyChain:
        """ValueError for what is no public key."""
        return self._chain(managers_public, self.public + managers_public)

    def managers_end(self, workers_public: bytes) -> KeyChain:
        """ValueError for what is no public key."""
        return self._chain(workers_public, workers_public + self.public)

    def _chain(self, other: bytes, both: bytes) -> KeyChain:
        return KeyChain(SecretBytes(self._private.exchange(X25519PublicKey.from_public_bytes(other)) + both))
