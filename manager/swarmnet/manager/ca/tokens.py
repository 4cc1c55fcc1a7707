"""Which role a join token opens, if any."""

from __future__ import annotations

from typing import Final

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import BadToken
from swarmnet.core.secret import SecretBytes
from swarmnet.core.tokens import JoinToken

TOKEN_BYTES: Final = 16
"""Of the secret in a join token."""


def token_of(role: types.Role.ValueType, cluster: types.Cluster, secrets: store.ClusterSecrets) -> JoinToken:
    """The current token of a role."""
    manager = role == types.ROLE_MANAGER
    raw = secrets.manager_token_secret if manager else secrets.worker_token_secret
    return JoinToken(cluster.root_digest, SecretBytes(raw))


def role_of(token: JoinToken, cluster: types.Cluster, secrets: store.ClusterSecrets) -> types.Role.ValueType:
    """BadToken for another cluster's or a rotated token. Takes the same time whichever part is wrong."""
    digest_fits = SecretBytes(token.digest.encode()) == SecretBytes(cluster.root_digest.encode())
    worker_fits = token.secret == SecretBytes(secrets.worker_token_secret)
    manager_fits = token.secret == SecretBytes(secrets.manager_token_secret)
    if digest_fits and manager_fits:
        return types.ROLE_MANAGER
    if digest_fits and worker_fits:
        return types.ROLE_WORKER
    raise BadToken(
        "A valid join token is necessary to join this cluster",
        hint="The token is of another swarm or was rotated. Print the current one on a manager: "
        "`swarmnet swarm join-token worker` (or `manager`).",
    )
