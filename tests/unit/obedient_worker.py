"""A worker's end of a session, in memory: it keeps what it was told, and says what the test lets it say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.manager.dispatcher import DispatcherService
from swarmnet.manager.identity import Caller, CallerRole, set_caller

_PATIENCE_S = 5.0


class ObedientWorker:
    """With `obeys`, it acknowledges every assignment: all keys installed, all tasks running or stopped.

    `described`: what it says of itself in its hello, rather than the usual.
    """

    def __init__(
        self, service: DispatcherService, name: str, index: int, *, obeys: bool = True, **described: object
    ) -> None:
        self.node_id = f"node-{name}"
        self.latest = dispatcher.Assignment()
        self.received: list[dispatcher.Assignment] = []
        self.removed = ""
        self._obeys = obeys
        self._outgoing: asyncio.Queue[dispatcher.WorkerMessage | None] = asyncio.Queue()
        self._questions: asyncio.Queue[dispatcher.Question] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._service = service
        fields: dict[str, object] = {
            "hostname": name,
            "gossip_address": f"192.0.2.{index}:7946",
            "data_path_address": f"192.0.2.{index}",
            "capabilities": types.NodeCapabilities(esp=True, images=["host"]),
        }
        self.say(hello=dispatcher.Hello(**(fields | described)))  # type: ignore[arg-type]
        self.session = asyncio.create_task(self._run())

    def say(self, **message: object) -> None:
        self._outgoing.put_nowait(dispatcher.WorkerMessage(**message))  # type: ignore[arg-type]

    def report(self, task_id: str, state: types.TaskState.ValueType, message: str = "") -> None:
        status = dispatcher.TaskStatus(task_id=task_id, state=state, message=message)
        self.say(tasks=dispatcher.TaskReport(statuses=[status]))

    def acknowledge(self) -> None:
        """The keys of the latest assignment are installed and used."""
        self.say(keys=dispatcher.KeyReport(scopes=map(_installed, self.latest.keys)))

    def hang_up(self) -> None:
        self._outgoing.put_nowait(None)

    async def until(self, holds: Callable[[dispatcher.Assignment], bool]) -> dispatcher.Assignment:
        """Wait for an assignment of which that holds."""
        async with asyncio.timeout(_PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.received and holds(self.latest))
        return self.latest

    async def question(self) -> dispatcher.Question:
        """The next one that is asked."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._questions.get()

    async def ended(self) -> None:
        """Wait for the session's end; raises what it was ended with."""
        async with asyncio.timeout(_PATIENCE_S):
            await self.session

    async def _run(self) -> None:
        set_caller(Caller(self.node_id, CallerRole.WORKER))
        async for message in self._service.Session(self._messages(), None):
            if message.HasField("removed"):
                self.removed = message.removed.reason
                continue
            if message.HasField("question"):
                self._questions.put_nowait(message.question)
                continue
            async with self._changed:
                self.latest = message.assignment
                self.received.append(message.assignment)
                self._changed.notify_all()
            if self._obeys:
                self._obey(message.assignment)

    def _obey(self, assignment: dispatcher.Assignment) -> None:
        for assigned in assignment.tasks:
            wanted = assigned.task.desired_state == types.TASK_STATE_RUNNING
            self.report(
                assigned.task.meta.id, types.TASK_STATE_RUNNING if wanted else types.TASK_STATE_SHUTDOWN
            )
        self.acknowledge()

    async def _messages(self) -> AsyncIterator[dispatcher.WorkerMessage]:
        while (message := await self._outgoing.get()) is not None:
            yield message


def _installed(keys: dispatcher.ScopeKeys) -> dispatcher.ScopeReport:
    current = [each.number for each in keys.epochs if each.role == types.EPOCH_ROLE_CURRENT]
    return dispatcher.ScopeReport(
        scope=keys.scope, installed=[each.number for each in keys.epochs], sending=current[0]
    )
