"""The first objects of a new cluster, put in one command."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.duration_pb2 import Duration

from swarmnet.api.v1 import local_pb2
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.endpoints import public_key
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.limits import (
    ADDRESS_POOL,
    CERTIFICATE_LIFETIME_S,
    HEARTBEAT_PERIOD_S,
    KEY_ROTATION_PERIOD_S,
    RETIRE_GRACE_S,
    ROTATION_DEADLINE_S,
    SUBNET_PREFIX_LENGTH,
)
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import duration, seconds
from swarmnet.core.unlock_key import UNLOCK_KEY_BYTES
from swarmnet.manager.allocator import next_node_index
from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.ca.tokens import TOKEN_BYTES
from swarmnet.manager.control import cluster_settings
from swarmnet.manager.keymanager import create_scope

FIRST_LOCK: Final = 1
"""The lock's generation in a swarm that is autolocked from the start."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator chose for a new cluster."""

    rotation_period: Duration
    rotation_deadline: Duration
    certificate_lifetime: Duration
    encrypt_by_default: bool
    pools: tuple[str, ...]
    subnet_prefix_length: int
    unlock_key: SecretBytes | None = None
    """With autolock, from the start."""


def checked(request: local_pb2.InitRequest) -> Wishes:
    """With defaults filled in. InvalidArgument names what is wrong."""
    period = duration(KEY_ROTATION_PERIOD_S)
    if request.HasField("key_rotation_period"):
        period = request.key_rotation_period
        cluster_settings.KEY_ROTATION_PERIOD.check(period)
    deadline = duration(ROTATION_DEADLINE_S)
    if request.HasField("key_rotation_deadline"):
        deadline = request.key_rotation_deadline
        cluster_settings.KEY_ROTATION_DEADLINE.check(deadline)
    lifetime = duration(CERTIFICATE_LIFETIME_S)
    if request.HasField("certificate_lifetime"):
        lifetime = request.certificate_lifetime
        cluster_settings.CERTIFICATE_LIFETIME.check(lifetime)
    length = request.subnet_prefix_length or SUBNET_PREFIX_LENGTH
    pools = tuple(request.address_pools) or (ADDRESS_POOL,)
    _check_pools(pools, length)
    unlock_key = SecretBytes(secrets.token_bytes(UNLOCK_KEY_BYTES)) if request.autolock else None
    return Wishes(period, deadline, lifetime, request.encrypt_by_default, pools, length, unlock_key)


def _check_pools(pools: Sequence[str], length: int) -> None:
    for text in pools:
        try:
            pool = ip_network(text)
        except ValueError as error:
            raise InvalidArgument(
                f"invalid address pool {text!r}: {error}", hint="Write it as CIDR, such as 10.0.0.0/8."
            ) from error
        if not pool.prefixlen <= length <= pool.max_prefixlen - 2:
            raise InvalidArgument(
                f"subnets of prefix length {length} do not fit the address pool {text}",
                hint=f"Use a length from {pool.prefixlen} to {pool.max_prefixlen - 2}.",
            )


def found(
    transaction: Transaction,
    now: float,
    *,
    cluster_id: str,
    authority: Authority,
    wishes: Wishes,
    node: types.Node,
) -> None:
    """Put the cluster, its secrets, its first manager and the gossip scope."""
    locked = wishes.unlock_key is not None
    signing_key = SecretBytes(Ed25519PrivateKey.generate().private_bytes_raw())
    transaction.put(
        types.Cluster(
            meta=types.Meta(id=cluster_id),
            root_certificate_pem=authority.root_pem.decode(),
            root_digest=authority.digest,
            endpoint_public_key=public_key(signing_key),
            key_rotation_period=wishes.rotation_period,
            address_pools=wishes.pools,
            subnet_prefix_length=wishes.subnet_prefix_length,
            heartbeat_period=duration(HEARTBEAT_PERIOD_S),
            retire_grace=duration(RETIRE_GRACE_S),
            rotation_deadline=wishes.rotation_deadline,
            certificate_lifetime=wishes.certificate_lifetime,
            encrypt_by_default=wishes.encrypt_by_default,
            autolock=locked,
            lock_generation=FIRST_LOCK if locked else 0,
        )
    )
    transaction.put(
        store.ClusterSecrets(
            meta=types.Meta(id=cluster_id),
            root_key_pem=authority.key_pem.reveal(),
            worker_token_secret=secrets.token_bytes(TOKEN_BYTES),
            manager_token_secret=secrets.token_bytes(TOKEN_BYTES),
            endpoint_private_key=signing_key.reveal(),
            unlock_key=wishes.unlock_key.reveal() if wishes.unlock_key is not None else b"",
        )
    )
    node.lock_generation = FIRST_LOCK if locked else 0
    node.index = next_node_index(transaction)
    transaction.put(node)
    create_scope(transaction, GOSSIP_SCOPE, now, seconds(wishes.rotation_period))
