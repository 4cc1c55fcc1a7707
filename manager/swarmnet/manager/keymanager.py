"""The key manager: makes the epochs of every scope and takes each rotation through its steps."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.limits import (
    EPOCH_SECRET_BYTES,
    KEY_ROTATION_PERIOD_S,
    RETIRE_GRACE_S,
    ROTATION_DEADLINE_S,
)
from swarmnet.core.rotation import Report, Step, Terms
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import seconds
from swarmnet.manager.entitlement import Holders, up
from swarmnet.manager.loop import Batch

log = structlog.get_logger()

KINDS = (types.Cluster, types.Node, types.Task, types.KeyScope)
_LONGEST_ERROR: Final = 300
_SCOPES_AT_ONCE: Final = 25
"""That one pass takes a step further: it holds up everything else on the leader for as long as it plans."""


def create_scope(transaction: Transaction, scope_id: str, now: float, period_s: float) -> None:
    """A scope with epoch 1 as current: for gossip together with the cluster, else with its network."""
    transaction.put(rotation.first_epoch(scope_id, now, period_s))
    secret = secrets.token_bytes(EPOCH_SECRET_BYTES)
    transaction.put(store.ScopeSecrets(meta=types.Meta(id=scope_id), secrets={1: secret}))


def replace_keys(transaction: Transaction, scope: types.KeyScope, now: float, period_s: float) -> None:
    """One new epoch in place of all that the scope has, without any step between: rotation.fresh_epoch."""
    fresh = rotation.fresh_epoch(scope, now, period_s)
    transaction.put(fresh)
    _keep_secrets(transaction, fresh, fresh.epochs[0].number)


def request_rotation(transaction: Transaction, scope_ids: Iterable[str], reason: str) -> tuple[str, ...]:
    """Rotate these scopes now; one that is rotating rotates once more after that. Unknown ids are left out.

    Returns the ids of the scopes found.
    """
    found = []
    for scope_id in scope_ids:
        if (scope := transaction.get(types.KeyScope, scope_id)) is None:
            continue
        found.append(scope_id)
        changed = transaction.edit(scope)
        changed.again = True
        if changed.phase == rotation.STABLE:
            changed.reason = reason
        transaction.put(changed)
    return tuple(found)


def rekey_without(
    transaction: Transaction, node_id: str, reason: str, *, stays: bool = False
) -> tuple[str, ...]:
    """Rotate every scope that the node has keys of, a manager those of all. One that `stays` keeps gossip's.

    For when it is removed, fenced, drained by force or gets another role; call it before that. A worker's
    tasks all become preconditions: one that is placed there meanwhile gives it another key. Returns the
    scopes that were asked; a manager's are asked by the key manager's next passes.
    """
    node = transaction.get(types.Node, node_id)
    if node is not None and node.role == types.ROLE_MANAGER:
        _rekey_all(transaction, reason, keep_gossip=stays)
        return ()
    transaction.all(types.Task)
    held = Holders(transaction.scan(types.Node), transaction.placement).held_by(node_id)
    return request_rotation(transaction, sorted(held - {GOSSIP_SCOPE} if stays else held), reason)


def _rekey_all(transaction: Transaction, reason: str, *, keep_gossip: bool) -> None:
    """Have every scope rotate soon; one such request that is under way begins again."""
    cluster = transaction.edit(transaction.cluster())
    keep_gossip &= cluster.rekeying.keep_gossip or not cluster.HasField("rekeying")
    cluster.rekeying.CopyFrom(types.Rekeying(reason=reason, keep_gossip=keep_gossip))
    transaction.put(cluster)


def _rekey_some(transaction: Transaction) -> None:
    """Ask the next few scopes for the rotation that all have to make."""
    cluster = transaction.edit(transaction.cluster())
    asked = cluster.rekeying
    kept = {GOSSIP_SCOPE} if asked.keep_gossip else set()
    ids = sorted(each.meta.id for each in transaction.scan(types.KeyScope) if each.meta.id > asked.after)
    some = [each for each in ids if each not in kept][:_SCOPES_AT_ONCE]
    request_rotation(transaction, some, asked.reason)
    if len(some) == _SCOPES_AT_ONCE:
        asked.after = some[-1]
    else:
        cluster.ClearField("rekeying")
    transaction.put(cluster)


def terms_of(cluster: types.Cluster) -> Terms:
    period_s = seconds(cluster.key_rotation_period) or KEY_ROTATION_PERIOD_S
    deadline_s = seconds(cluster.rotation_deadline) or ROTATION_DEADLINE_S
    return Terms(period_s, deadline_s, seconds(cluster.retire_grace) or RETIRE_GRACE_S)


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that a scope's next step depends on but the time, as it was when there was none to take."""

    scope: types.KeyScope
    waited_on: frozenset[str]
    reports: Mapping[str, Report]
    terms: Terms
    at: float
    wake_at: float

    def holds(
        self,
        scope: types.KeyScope,
        waited_on: frozenset[str],
        reports: Mapping[str, Report],
        terms: Terms,
        now: float,
    ) -> bool:
        same = self.scope is scope and self.reports is reports and self.at <= now < self.wake_at
        return same and self.waited_on == waited_on and self.terms == terms


