"""Which roots are to be trusted, which one issues, and what makes a certificate fit to be a root here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.limits import CERTIFICATE_LIFETIME_S, MIN_ROOT_LIFETIME_S
from swarmnet.core.secret import SecretBytes
from swarmnet.core.timestamps import seconds
from swarmnet.manager.ca.authority import Authority

E = TypeVar("E", bound=x509.ExtensionType)
_LONGEST_PEM: Final = 64 * 1024
_HINT: Final = (
    "Give one certificate that signed itself, ECDSA P-256, which may sign certificates and one intermediate "
    "authority, is valid for another year, and its unencrypted key."
)


@dataclass(frozen=True, slots=True)
class Issuing:
    """`chain_pem` goes behind every certificate; of `roots_pem`, the roots to trust, the first one issues."""

    authority: Authority
    chain_pem: bytes
    roots_pem: bytes
    lifetime_s: float


def issuing(cluster: types.Cluster, secrets: store.ClusterSecrets) -> Issuing:
    """How certificates are issued now: by the new root, while there is one."""
    lifetime_s = seconds(cluster.certificate_lifetime) or CERTIFICATE_LIFETIME_S
    root, key, chain = cluster.root_certificate_pem, secrets.root_key_pem, b""
    if cluster.HasField("root_rotation"):
        root, key = cluster.root_rotation.root_certificate_pem, secrets.next_root_key_pem
        chain = cluster.root_rotation.cross_signed_pem.encode()
    authority = Authority.load(root.encode(), SecretBytes(key))
    return Issuing(authority, chain, trusted_roots(cluster), lifetime_s)


def trusted_roots(cluster: types.Cluster) -> bytes:
    """PEM of the roots to trust, the one that issues first."""
    new = cluster.root_rotation.root_certificate_pem
    return (new + cluster.root_certificate_pem).encode()


def wanted_root(cluster: types.Cluster) -> str:
    """Digest of the root that every node's certificate is to be of."""
    return cluster.root_rotation.root_digest or cluster.root_digest


def checked_root(root_pem: bytes, key_pem: SecretBytes, now: datetime) -> Authority:
    """A root that an operator brought along. InvalidArgument unless everything here can work with it."""
    root, key = _loaded(root_pem, key_pem)
    constraints = _extension(root, x509.BasicConstraints)
    usage = _extension(root, x509.KeyUsage)
    may_sign = constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)
    if not may_sign:
        raise InvalidArgument("the root certificate may not sign certificates", hint=_HINT)
    if constraints is not None and constraints.path_length == 0:
        raise InvalidArgument("the root certificate allows no intermediate authority", hint=_HINT)
    if root.not_valid_before_utc > now:
        raise InvalidArgument("the root certificate is not valid yet", hint=_HINT)
    if root.not_valid_after_utc < now + timedelta(seconds=MIN_ROOT_LIFETIME_S):
        raise InvalidArgument("the root certificate expires too soon", hint=_HINT)
    return Authority(root, key)


def check_may_certify(old_pem: bytes, new_pem: bytes) -> None:
    """FailedPrecondition if the present root allows no intermediate authority of the new one's name."""
    old, new = (x509.load_pem_x509_certificate(each) for each in (old_pem, new_pem))
    constraints = _extension(old, x509.BasicConstraints)
    if constraints is not None and constraints.path_length == 0 and old.subject != new.subject:
        raise FailedPrecondition(
            "the present root certificate allows no intermediate authority of another name",
            hint=f"Give a root certificate with the subject {old.subject.rfc4514_string()}, or first "
            "`swarmnet swarm ca --rotate` to one that the managers make.",
        )


def _loaded(root_pem: bytes, key_pem: SecretBytes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if len(root_pem) > _LONGEST_PEM or len(key_pem) > _LONGEST_PEM:
        raise InvalidArgument("the root certificate or its key is too long", hint=_HINT)
    try:
        (root,) = x509.load_pem_x509_certificates(root_pem)
        root.verify_directly_issued_by(root)
        key = load_pem_private_key(key_pem.reveal(), None)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InvalidArgument("not a root certificate and its key", hint=_HINT) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("the root's key is not an ECDSA P-256 key", hint=_HINT)
    if key.public_key() != root.public_key():
        raise InvalidArgument("the root's key is not that of the certificate", hint=_HINT)
    return root, key


def _extension(root: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return root.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None
