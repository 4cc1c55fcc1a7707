"""The reaper: forgets tasks that are over and keys whose network is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.limits import TASK_HISTORY
from swarmnet.core.state import Transaction
from swarmnet.manager.loop import BATCH
from swarmnet.manager.tasks import is_ended, is_wanted

KINDS = (types.Task, types.Network, types.KeyScope)


def plan(transaction: Transaction, now: float) -> float | None:
    del now
    tasks = transaction.scan(types.Task)
    for task in islice(_over(tasks), BATCH):
        transaction.remove(types.Task(meta=task.meta))  # the rest of it would only fill the log
    _forget_keys(transaction)
    return None


def _over(tasks: Iterable[types.Task]) -> Iterator[types.Task]:
    """Tasks to be removed that run nowhere, and the oldest of too long a history of a place."""
    history: dict[tuple[str, int, str], list[types.Task]] = defaultdict(list)
    for task in tasks:
        if task.desired_state == types.TASK_STATE_REMOVE:
            if is_ended(task) or task.state < types.TASK_STATE_ASSIGNED:
                yield task
        elif is_ended(task) and not is_wanted(task):
            place = (task.service_id, task.slot, "" if task.slot else task.node_id)
            history[place].append(task)
    for ended in history.values():
        kept = max(TASK_HISTORY, *(task.spec.restart.max_attempts for task in ended))
        yield from ended[: max(0, len(ended) - kept)]


def _forget_keys(transaction: Transaction) -> None:
    """Scopes and secrets of networks that no longer exist."""
    alive = {network.meta.id for network in transaction.scan(types.Network)} | {GOSSIP_SCOPE}
    for scope in transaction.scan(types.KeyScope):
        if scope.meta.id not in alive:
            transaction.remove(scope)
    for secrets in transaction.scan(store.ScopeSecrets):
        if secrets.meta.id not in alive:
            transaction.remove(secrets)