@dataclass(frozen=True, slots=True)
class KeyManager:
    """`reports(scope)`: the latest report of each node, another mapping once one has changed. They are
    volatile: nodes tell them again."""

    reports: Callable[[str], Mapping[str, Report]]
    _seen: dict[str, _Seen] = field(default_factory=dict)
    """Most scopes are as they were in the pass before: to look at a thousand anew takes too long."""

    def plan(self, transaction: Transaction, now: float) -> float | None:
        if (cluster := next(iter(transaction.scan(types.Cluster)), None)) is None:
            return None
        if cluster.HasField("rekeying"):
            _rekey_some(transaction)
        terms = terms_of(cluster)
        nodes = transaction.scan(types.Node)
        found, alive = Holders(nodes, transaction.placement), up(nodes)
        batch = Batch(_SCOPES_AT_ONCE)
        wake: list[float] = []
        late: dict[str, str] = {}
        scope_ids = [each.meta.id for each in transaction.scan(types.KeyScope)]
        self._forget_all_but(scope_ids)
        for scope_id in scope_ids:
            if batch.full:
                break
            waited_on = found.of(scope_id) & alive
            step = self._advance(transaction, scope_id, waited_on, now, terms=terms, batch=batch)
            if step.fence:  # and go on without them, before they can register again
                late.update(dict.fromkeys(step.fence, scope_id))
                waited_on -= step.fence
                step = self._advance(transaction, scope_id, waited_on, now, terms=terms, batch=batch)
            wake.append(step.wake_at)
        for node_id, scope_id in late.items():
            self._fence(transaction, node_id, scope_id, terms)
        return min(wake, default=None)

    def _forget_all_but(self, scope_ids: list[str]) -> None:
        if len(self._seen) > len(scope_ids):
            for gone in self._seen.keys() - set(scope_ids):
                del self._seen[gone]

    def _advance(
        self,
        transaction: Transaction,
        scope_id: str,
        waited_on: frozenset[str],
        now: float,
        *,
        terms: Terms,
        batch: Batch,
    ) -> Step:
        """All the steps that can be taken now: several only while nobody holds the keys."""
        reports = self.reports(scope_id)
        while True:
            scope = transaction.peek(types.KeyScope, scope_id)  # what is put is a precondition
            assert scope is not None
            seen = self._seen.get(scope_id)
            if seen is not None and seen.holds(scope, waited_on, reports, terms, now):
                return Step(seen.wake_at)
            step = rotation.advance(scope, waited_on, reports, now, terms)
            if step.scope is None:
                if not step.fence:
                    self._seen[scope_id] = _Seen(scope, waited_on, reports, terms, now, step.wake_at)
                return step
            transaction.put(step.scope)
            batch.add(step.scope)
            _keep_secrets(transaction, step.scope, step.create)

    def _fence(self, transaction: Transaction, node_id: str, scope_id: str, terms: Terms) -> None:
        node = transaction.get(types.Node, node_id)
        if node is None:
            return
        rekey_without(transaction, node_id, "node fenced")
        changed = transaction.edit(node)
        changed.fenced, changed.state = True, types.NODE_STATE_DOWN
        error = self.reports(scope_id).get(node_id, Report()).error[:_LONGEST_ERROR] or "it did not say why"
        changed.message = (
            f"fenced: no acknowledgement of the key rotation of {_name(transaction, scope_id)} "
            f"within {terms.deadline_s:g} s: {error}"
        )
        transaction.put(changed)


def _keep_secrets(transaction: Transaction, scope: types.KeyScope, create: int) -> None:
    """Exactly the secrets of the scope's live epochs."""
    if (held := transaction.get(store.ScopeSecrets, scope.meta.id)) is None:
        held = store.ScopeSecrets(meta=types.Meta(id=scope.meta.id))
    live = {epoch.number for epoch in scope.epochs}
    wanted = {number: secret for number, secret in held.secrets.items() if number in live}
    if create:
        wanted[create] = secrets.token_bytes(EPOCH_SECRET_BYTES)
    if wanted.keys() != held.secrets.keys():
        transaction.put(store.ScopeSecrets(meta=held.meta, secrets=wanted))


def _name(transaction: Transaction, scope_id: str) -> str:
    network = None if scope_id == GOSSIP_SCOPE else transaction.get(types.Network, scope_id)
    return network.name if network is not None else scope_id
