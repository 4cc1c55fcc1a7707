"""Certificates as all sides look at them: who issued one, which roots vouch for it, when to renew.

Everything is PEM. A chain is a node's certificate and, while the root is being replaced, the new root's key
certified by the old root (a cross-certificate, RFC 5280): it leads who trusts only the old root to the new
one. Roots are those to trust; the first one is the one that issues.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from swarmnet.core.limits import CLOCK_SKEW_S, RENEW_BETWEEN
from swarmnet.core.tokens import root_digest


def is_anchored(chain_pem: bytes, roots_pem: bytes) -> bool:
    """Whether one of the roots vouches for the chain's first certificate, through the rest if need be.

    ValueError for what is no PEM certificate.
    """
    found, *between = x509.load_pem_x509_certificates(chain_pem)
    for issuer in between:
        if not is_anchored_directly(found, roots_pem) and _issued(issuer, found):
            found = issuer
    return is_anchored_directly(found, roots_pem)


def is_anchored_directly(certificate: x509.Certificate, roots_pem: bytes) -> bool:
    return any(_issued(root, certificate) for root in x509.load_pem_x509_certificates(roots_pem))


def is_of_first(chain_pem: bytes, roots_pem: bytes) -> bool:
    """Whether the first of the roots issued the certificate."""
    return _issued(x509.load_pem_x509_certificate(roots_pem), x509.load_pem_x509_certificate(chain_pem))


def issuer_among(chain_pem: bytes, roots_pem: bytes) -> str:
    """Digest of the root that issued the certificate itself; empty if none of them did."""
    certificate = x509.load_pem_x509_certificate(chain_pem)
    found = (root for root in x509.load_pem_x509_certificates(roots_pem) if _issued(root, certificate))
    return next((root_digest(root.public_bytes(Encoding.DER)) for root in found), "")


def digest_of(root_pem: bytes) -> str:
    """The digest that join tokens carry, of the first root. ValueError for what is no certificate."""
    return root_digest(x509.load_pem_x509_certificate(root_pem).public_bytes(Encoding.DER))


def digests_of(roots_pem: bytes) -> list[str]:
    """Of all roots, in their order."""
    return [
        root_digest(root.public_bytes(Encoding.DER)) for root in x509.load_pem_x509_certificates(roots_pem)
    ]


def expires_at(chain_pem: bytes) -> datetime:
    """The end of the chain's first certificate."""
    return x509.load_pem_x509_certificate(chain_pem).not_valid_after_utc


def renew_at(chain_pem: bytes, point: float) -> datetime:
    """When to renew, `point` (0 to 1) of the way through the part of its life that is allowed for it.

    Its life begins when it was issued; that it is valid earlier is for hosts whose clocks are behind.
    """
    certificate = x509.load_pem_x509_certificate(chain_pem)
    issued_at = certificate.not_valid_before_utc + timedelta(seconds=CLOCK_SKEW_S)
    earliest, latest = RENEW_BETWEEN
    return issued_at + (certificate.not_valid_after_utc - issued_at) * (
        earliest + (latest - earliest) * point
    )


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
