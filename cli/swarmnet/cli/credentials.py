"""A client's certificate: asked for, kept in files, renewed, and looked at when a connection fails."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmnet.api.v1 import ca_pb2
from swarmnet.api.v1.ca_pb2_grpc import CertificateAuthorityStub
from swarmnet.cli.connection import Credentials, credentials_in
from swarmnet.core.certificates import is_anchored
from swarmnet.core.errors import InvalidArgument, SwarmnetError

if TYPE_CHECKING:
    from swarmnet.cli.manager import Manager

CLIENT_ROLE = "swarmnet-client"


def make_request() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A new ECDSA P-256 key and a signing request for it (PEM). The manager chooses the subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _signing_request(key)


def _signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


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


def renew(manager: Manager, credentials: Credentials) -> None:
    """A new certificate for the same key, in the same files. When that fails a warning says what to do.

    The key stays, so that certificate and key fit each other whenever another process reads them.
    """
    from swarmnet.cli.manager import CALL_TIMEOUT_S

    try:
        with _locked(credentials.certificate) as mine:
            if not mine:  # another process is renewing it
                return
            key = serialization.load_pem_private_key(Path(credentials.key).read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise InvalidArgument(f"{credentials.key} is not an ECDSA key")
            request = ca_pb2.RenewCertificateRequest(csr_pem=_signing_request(key))
            rpc = CertificateAuthorityStub(manager.channel()).IssueClientCertificate
            answer = manager.invoke(rpc, request, CALL_TIMEOUT_S)
            _write(credentials.root, answer.root_certificate_pem.encode())
            _write(credentials.certificate, answer.certificate_pem.encode())
    except (OSError, ValueError, TypeError, SwarmnetError) as error:
        why = error.message if isinstance(error, SwarmnetError) else str(error)
        click.echo(
            f"Warning: {credentials.certificate} should be renewed, and was not: {why}\n"
            "`swarmnet swarm credentials DIR` on a manager makes new files.",
            err=True,
        )


@contextmanager
def _locked(file: str) -> Iterator[bool]:
    """Whether this process alone changes the folder of the file, until the block ends."""
    descriptor = os.open(os.path.dirname(os.path.abspath(file)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


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
        roots = Path(credentials.root).read_bytes()
        anchored = is_anchored(Path(credentials.certificate).read_bytes(), roots)
    except (OSError, ValueError) as error:
        return f"cannot read the certificates: {error}"
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        return f"{credentials.certificate} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    if certificate.not_valid_before_utc > now:
        return f"{credentials.certificate} is not valid before {certificate.not_valid_before_utc} UTC"
    if not anchored:
        return f"{credentials.certificate} was not issued by the cluster of {credentials.root}"
    units = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    if [unit.value for unit in units] != [CLIENT_ROLE]:
        return f"{credentials.certificate} is not a certificate of the role {CLIENT_ROLE}"
    return ""
