"""Task states as the workers report them, written in batches: however many report, few commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.placement import is_on_node
from swarmnet.core.state import State, Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager.loop import Batch
from swarmnet.manager.tasks import is_ended

KINDS = (types.Task,)
_LONGEST_MESSAGE: Final = 1000


class Statuses:
    """Reports that are not in the state yet. A node can report on its own tasks only, and only forward."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pending: dict[str, dispatcher.TaskStatus] = {}

    def begin(self) -> None:
        self._pending.clear()

    def offer(self, node_id: str, statuses: Iterable[dispatcher.TaskStatus]) -> bool:
        """Whether there is something to write."""
        for status in statuses:
            task = self._state.get(types.Task, status.task_id)
            if task is not None and task.node_id == node_id and _says_more(status, task):
                pending = self._pending.get(status.task_id)
                if pending is None or pending.state <= status.state:
                    self._pending[status.task_id] = status
        return bool(self._pending)

    def plan(self, transaction: Transaction, now: float) -> float | None:
        """Write what is pending. The pass after the commit finds it in the state, and drops it here."""
        batch = Batch()
        for task_id, status in list(self._pending.items()):
            if batch.full:
                break
            task = transaction.get(types.Task, task_id)
            if task is None or not _says_more(status, task):
                del self._pending[task_id]
                continue
            changed = transaction.edit(task)
            changed.state = status.state
            changed.message = _message(status)
            changed.exit_code = status.exit_code
            changed.state_at.CopyFrom(stamp(now))
            transaction.put(changed)
            batch.add(changed)
        return None


def _message(status: dispatcher.TaskStatus) -> str:
    return status.message[:_LONGEST_MESSAGE]


def _says_more(status: dispatcher.TaskStatus, task: types.Task) -> bool:
    if not is_on_node(task) or is_ended(task) or status.state > types.TASK_STATE_REJECTED:
        return False
    return status.state > task.state or (status.state == task.state and _message(status) != task.message)
