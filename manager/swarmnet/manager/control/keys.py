"""Key scopes: which epochs there are, who holds them, and rotations on request."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import Transaction
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.entitlement import entitled
from swarmnet.manager.keymanager import request_rotation

_AT_ONCE: Final = 100
"""Scopes."""


class KeyNoun(Noun):
    async def ListKeys(self, request: control.ListKeysRequest, context: object) -> control.ListKeysResponse:
        answer = control.ListKeysResponse()
        for number, scope_id in enumerate([scope.meta.id for scope in self._store.state.all(types.KeyScope)]):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # others have their turn
            if (scope := self._store.state.get(types.KeyScope, scope_id)) is not None:
                answer.keys.append(self._key_view(scope))
        return answer

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
        """In several commands: all scopes together may be too much for one."""
        answer = control.RotateKeysResponse()
        meant = _meant(Transaction(self._store.state), request.ref)
        for first in range(0, len(meant), _AT_ONCE):
            ask = partial(request_rotation, scope_ids=meant[first : first + _AT_ONCE], reason="requested")
            answer.scopes.extend(await self._store.transact(ask))
        return answer


def _meant(transaction: Transaction, ref: str) -> list[str]:
    if not ref:
        return [scope.meta.id for scope in transaction.scan(types.KeyScope)]
    return [ref] if ref == GOSSIP_SCOPE else [lookup.network(transaction, ref).meta.id]
