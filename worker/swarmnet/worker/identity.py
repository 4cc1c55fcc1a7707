"""Who this worker is: its certificate, the key of it, and the roots of the cluster that it believes.

On disk: certificates/{node.pem,node.key,root.pem}, 0600, each replaced as a whole. A renewal writes the new
key beside the old one first, so whichever certificate a crash leaves, its key is there too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from swarmnet.core import certificates
from swarmnet.core.certificates import is_anchored, is_of_first
from swarmnet.core.errors import Internal
from swarmnet.core.secret import SecretBytes

_KEY: Final = "node.key"
_NEXT_KEY: Final = "node.key.next"


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM of the certificate's chain and of the roots to trust are as core/certificates.py has them."""

    certificate_pem: bytes
    key: SecretBytes
    root_pem: bytes

    @property
    def node_id(self) -> str:
        return self._subject(NameOID.COMMON_NAME)

    @property
    def cluster_id(self) -> str:
        return self._subject(NameOID.ORGANIZATION_NAME)

    @property
    def role(self) -> str:
        return self._subject(NameOID.ORGANIZATIONAL_UNIT_NAME)

    def renew_at(self, point: float) -> datetime:
        """When to renew, `point` (0 to 1) of the way through the part of its life that is allowed for it."""
        return certificates.renew_at(self.certificate_pem, point)

    def expires_at(self) -> datetime:
        return certificates.expires_at(self.certificate_pem)

    def fits(self) -> bool:
        """Whether one of the roots vouches for the certificate, and the key is its own."""
        key = load_pem_private_key(self.key.reveal(), None)
        fits = isinstance(key, ec.EllipticCurvePrivateKey) and (
            key.public_key() == self._certificate().public_key()
        )
        return fits and is_anchored(self.certificate_pem, self.root_pem)

    def is_current(self) -> bool:
        """Whether the certificate was issued by the root that issues now."""
        return is_of_first(self.certificate_pem, self.root_pem)

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem)

    def _subject(self, oid: x509.ObjectIdentifier) -> str:
        return str(self._certificate().subject.get_attributes_for_oid(oid)[0].value)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A new ECDSA P-256 key, and a request that says nothing but "I have it": the managers name the node."""

    key: SecretBytes
    pem: bytes


def make_request() -> SigningRequest:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningRequest(SecretBytes(pem), request.public_bytes(Encoding.PEM))


class IdentityFiles:
    """The identity below a state directory. Its methods block, for as long as a disk takes to sync."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "certificates"

    def load(self) -> Identity | None:
        """None when there is none. Internal when what is there does not belong together."""
        if not (self._folder / "node.pem").exists():
            return None
        try:
            for name in (_KEY, _NEXT_KEY):
                if (self._folder / name).exists() and (found := self._read(name)).fits():
                    return found
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        raise self._damaged("certificate, key and root do not belong together")

    def save(self, identity: Identity) -> None:
        """It is on disk when this returns."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._folder / _NEXT_KEY, identity.key.reveal())
        replace_file(self._folder / "root.pem", identity.root_pem)
        replace_file(self._folder / "node.pem", identity.certificate_pem)
        (self._folder / _NEXT_KEY).replace(self._folder / _KEY)
        _sync(self._folder)

    def erase(self) -> None:
        """The key first."""
        for name in (_KEY, _NEXT_KEY, "node.pem", "root.pem"):
            (self._folder / name).unlink(missing_ok=True)
        if self._folder.exists():
            _sync(self._folder)

    def _read(self, key_name: str) -> Identity:
        certificate, key, root = (
            (self._folder / name).read_bytes() for name in ("node.pem", key_name, "root.pem")
        )
        return Identity(certificate, SecretBytes(key), root)

    def _damaged(self, why: str) -> Internal:
        return Internal(
            f"the identity in {self._folder} cannot be used: {why}",
            hint="Restore the folder from a backup, or remove it and join the swarm again.",
        )


def replace_file(path: Path, raw: bytes) -> None:
    """Replace a file, 0600, so that a crash leaves the old content or the new."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
