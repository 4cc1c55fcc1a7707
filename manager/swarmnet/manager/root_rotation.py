"""How the cluster's root certificate is replaced, as swarmkit does it: all nodes move, then the old one goes.

    the old root issues
      |  an operator asks
    the new root issues, the old one vouches for it     until every node uses a certificate of the new one
      |
    the new root is the cluster's; join tokens are new

All of it is in the replicated state, so whoever leads goes on with it. What a node has moved to is what it
told over a connection of its new certificate; one that is away is waited for, one that was removed is not.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import structlog

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.ca.roots import check_may_certify
from swarmnet.manager.ca.tokens import TOKEN_BYTES
from swarmnet.manager.control.cluster import secrets_of
from swarmnet.manager.roles import wanted_role

log = structlog.get_logger()

KINDS = (types.Cluster, types.Node)


def begin(transaction: Transaction, new: Authority, now: float) -> None:
    """Move every node to another root; what was being moved to before counts no more.

    The root that the cluster still has ends a rotation: who has moved already moves back.
    """
    cluster, held = transaction.edit(transaction.cluster()), transaction.edit(secrets_of(transaction))
    cluster.ClearField("root_rotation")
    held.ClearField("next_root_key_pem")
    if new.digest != cluster.root_digest:
        old_pem = cluster.root_certificate_pem.encode()
        check_may_certify(old_pem, new.root_pem)
        old = Authority.load(old_pem, SecretBytes(held.root_key_pem))
        cross_signed = old.certify(new.root_pem, datetime.fromtimestamp(now, UTC))
        cluster.root_rotation.CopyFrom(
            types.RootRotation(
                root_certificate_pem=new.root_pem.decode(),
                root_digest=new.digest,
                cross_signed_pem=cross_signed.decode(),
                started_at=stamp(now),
            )
        )
        held.next_root_key_pem = new.key_pem.reveal()
    transaction.put(cluster)
    transaction.put(held)


def has_moved(node: types.Node, root_digest: str) -> bool:
    """Whether nothing of the node depends on another root than this.

    One whose role is changing has a second daemon, which may hold a certificate from before.
    """
    return node.certificate_root == root_digest and wanted_role(node) == node.role


def plan(transaction: Transaction, now: float) -> float | None:
    """End the rotation that is in progress if every node has moved."""
    del now
    cluster = next(iter(transaction.scan(types.Cluster)), None)
    if cluster is None or not cluster.HasField("root_rotation"):
        return None
    new = cluster.root_rotation
    # All nodes become preconditions: one that joins just now is not to be left behind.
    if all(has_moved(node, new.root_digest) for node in transaction.all(types.Node)):
        _end(transaction, transaction.edit(cluster))
        log.info("root certificate replaced", old=cluster.root_digest, new=new.root_digest)
    return None


def _end(transaction: Transaction, cluster: types.Cluster) -> None:
    held = transaction.edit(secrets_of(transaction))
    cluster.root_certificate_pem = cluster.root_rotation.root_certificate_pem
    cluster.root_digest = cluster.root_rotation.root_digest
    cluster.ClearField("root_rotation")
    held.root_key_pem = held.next_root_key_pem
    held.ClearField("next_root_key_pem")
    held.worker_token_secret, held.manager_token_secret = (secrets.token_bytes(TOKEN_BYTES) for _ in range(2))
    transaction.put(cluster)
    transaction.put(held)
