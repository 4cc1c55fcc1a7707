"""A node's own certificate, key and root in memory: who it says it is, and when it must renew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from swarmnet.core.errors import Internal
from swarmnet.core.limits import RENEW_BETWEEN
from swarmnet.core.secret import SecretBytes
from swarmnet.core.tokens import root_digest
from swarmnet.manager.ca.authority import Subject
from swarmnet.manager.identity import CallerRole


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM of the certificate, its private key, and the cluster's root."""

    certificate_pem: bytes
    key: SecretBytes
    root_pem: bytes

    @property
    def subject(self) -> Subject:
        return subject_of(x509.load_pem_x509_certificate(self.certificate_pem))

    def matches(self) -> bool:
        """Whether the key is the certificate's."""
        key = load_pem_private_key(self.key.reveal(), None)
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        return isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()

    def issued_by_root(self) -> bool:
        """Whether the root signed the certificate."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.root_pem))
        except Exception:
            return False
        return True

    def expires_at(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc

    def renew_at(self, point: float) -> datetime:
        """When to renew, `point` (0 to 1) of the way through the allowed part of its life."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        earliest, latest = RENEW_BETWEEN
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_before_utc + timedelta(
            seconds=life.total_seconds() * (earliest + (latest - earliest) * point)
        )


def subject_of(certificate: x509.Certificate) -> Subject:
    """Internal for a certificate that no authority of ours made."""
    try:
        cluster_id, role, node_id = (
            str(certificate.subject.get_attributes_for_oid(oid)[0].value)
            for oid in (
                NameOID.ORGANIZATION_NAME,
                NameOID.ORGANIZATIONAL_UNIT_NAME,
                NameOID.COMMON_NAME,
            )
        )
        return Subject(node_id, CallerRole(role), cluster_id)
    except (IndexError, ValueError) as error:
        raise Internal(
            "the certificate names no node, role and cluster", hint="Leave the swarm and join again."
        ) from error


def digest_of(root_pem: bytes) -> str:
    """The digest that join tokens carry. ValueError for what is no certificate."""
    return root_digest(x509.load_pem_x509_certificate(root_pem).public_bytes(Encoding.DER))
