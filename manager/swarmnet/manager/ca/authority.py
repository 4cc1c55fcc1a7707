"""The cluster's certificate authority: one ECDSA P-256 root, and the certificates it issues.

A certificate's subject is the identity that every server of the cluster goes by: CN = node id, OU = role,
O = cluster id. The subject is chosen here; of a request only the public key is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
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
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.limits import CERTIFICATE_LIFETIME_S, CLOCK_SKEW_S, ROOT_LIFETIME_S
from swarmnet.core.secret import SecretBytes
from swarmnet.core.tokens import root_digest
from swarmnet.manager.identity import CallerRole

MANAGER_NAME: Final = "swarmnet-manager"
"""The DNS name in every manager's certificate: what clients expect at a manager's address."""
_SKEW: Final = timedelta(seconds=CLOCK_SKEW_S)
_MAX_CSR_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names."""

    node_id: str
    role: CallerRole
    cluster_id: str

    def name(self) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.cluster_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role.value),
                x509.NameAttribute(NameOID.COMMON_NAME, self.node_id),
            ]
        )

    def dns_names(self) -> list[x509.DNSName]:
        names = [self.node_id, MANAGER_NAME] if self.role is CallerRole.MANAGER else [self.node_id]
        return [x509.DNSName(name) for name in names]


class Authority:
    """The root certificate with its private key."""

    def __init__(self, root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._root = root
        self._key = key
        self.root_pem = root.public_bytes(Encoding.PEM)
        self.digest = root_digest(root.public_bytes(Encoding.DER))

    @classmethod
    def create(cls, cluster_id: str, now: datetime) -> Authority:
        """A new root, valid for 20 years from `now`."""
        key = new_key()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
                x509.NameAttribute(NameOID.COMMON_NAME, "swarmnet-ca"),
            ]
        )
        usage = _key_usage(sign_certificates=True)
        root = (
            _builder(name, name, key.public_key(), now, ROOT_LIFETIME_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, SHA256())
        )
        return cls(root, key)

    @classmethod
    def load(cls, root_pem: bytes, key_pem: SecretBytes) -> Authority:
        """What `root_pem` and `key_pem` of another Authority said."""
        key = load_pem_private_key(key_pem.reveal(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "roots are made here, with EC keys"
        return cls(x509.load_pem_x509_certificate(root_pem), key)

    @property
    def key_pem(self) -> SecretBytes:
        return private_pem(self._key)

    def issue(
        self, csr_pem: bytes, subject: Subject, now: datetime, lifetime_s: float = CERTIFICATE_LIFETIME_S
    ) -> bytes:
        """A certificate (PEM) for the request's public key; it ends with the root at the latest.

        InvalidArgument for what is no request, is not ECDSA P-256, or does not prove that whoever sent it has
        the private key.
        """
        public = _public_key(csr_pem)
        lifetime_s = min(lifetime_s, (self._root.not_valid_after_utc - now).total_seconds())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(subject.name(), self._root.subject, public, now, lifetime_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(x509.SubjectAlternativeName(subject.dns_names()), critical=False)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def certify(self, root_pem: bytes, now: datetime) -> bytes:
        """Another root's name and key as certified by this root (PEM): who trusts this one believes what that
        one issues. It ends when the first of the two does."""
        other = x509.load_pem_x509_certificate(root_pem)
        until = min(self._root.not_valid_after_utc, other.not_valid_after_utc)
        public = other.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey), "as every root here"
        certificate = (
            _builder(
                other.subject,
                self._root.subject,
                public,
                now,
                (until - now).total_seconds(),
                identifier=key_identifier(other),
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """The one in the root, whichever way it was made: verifiers compare them (RFC 5280, 4.2.1.1)."""
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier(self._root))


def key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> SecretBytes:
    return SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request (PEM) that says nothing but "I have this key": the authority chooses the subject."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )


def _public_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    hint = "Send a PEM certificate signing request for an ECDSA P-256 key, signed with that key."
    if len(csr_pem) > _MAX_CSR_BYTES:
        raise InvalidArgument("the certificate signing request is too long", hint=hint)
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        proven = csr.is_signature_valid
        public = csr.public_key()
    except Exception as error:  # the parser's errors are many, and all mean the same to the sender
        raise InvalidArgument("not a certificate signing request", hint=hint) from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidArgument("the certificate signing request is not for an ECDSA P-256 key", hint=hint)
    if not proven:
        raise InvalidArgument("the certificate signing request is not signed with its own key", hint=hint)
    return public


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime_s: float,
    *,
    identifier: x509.SubjectKeyIdentifier | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(seconds=lifetime_s))
        .add_extension(identifier or x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
