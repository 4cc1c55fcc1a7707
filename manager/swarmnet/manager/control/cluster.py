"""The cluster itself: its settings and its join tokens."""

from __future__ import annotations

import secrets

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.state import Transaction
from swarmnet.manager.ca.tokens import TOKEN_BYTES, token_of
from swarmnet.manager.control import cluster_settings
from swarmnet.manager.control.locking import change_lock
from swarmnet.manager.control.surroundings import Noun


def secrets_of(transaction: Transaction) -> store.ClusterSecrets:
    found = transaction.get(store.ClusterSecrets, transaction.cluster().meta.id)
    assert found is not None, "a cluster without its secrets"
    return found


class ClusterNoun(Noun):
    async def GetCluster(
        self, request: control.GetClusterRequest, context: object
    ) -> control.GetClusterResponse:
        return self._cluster_view()

    async def UpdateCluster(
        self, request: control.UpdateClusterRequest, context: object
    ) -> control.GetClusterResponse:
        """Each setting that is given; what is wrong with one refuses all."""
        cluster_settings.check_update(request)

        def decide(transaction: Transaction) -> None:
            cluster = transaction.edit(transaction.cluster())
            cluster_settings.update(cluster, request)
            transaction.put(cluster)
            if request.HasField("key_rotation_period"):
                _bring_forward(transaction, self._store.now(), request.key_rotation_period)
            change_lock(transaction, request)

        await self._store.transact(decide)
        return self._cluster_view()

    def _cluster_view(self) -> control.GetClusterResponse:
        cluster = self._store.state.cluster()
        nodes = list(self._store.state.all(types.Node))
        return control.GetClusterResponse(
            cluster=cluster,
            leader_id=self._here.managers.leader_id(),
            managers=sum(node.role == types.ROLE_MANAGER for node in nodes),
            nodes=len(nodes),
        )

    async def GetJoinTokens(
        self, request: control.GetJoinTokensRequest, context: object
    ) -> control.GetJoinTokensResponse:
        return self._tokens(Transaction(self._store.state))

    async def RotateJoinToken(
        self, request: control.RotateJoinTokenRequest, context: object
    ) -> control.GetJoinTokensResponse:
        if request.role not in (types.ROLE_MANAGER, types.ROLE_WORKER):
            raise InvalidArgument("no role whose join token to rotate", hint="Say worker or manager.")

        def decide(transaction: Transaction) -> control.GetJoinTokensResponse:
            changed = transaction.edit(secrets_of(transaction))
            fresh = secrets.token_bytes(TOKEN_BYTES)
            if request.role == types.ROLE_MANAGER:
                changed.manager_token_secret = fresh
            else:
                changed.worker_token_secret = fresh
            transaction.put(changed)
            return self._tokens(transaction)

        return await self._store.transact(decide)

    def _tokens(self, transaction: Transaction) -> control.GetJoinTokensResponse:
        cluster, known = transaction.cluster(), secrets_of(transaction)
        return control.GetJoinTokensResponse(
            worker=token_of(types.ROLE_WORKER, cluster, known).text(),
            manager=token_of(types.ROLE_MANAGER, cluster, known).text(),
            manager_address=self._here.bootstrap_address,
        )


def _bring_forward(transaction: Transaction, now: Timestamp, period: Duration) -> None:
    """A shorter period holds for the rotation that is awaited already."""
    latest = Timestamp()
    latest.FromDatetime(now.ToDatetime() + period.ToTimedelta())
    for scope in transaction.scan(types.KeyScope):
        if scope.due_at.ToNanoseconds() > latest.ToNanoseconds():
            changed = transaction.edit(scope)
            changed.due_at.CopyFrom(latest)
            transaction.put(changed)
