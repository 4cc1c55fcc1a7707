"""The lock of managers that are restarted: the swarm's setting, its unlock key, and who follows it."""

from __future__ import annotations

import secrets

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.unlock_key import UNLOCK_KEY_BYTES, unlock_key_text
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.identity import current_caller


def change_lock(transaction: Transaction, request: control.UpdateClusterRequest) -> None:
    """What the request says of it. FailedPrecondition for a new unlock key where there is none."""
    cluster = transaction.edit(transaction.cluster())
    wanted = request.autolock if request.HasField("autolock") else cluster.autolock
    if request.rotate_unlock_key and not wanted:
        raise no_unlock_key()
    if wanted == cluster.autolock and not request.rotate_unlock_key:
        return
    cluster.autolock = wanted
    cluster.lock_generation += 1
    transaction.put(cluster)
    known = transaction.edit(_secrets_of(transaction))
    known.unlock_key = secrets.token_bytes(UNLOCK_KEY_BYTES) if wanted else b""
    transaction.put(known)


def no_unlock_key() -> FailedPrecondition:
    return FailedPrecondition(
        "no unlock key is set",
        hint="Managers are not locked: `swarmnet swarm update --autolock` changes that.",
    )


def _secrets_of(transaction: Transaction) -> store.ClusterSecrets:
    found = transaction.get(store.ClusterSecrets, transaction.cluster().meta.id)
    assert found is not None, "a cluster without its secrets"
    return found


def lock_word(cluster: types.Cluster, node: types.Node) -> str:
    """Whether a manager's disk follows the swarm's lock; empty where there never was one."""
    if not cluster.lock_generation or node.role != types.ROLE_MANAGER:
        return ""
    return "current" if node.lock_generation >= cluster.lock_generation else "behind"


class LockNoun(Noun):
    async def GetUnlockKey(
        self, request: control.GetUnlockKeyRequest, context: object
    ) -> control.GetUnlockKeyResponse:
        transaction = Transaction(self._store.state)
        cluster = transaction.cluster()
        if not cluster.autolock:
            raise no_unlock_key()
        behind = [
            node.hostname for node in transaction.scan(types.Node) if lock_word(cluster, node) == "behind"
        ]
        key = SecretBytes(_secrets_of(transaction).unlock_key)
        return control.GetUnlockKeyResponse(unlock_key=unlock_key_text(key), behind=behind)

    async def ReportLock(
        self, request: control.ReportLockRequest, context: object
    ) -> control.ReportLockResponse:
        node_id = current_caller().node_id

        def decide(transaction: Transaction) -> None:
            node = transaction.get(types.Node, node_id)
            if node is not None and node.lock_generation < request.generation:
                changed = transaction.edit(node)
                changed.lock_generation = request.generation
                transaction.put(changed)

        await self._store.transact(decide)
        return control.ReportLockResponse()
