"""How a host becomes a node: pin the swarm's root by the token, then send the token for a certificate.

The first connection trusts nobody: it only reads the root certificate. Its digest must be the token's; the
second connection trusts that root alone, and only there the token is sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.core.certificates import digest_of
from swarmnet.core.errors import BadToken, Internal, SwarmnetError, Unavailable
from swarmnet.core.limits import BOOTSTRAP_PORT
from swarmnet.core.status import TRAILER, decode
from swarmnet.core.tokens import JoinToken
from swarmnet.manager.ca.authority import new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.settings import port_of, with_port
from swarmnet.manager.tls import anonymous_channel

T = TypeVar("T")
CONNECT_S: Final = 5.0
CALL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a token was exchanged for. `managers` are host:port of the managers' API."""

    credentials: Credentials
    managers: tuple[str, ...]


async def enrol(
    token: JoinToken, addresses: Sequence[str], request: ca_pb2.IssueCertificateRequest
) -> Enrolment:
    """Ask the managers' bootstrap ports in turn; the first that can be reached decides."""
    failure: SwarmnetError = Unavailable(
        "no manager's address given", hint="`swarmnet swarm join-token` on a manager prints it."
    )
    for address in addresses:
        try:
            return await _enrol_at(with_port(address, BOOTSTRAP_PORT), token, request)
        except Unavailable as error:
            failure = error
    raise failure


async def _enrol_at(address: str, token: JoinToken, request: ca_pb2.IssueCertificateRequest) -> Enrolment:
    root_pem = await _pinned_root(address, token)
    key = new_key()
    full = ca_pb2.IssueCertificateRequest()
    full.CopyFrom(request)
    full.token, full.csr_pem = token.text(), signing_request(key).decode()
    async with anonymous_channel(root_pem, address) as channel:
        answer = await call(
            ca_pb2_grpc.BootstrapStub(channel).IssueCertificate(full, timeout=CALL_S), address
        )
    credentials = granted(answer, key, address)
    return Enrolment(credentials, tuple(answer.manager_addresses))


def granted(
    answer: ca_pb2.IssueCertificateResponse, key: ec.EllipticCurvePrivateKey, address: str
) -> Credentials:
    """The identity that an authority's answer makes of a key. Internal unless all of it belongs together."""
    credentials = Credentials(
        answer.certificate_pem.encode(), private_pem(key), answer.root_certificate_pem.encode()
    )
    try:
        fits = credentials.matches() and credentials.issued_by_root()
    except ValueError:
        fits = False
    if not fits:
        raise Internal(f"the manager at {address} sent a certificate that does not fit the request")
    return credentials


async def _pinned_root(address: str, token: JoinToken) -> bytes:
    leaf = await _presented_certificate(address)
    async with anonymous_channel(leaf.encode(), address) as channel:
        stub = ca_pb2_grpc.BootstrapStub(channel)
        answer = await call(
            stub.GetRootCertificate(ca_pb2.GetRootCertificateRequest(), timeout=CALL_S), address
        )
    root_pem = answer.root_certificate_pem.encode()
    try:
        digest = digest_of(root_pem)
    except ValueError:
        digest = "no certificate"
    if digest != token.digest:
        raise BadToken(
            f"remote CA does not match fingerprint. Expected: {token.digest}, got: {digest}",
            hint=f"The token is of another swarm than the manager at {address}, or somebody is in between. "
            "Print the token again with `swarmnet swarm join-token` on a manager.",
        )
    return root_pem


async def _presented_certificate(address: str) -> str:
    """The certificate (PEM) that whoever listens there presents, unchecked."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    host, port = address.rpartition(":")[0].strip("[]"), port_of(address, BOOTSTRAP_PORT)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise _unreachable(address, str(error) or "no answer") from error
    presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(presented)


def _unreachable(address: str, why: str) -> Unavailable:
    return Unavailable(
        f"cannot reach a manager at {address}: {why}",
        hint="Check the address and that swarmnet-manager runs there; `swarm join` goes to port 2378.",
    )


async def call(pending: grpc.aio.UnaryUnaryCall[Any, T], address: str) -> T:
    """The answer, or the error that the manager sent."""
    try:
        return await pending
    except grpc.aio.AioRpcError as error:
        raise said_in(error) or _unreachable(address, f"{error.code().name}: {error.details()}") from None


def said_in(error: grpc.aio.AioRpcError) -> SwarmnetError | None:
    """The error of ours that travelled with it, if there is one."""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
            return said
    return None
