"""gRPC channels to managers, and what managers say when they refuse."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

import grpc
import grpc.aio

from swarmnet.core.errors import SwarmnetError, Unavailable
from swarmnet.core.limits import MAX_MESSAGE_BYTES
from swarmnet.core.status import TRAILER, decode
from swarmnet.worker.identity import Identity

T = TypeVar("T")
_MANAGER_NAME: Final = "swarmnet-manager"
"""The DNS name in every manager's certificate."""
_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", _MANAGER_NAME),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
"""A manager's host that dies without closing its connections is noticed within 8 s. With a pool of its own a
channel does not inherit the waiting time of one that failed before it."""


def node_channel(address: str, identity: Identity) -> grpc.aio.Channel:
    """To a manager's API (host:port), over mutual TLS."""
    credentials = grpc.ssl_channel_credentials(
        identity.root_pem, identity.key.reveal(), identity.certificate_pem
    )
    return grpc.aio.secure_channel(address, credentials, _OPTIONS)


def bootstrap_channel(address: str, trusted_pem: bytes) -> grpc.aio.Channel:
    """To a manager's bootstrap port, believing one certificate and what it issued."""
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted_pem), _OPTIONS)


async def said_by(address: str, call: Awaitable[T]) -> T:
    """The answer, or the error that the manager sent. Unavailable when there was neither."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(error, address) from None


def error_of(error: grpc.aio.AioRpcError, address: str) -> SwarmnetError:
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
            return said
    return unreachable(address, f"{error.code().name.lower()}: {error.details()}")


def unreachable(address: str, why: str) -> Unavailable:
    return Unavailable(
        f"cannot reach a manager at {address}: {why}",
        hint="Check the address, that swarmnet-manager runs there, and that no firewall is in between.",
    )
