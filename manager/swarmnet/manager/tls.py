"""TLS of the manager: server and channel credentials from a node's identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import grpc
import grpc.aio

from swarmnet.core.limits import MAX_MESSAGE_BYTES
from swarmnet.manager.ca.authority import MANAGER_NAME
from swarmnet.manager.ca.credentials import Credentials

CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # to connect, handshake included; no retry waits for it
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A host that died without closing its connections is noticed within 8 s; one that came back, within 1 s."""

SERVER_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
)


def nodes_server(current: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """mTLS with what `current` gives for each new connection, so that a renewal needs no restart."""
    return _server(current, client_certificates=True)


def bootstrap_server(current: Callable[[], Credentials]) -> grpc.ServerCredentials:
    """The same certificate, no client certificate asked."""
    return _server(current, client_certificates=False)


def _server(current: Callable[[], Credentials], *, client_certificates: bool) -> grpc.ServerCredentials:
    """gRPC asks for a configuration at each handshake; None says that the last one still holds.

    A new one is given only after a renewal: gRPC exchanges them without a lock, and other handshakes at that
    moment would use what it has freed already.
    """
    given = current()

    def configuration(mine: Credentials) -> grpc.ServerCertificateConfiguration:
        pair = (mine.key.reveal(), mine.certificate_pem)
        return grpc.ssl_server_certificate_configuration(
            [pair], mine.root_pem if client_certificates else None
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        mine = current()
        if mine is given:
            return None
        given = mine
        return configuration(mine)

    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed)  # the stubs know no None
    return grpc.dynamic_ssl_server_credentials(configuration(given), fetch, client_certificates)


def node_channel(mine: Credentials, address: str, name: str = MANAGER_NAME) -> grpc.aio.Channel:
    """A channel to the manager at `address`, which must prove to be `name`: a node id, or any manager."""
    credentials = grpc.ssl_channel_credentials(mine.root_pem, mine.key.reveal(), mine.certificate_pem)
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(address, credentials, options)


def anonymous_channel(root_pem: bytes, address: str) -> grpc.aio.Channel:
    """A channel to a manager's bootstrap port, trusting only this root."""
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", MANAGER_NAME))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root_pem), options)
