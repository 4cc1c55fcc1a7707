"""Key scopes: which epochs there are, who holds them, and rotations on request."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import Transaction
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.entitlement import entitled
from swarmnet.manager.keymanager import request_rotation


class KeyNoun(Noun):
    async def ListKeys(self, request: control.ListKeysRequest, context: object) -> control.ListKeysResponse:
        return control.ListKeysResponse(keys=map(self._key_view, self._store.state.all(types.KeyScope)))

    def _key_view(self, scope: types.KeyScope) -> control.KeyView:
        network = self._store.state.get(types.Network, scope.meta.id)
        return control.KeyView(
            scope=scope,
            name=network.name if network is not None else scope.meta.id,
            entitled=sorted(entitled(self._store.state, scope.meta.id)),
            waiting_for=sorted(self._here.waiting_for(scope.meta.id)),
        )

    async def RotateKeys(
        self, request: control.RotateKeysRequest, context: object
    ) -> control.RotateKeysResponse:
        def decide(transaction: Transaction) -> control.RotateKeysResponse:
            scopes = request_rotation(transaction, _meant(transaction, request.ref), "requested")
            return control.RotateKeysResponse(scopes=scopes)

        return await self._store.transact(decide)


def _meant(transaction: Transaction, ref: str) -> list[str]:
    if not ref:
        return [scope.meta.id for scope in transaction.scan(types.KeyScope)]
    return [ref] if ref == GOSSIP_SCOPE else [lookup.network(transaction, ref).meta.id]
