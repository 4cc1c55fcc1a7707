"""Endpoints, channels and what goes wrong with them.

    unix:///run/swarmnet/manager.sock    a daemon on this host, for root
    10.0.0.1:2377,10.0.0.2:2377          managers, over mutual TLS

grpc is imported when the first channel is made: `--help` and bad options are answered without it.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from swarmnet.core.errors import (
    InvalidArgument,
    NotAManager,
    OutcomeUnknown,
    SwarmnetError,
    Unavailable,
)
from swarmnet.core.limits import MANAGER_PORT

if TYPE_CHECKING:
    import grpc

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response_co = TypeVar("_Response_co", covariant=True)

CONNECT_TIMEOUT_S: Final = 3.0
NOT_A_MANAGER: Final = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
NOT_IN_A_SWARM: Final = (
    "This node is not a swarm manager. Use `swarmnet swarm init` or `swarmnet swarm join` to connect "
    "this node to a swarm and try again."
)
_CHANNEL_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.min_reconnect_backoff_ms", 3000))


class Unary(Protocol[_Request_contra, _Response_co]):
    """One rpc of a stub, ready to be called."""

    def with_call(
        self, request: _Request_contra, /, timeout: float | None = None
    ) -> tuple[_Response_co, grpc.Call]: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of a client certificate (role swarmnet-client) and of the cluster's root, all PEM."""

    root: str
    certificate: str
    key: str


def credentials_in(folder: str) -> Credentials:
    """The three files that `swarmnet swarm credentials` keeps in a folder."""
    return Credentials(f"{folder}/ca.pem", f"{folder}/cert.pem", f"{folder}/key.pem")


def trusts_several(credentials: Credentials) -> bool:
    """Whether there is more than one root in its file."""
    return _read(credentials.root).count(b"-----BEGIN CERTIFICATE-----") > 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A unix socket (`path`) or `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = MANAGER_PORT

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def refusal(self) -> str:
        """Why nobody can be reached here; empty when somebody accepts connections."""
        try:
            if self.path:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(self.path)
            else:
                socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            return (error.strerror or str(error) or type(error).__name__).lower()
        return ""


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """`unix:///path` or `host[:port][,host[:port]…]`; InvalidArgument for anything else."""
    endpoints = tuple(_parse_endpoint(each.strip()) for each in text.split(","))
    if len(endpoints) > 1 and any(each.path for each in endpoints):
        raise _bad_host(text)
    return endpoints


def _parse_endpoint(text: str) -> Endpoint:
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/"):
            raise _bad_host(text)
        return Endpoint(path=path)
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text.removeprefix("tcp://"), str(MANAGER_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise _bad_host(text)
    return Endpoint(host=host, port=int(port))


def _bad_host(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"invalid host {text!r}",
        hint="Give -H/--host or SWARMNET_HOST as unix:///run/swarmnet/manager.sock "
        "or as HOST:2377, several of these separated by commas.",
    )


def open_channel(endpoint: Endpoint, credentials: Credentials | None) -> grpc.Channel:
    """A channel to somebody who accepts connections; InvalidArgument for an unreadable certificate file."""
    _load_grpc()
    import grpc

    if endpoint.path:
        return grpc.insecure_channel(str(endpoint), _CHANNEL_OPTIONS)
    if credentials is None:
        raise InvalidArgument(
            f"no client certificate for {endpoint}",
            hint="Set SWARMNET_CACERT, SWARMNET_CERT and SWARMNET_KEY; "
            "`swarmnet swarm credentials DIR` on a manager makes the three files.",
        )
    tls = grpc.ssl_channel_credentials(
        _read(credentials.root), _read(credentials.key), _read(credentials.certificate)
    )
    options = (*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "swarmnet-manager"))
    return grpc.secure_channel(str(endpoint), tls, options)


def _load_grpc() -> None:
    """gRPC imports asyncio, which goes without Python's ssl where there is none. gRPC has TLS of its own, no
    command runs a loop, and ssl is a tenth of what a command costs: it is left out.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core would write warnings of its own to stderr
    without_ssl = "asyncio" not in sys.modules and "ssl" not in sys.modules
    if without_ssl:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # import's own mark of a module that is missing
    try:
        import grpc  # noqa: F401
    finally:
        if without_ssl:
            del sys.modules["ssl"]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}",
            hint="Check SWARMNET_CACERT, SWARMNET_CERT and SWARMNET_KEY.",
        ) from None


def invoke(
    rpc: Unary[RequestT, ResponseT],
    request: RequestT,
    timeout_s: float,
    endpoint: Endpoint,
    credentials: Credentials | None = None,
) -> tuple[ResponseT, bool]:
    """Call an rpc of a stub whose channel goes to `endpoint`; every failure is a SwarmnetError.

    Also returns whether the manager says that the client's certificate should be renewed.
    """
    import grpc

    from swarmnet.core.status import RENEW

    try:
        response, call = rpc.with_call(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise to_error(error, endpoint, credentials) from None
    return response, any(key == RENEW for key, _ in call.trailing_metadata() or ())


def to_error(error: grpc.RpcError, endpoint: Endpoint, credentials: Credentials | None) -> SwarmnetError:
    """What the other side said, or what became of the connection."""
    import grpc

    from swarmnet.core import status

    call = cast("grpc.Call", error)  # every failed call is both
    trailers = call.trailing_metadata() or ()
    raw = next((value for key, value in trailers if key == status.TRAILER), None)
    if isinstance(raw, bytes) and (ours := status.decode(raw)) is not None:
        return ours
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotAManager(NOT_A_MANAGER if endpoint.path.endswith("worker.sock") else NOT_IN_A_SWARM)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return OutcomeUnknown(
            f"{endpoint} did not answer in time",
            hint="It may still do what it was asked to: look at the result before asking again.",
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return _broken(endpoint, credentials, details)
    return SwarmnetError(f"{endpoint}: {details or code}")


def _broken(endpoint: Endpoint, credentials: Credentials | None, details: str) -> Unavailable:
    if credentials is None:
        return Unavailable(f"The connection to {endpoint} broke: {details}", hint="Try again.")
    from swarmnet.cli.credentials import complaint

    why = complaint(credentials)
    if not why and "handshake failed" in details.lower():
        why = (
            f"it is no manager of the cluster of {credentials.root}, or the root certificate was rotated "
            f"since ({details})"
        )
    elif not why and "socket closed" in details.lower():
        why = (
            f"it does not accept {credentials.certificate}, if it did not just stop: "
            f"was the root certificate rotated? ({details})"
        )
    return Unavailable(
        f"The connection to the swarmnet manager at {endpoint} failed: {why or details}",
        hint="`swarmnet swarm credentials DIR` on a manager makes new certificate files for "
        "SWARMNET_CACERT, SWARMNET_CERT and SWARMNET_KEY.",
    )


def unreachable(where: str, why: str, daemon: str = "manager") -> Unavailable:
    """Nobody accepts connections there."""
    hint = f"Reason: {why}."
    if why == "permission denied":
        hint += " The socket is open to root only: run the command as root."
    return Unavailable(
        f"Cannot connect to the swarmnet {daemon} at {where}. Is swarmnet-{daemon} running?", hint=hint
    )
