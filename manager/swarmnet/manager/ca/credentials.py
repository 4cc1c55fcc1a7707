"""A node's own certificate, key and root in memory: who it says it is, and when it must renew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from swarmnet.core import certificates
from swarmnet.core.certificates import is_anchored, is_of_first
from swarmnet.core.errors import Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.authority import Subject
from swarmnet.manager.identity import CallerRole


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM of the certificate's chain, its private key, and the roots to trust: core/certificates.py."""

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
        """Whether one of the roots vouches for the certificate."""
        return is_anchored(self.certificate_pem, self.root_pem)

    def is_current(self) -> bool:
        """Whether it was issued by the root that issues now."""
        return is_of_first(self.certificate_pem, self.root_pem)

    def roots(self) -> list[str]:
        """Digests of the roots to trust."""
        return certificates.digests_of(self.root_pem)

    def is_valid(self, now: datetime) -> bool:
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc

    def expires_at(self) -> datetime:
        return certificates.expires_at(self.certificate_pem)

    def renew_at(self, point: float) -> datetime:
        """When to renew, `point` (0 to 1) of the way through the allowed part of its life."""
        return certificates.renew_at(self.certificate_pem, point)


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
