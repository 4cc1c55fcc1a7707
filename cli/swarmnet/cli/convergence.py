"""A service on its way to as many running tasks as it should have."""

from __future__ import annotations

from typing import Final

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.follow import later
from swarmnet.cli.manager import Manager
from swarmnet.core.errors import NotFound

_LISTED_TASKS: Final = 20
"""With more tasks than these only their number is shown, as docker does."""
_BAR_WIDTH: Final = 50
_FAILED: Final = frozenset({types.TASK_STATE_FAILED, types.TASK_STATE_REJECTED, types.TASK_STATE_ORPHANED})


def state_word(state: types.TaskState.ValueType) -> str:
    """`Running` for TASK_STATE_RUNNING."""
    return types.TaskState.Name(state).removeprefix("TASK_STATE_").capitalize()


class Convergence:
    """Done when every slot that should be there has a running task, and no other task is wanted to run."""

    kinds = (control_pb2.OBJECT_KIND_SERVICE, control_pb2.OBJECT_KIND_TASK)

    def __init__(self, service_id: str) -> None:
        self._id = service_id
        self._service = types.Service()
        self._desired = 0
        self._tasks: dict[str, types.Task] = {}

    def load(self, manager: Manager) -> None:
        view = manager.call(
            lambda control: control.GetService, control_pb2.GetRequest(ref=self._id), repeatable=True
        )
        request = control_pb2.ListTasksRequest(services=[self._id])
        tasks = manager.call(lambda control: control.ListTasks, request, repeatable=True).tasks
        self._service, self._desired = view.service, view.desired
        self._tasks = {task.meta.id: task for task in tasks}

    def absorb(self, event: control_pb2.WatchEvent) -> None:
        removed = event.action == control_pb2.WatchEvent.REMOVED
        if event.HasField("service") and event.service.meta.id == self._id:
            if removed:
                raise NotFound(f"service {self._service.spec.name} was removed meanwhile")
            self._service = later(self._service, event.service)
        elif event.HasField("task") and event.task.service_id == self._id:
            if removed:
                self._tasks.pop(event.task.meta.id, None)
            else:
                self._tasks[event.task.meta.id] = later(self._tasks.get(event.task.meta.id), event.task)

    def done(self) -> bool:
        places = self._places()
        return len(places) == self._wanted() == sum(map(_runs, places.values()))

    def lines(self, *, bars: bool) -> list[str]:
        places, wanted = self._places(), self._wanted()
        running = sum(map(_runs, places.values()))
        lines = [f"overall progress: {running} out of {wanted} tasks"]
        if wanted > _LISTED_TASKS:
            return lines
        names = sorted(places)
        for i in range(max(wanted, len(names))):
            task = places[names[i]] if i < len(names) else None
            name = f"{i + 1}/{wanted}" if task is None or not task.node_id or task.slot else task.node_id[:12]
            lines.append(f"{name}: {self._describe(task, bars=bars)}".rstrip(": "))
        return lines

    def _places(self) -> dict[tuple[int, str], types.Task]:
        """The newest task that should run in each slot (of a global service: on each node)."""
        live = [task for task in self._tasks.values() if task.desired_state == types.TASK_STATE_RUNNING]
        return {_place(task): task for task in sorted(live, key=_age)}

    def _wanted(self) -> int:
        if self._service.spec.mode == types.SERVICE_MODE_GLOBAL:
            return max(self._desired, len(self._places()))
        return self._service.spec.replicas

    def _describe(self, task: types.Task | None, *, bars: bool) -> str:
        if task is None:
            return ""
        word = state_word(task.state).lower()
        if _runs(task):
            return f"{word:<9} [{'=' * _BAR_WIDTH}>]" if bars else word
        reason = task.message or self._last_failure(task)
        if reason:
            return f"{word:<9} {reason}" if bars else f"{word}: {reason}"
        filled = _BAR_WIDTH * task.state // types.TASK_STATE_RUNNING
        return f"{word:<9} [{'=' * filled + '>':<{_BAR_WIDTH + 1}}]" if bars else word

    def _last_failure(self, task: types.Task) -> str:
        """Why the task's predecessor ended, if it failed."""
        before = [
            each for each in self._tasks.values() if each.state in _FAILED and _place(each) == _place(task)
        ]
        last = max(before, key=_age, default=None)
        return f"the one before failed: {last.message}" if last is not None and last.message else ""


def _runs(task: types.Task) -> bool:
    return task.state == types.TASK_STATE_RUNNING


def _place(task: types.Task) -> tuple[int, str]:
    return (task.slot, "" if task.slot else task.node_id)


def _age(task: types.Task) -> tuple[int, int]:
    return (task.meta.created_at.ToNanoseconds(), task.meta.version)
