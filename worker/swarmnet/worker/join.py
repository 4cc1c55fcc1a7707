"""How this host becomes a worker: pin the swarm's root by the token, then trade the token for a certificate.

The first connection trusts whatever certificate it meets, and only asks for the root. If the root's digest is
the token's, a new connection trusts that root alone; only there the token is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.certificates import digest_of
from swarmnet.core.errors import BadToken, Internal, InvalidArgument, Unavailable
from swarmnet.core.limits import BOOTSTRAP_PORT
from swarmnet.core.tokens import JoinToken
from swarmnet.worker import hostport
from swarmnet.worker.channel import bootstrap_channel, said_by, unreachable
from swarmnet.worker.identity import Identity, SigningRequest, make_request

CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the token was exchanged for. `managers` are host:port of the managers' API."""

    identity: Identity
    managers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What joining takes that no manager is needed for. `probe` trusts whatever certificate it meets."""

    request: SigningRequest
    probe: ssl.SSLContext


def prepare() -> Preparation:
    """Blocks for some 10 ms, most of it for the first use of the TLS library."""
    probe = make_probe()
    with contextlib.suppress(ssl.SSLWantReadError):  # a hello to nobody
        probe.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()).do_handshake()
    return Preparation(make_request(), probe)


def make_probe() -> ssl.SSLContext:
    """Trusts whatever certificate it meets."""
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    probe.check_hostname = False
    probe.verify_mode = ssl.CERT_NONE
    probe.minimum_version = ssl.TLSVersion.TLSv1_3
    probe.set_alpn_protocols(["h2"])
    return probe


async def enrol(
    token: JoinToken, addresses: Sequence[str], hostname: str, prepared: Preparation
) -> Enrolment:
    """Ask the managers' bootstrap ports in turn for a certificate; the first that answers decides.

    BadToken, InvalidArgument and what else that manager says; Unavailable when none can be reached.
    """
    if not addresses:
        raise InvalidArgument(
            "no manager's address", hint="`swarmnet swarm join-token worker` on a manager prints the command."
        )
    places = [hostport.join(*hostport.split(each, BOOTSTRAP_PORT)) for each in addresses]
    failures = []
    for place in places:
        try:
            return await _enrol_at(place, token, hostname, prepared)
        except Unavailable as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise Unavailable("; ".join(each.message for each in failures), hint=failures[-1].hint)


async def _enrol_at(place: str, token: JoinToken, hostname: str, prepared: Preparation) -> Enrolment:
    root_pem = await _pinned_root(place, token, prepared.probe)
    mine = prepared.request
    request = ca_pb2.IssueCertificateRequest(
        token=token.text(), csr_pem=mine.pem.decode(), hostname=hostname, role=types.ROLE_WORKER
    )
    async with bootstrap_channel(place, root_pem) as channel:
        stub = ca_pb2_grpc.BootstrapStub(channel)
        answer = await said_by(place, stub.IssueCertificate(request, timeout=CALL_TIMEOUT_S))
    if answer.role != types.ROLE_WORKER:
        raise InvalidArgument(
            "the join token is for a manager, and this is a worker",
            hint="Print the right one on a manager: `swarmnet swarm join-token worker`.",
        )
    identity = granted(answer, mine)
    return Enrolment(identity, tuple(answer.manager_addresses))


def granted(answer: ca_pb2.IssueCertificateResponse, mine: SigningRequest) -> Identity:
    """The identity that a manager's answer makes of a key. Internal unless all of it belongs together."""
    identity = Identity(answer.certificate_pem.encode(), mine.key, answer.root_certificate_pem.encode())
    try:
        fits = identity.fits()
    except ValueError:
        fits = False
    if not fits:
        raise Internal("the managers sent a certificate that does not fit the request")
    return identity


async def _pinned_root(place: str, token: JoinToken, probe: ssl.SSLContext) -> bytes:
    presented = await presented_certificate(place, probe)
    async with bootstrap_channel(place, presented) as channel:
        stub = ca_pb2_grpc.BootstrapStub(channel)
        call = stub.GetRootCertificate(ca_pb2.GetRootCertificateRequest(), timeout=CALL_TIMEOUT_S)
        root_pem = (await said_by(place, call)).root_certificate_pem.encode()
    if (digest := _digest_of(root_pem)) != token.digest:
        raise BadToken(
            f"remote CA does not match the token's fingerprint: {digest} at {place}, "
            f"{token.digest} in the token",
            hint="The token is of another swarm, or somebody else answers at that address. "
            "Print the token again with `swarmnet swarm join-token worker` on a manager.",
        )
    return root_pem


def _digest_of(root_pem: bytes) -> str:
    try:
        return digest_of(root_pem)
    except ValueError:
        return "no certificate"


async def presented_certificate(place: str, probe: ssl.SSLContext) -> bytes:
    """The certificate (PEM) that whoever answers there presents, unchecked. Unavailable if nobody does."""
    host, port = hostport.split(place, BOOTSTRAP_PORT)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=probe)
    except TimeoutError:
        raise unreachable(place, f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise unreachable(place, error.strerror or str(error)) from error
    presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(presented).encode()
