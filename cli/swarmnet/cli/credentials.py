"""A client's certificate: asked for, kept in files, and looked at when a connection with it fails."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmnet.cli.connection import Credentials, credentials_in
from swarmnet.core.errors import InvalidArgument

CLIENT_ROLE = "swarmnet-client"


def make_request() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A new ECDSA P-256 key and a signing request for it (PEM). The manager chooses the subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM).decode()


def save(folder: str, key: ec.EllipticCurvePrivateKey, certificate_pem: str, root_pem: str) -> Credentials:
    """Write the three files, readable by their owner only; InvalidArgument when they cannot be written."""
    files = credentials_in(folder)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write(files.root, root_pem.encode())
        _write(files.certificate, certificate_pem.encode())
        _write(files.key, key_pem)
    except OSError as error:
        raise InvalidArgument(
            f"cannot write credentials to {folder}: {error.strerror}",
            hint="Name a folder that you can write.",
        ) from None
    return files


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def complaint(credentials: Credentials) -> str:
    """What is wrong with the files, in the order a manager would find it; empty when nothing is."""
    try:
        certificate = x509.load_pem_x509_certificate(Path(credentials.certificate).read_bytes())
        root = x509.load_pem_x509_certificate(Path(credentials.root).read_bytes())
    except (OSError, ValueError) as error:
        return f"cannot read the certificates: {error}"
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        return f"{credentials.certificate} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    if certificate.not_valid_before_utc > now:
        return f"{credentials.certificate} is not valid before {certificate.not_valid_before_utc} UTC"
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return f"{credentials.certificate} was not issued by the cluster of {credentials.root}"
    units = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    if [unit.value for unit in units] != [CLIENT_ROLE]:
        return f"{credentials.certificate} is not a certificate of the role {CLIENT_ROLE}"
    return ""
