"""The agent: the one place of a worker that makes its node what the managers assigned.

It reads the newest assignment and what gossip has heard, and writes to the data path, gossip and the
executor, always all of it, in one task: inputs that come meanwhile are taken together in the next pass.
Before the first assignment it writes nothing: after a restart, tasks and traffic are as they were.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.datapath.desired import Desired
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.worker import neighbours
from swarmnet.worker.assignment import (
    desired,
    is_wanted,
    key_report,
    keys_of,
    obstacle,
    own_endpoints,
)
from swarmnet.worker.datapath.report import Report
from swarmnet.worker.executor import TaskSpec, has_ended, task_spec

log = structlog.get_logger()

RECONCILE_PERIOD_S: Final = 30.0
"""How often the kernel is listed and mended, should anybody else have changed it."""
_FIRST_RETRY_S: Final = 0.2
_LONGEST_RETRY_S: Final = 10.0
_SHORTEST_WAIT_S: Final = 0.001


class Kernel(Protocol):
    """What the agent needs of the data path."""

    async def apply(self, desired: Desired) -> Report: ...
    async def reconcile(self) -> Report: ...
    def task_namespace(self, task_id: str) -> Path: ...
    def descriptor_to_hold(self) -> int: ...


class Rumours(Protocol):
    """What the agent needs of gossip."""

    def set_endpoint_key(self, public: bytes) -> None: ...
    def set_epochs(self, epochs: Epochs) -> None: ...
    def forget(self, scope: str) -> None: ...
    def set_peers(self, network_id: str, peers: frozenset[str]) -> None: ...
    def join(self, seeds: Sequence[tuple[str, str]]) -> None: ...
    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]]) -> None: ...
    def leave_network(self, network_id: str) -> None: ...
    def endpoints(self, network_id: str) -> tuple[Endpoint, ...]: ...
    def members(self) -> tuple[Rumor, ...]: ...
    def installed(self, scope: str) -> tuple[tuple[int, ...], int]: ...


class Tasks(Protocol):
    """What the agent needs of the executor."""

    def statuses(self) -> Mapping[str, dispatcher.TaskStatus]: ...
    def is_alive(self, task_id: str) -> bool: ...
    def start(self, spec: TaskSpec) -> None: ...
    def stop(self, task_id: str) -> None: ...
    def forget(self, task_id: str) -> None: ...


Tell = Callable[[Mapping[str, dispatcher.TaskStatus], dispatcher.KeyReport], None]
Notice = Callable[[Iterable[dispatcher.NodeNotice]], None]


class Agent:
    """`address` is the data-path address, `encap`: its ESP goes in UDP; `report` takes the whole of what to
    tell the managers, `notice` what operators should know of; `dropped` is called when the keys of a network
    are; `memory` is a file for the endpoints of other nodes, which goes with the host as its kernel's state
    does."""

    def __init__(
        self,
        address: str,
        kernel: Kernel,
        gossip: Rumours,
        tasks: Tasks,
        report: Tell,
        *,
        memory: Path,
        encap: bool = False,
        notice: Notice = lambda _: None,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._address, self._encap = address, encap
        self._kernel = kernel
        self._gossip = gossip
        self._tasks = tasks
        self._report = report
        self._notice = notice
        self._dropped = dropped
        self._assignment: dispatcher.Assignment | None = None
        self._wake = asyncio.Event()
        self._keys: dict[str, Epochs] = {}
        self._joined: dict[str, tuple[frozenset[str], list[tuple[Endpoint, bytes]]]] = {}
        self._seeds: list[tuple[str, str]] = []
        self._connected: frozenset[str] = frozenset()
        self._memory = memory
        self._neighbours = neighbours.load(memory)
        self._remembered = self._neighbours.everything()
        self._retry_s = 0.0
        self._mend_at = 0.0
        self.last_error = ""
        """What kept the last pass from being finished."""

    def assign(self, assignment: dispatcher.Assignment) -> None:
        """Complete assignments: only the newest counts."""
        self._assignment = assignment
        self._wake.set()

    def wake(self) -> None:
        """Something changed that a pass should look at."""
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._woken()
            if self._assignment is None:
                continue
            try:
                settled = await self._pass(self._assignment)
                self.last_error = ""
            except (SwarmnetError, OSError) as error:
                self.last_error = str(error)
                log.exception("assignment not carried out")
                settled = False
            self._retry_s = 0 if settled else min(self._retry_s * 2 or _FIRST_RETRY_S, _LONGEST_RETRY_S)

    async def _woken(self) -> None:
        """Wait for news, or until something is due: another try, a mending, the end of an endpoint."""
        now = asyncio.get_running_loop().time()
        due = [self._retry_s or RECONCILE_PERIOD_S]
        if self._mend_at:
            due.append(self._mend_at - now)
        if (ends_at := self._neighbours.next_end()) is not None:
            due.append(ends_at - now)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), max(min(due), _SHORTEST_WAIT_S))
        self._wake.clear()

    async def _pass(self, assignment: dispatcher.Assignment) -> bool:
        """Whether everything is as it should be."""
        self._tell_keys(assignment)
        running = self._forget_unassigned(assignment)
        alive = frozenset(each for each in running if self._tasks.is_alive(each))
        self._tell_networks(assignment, alive | running & self._connected)
        heard = self._believed(assignment)
        wish = desired(assignment, self._keys, (self._address, self._encap), running, heard)
        report = await self._program(wish)
        statuses = self._run_tasks(assignment, report)
        self._connected = running - report.tasks.keys()
        self._tell_networks(assignment, self._connected)
        encrypted = {each.network.meta.id for each in assignment.networks if each.network.encrypted}
        self._report(statuses, key_report(self._keys, encrypted, report.networks, self._gossip.installed))
        await self._remember()
        return not report.tasks and not any(each.error for each in report.networks.values())

    async def _program(self, wish: Desired) -> Report:
        """The kernel's difference; now and then, all of it."""
        report = await self._kernel.apply(wish)
        if (now := asyncio.get_running_loop().time()) >= self._mend_at:
            if self._mend_at:
                report = await self._kernel.reconcile()
                self._notice(_repairs(report))
            self._mend_at = now + RECONCILE_PERIOD_S
        return report

    def _tell_keys(self, assignment: dispatcher.Assignment) -> None:
        """Gossip first: a peer that has the next epoch already can be heard at once."""
        keys = keys_of(assignment)
        self._gossip.set_endpoint_key(assignment.endpoint_public_key)
        for scope in self._keys.keys() - keys.keys():
            if scope in self._joined:
                del self._joined[scope]
                self._gossip.leave_network(scope)
            self._gossip.forget(scope)
            self._dropped()
        for scope, epochs in keys.items():
            if self._keys.get(scope) != epochs:
                self._gossip.set_epochs(epochs)
        self._keys = keys
        seeds = [(each.node_id, each.address) for each in assignment.gossip_peers]
        if seeds != self._seeds:
            self._seeds = seeds
            self._gossip.join(seeds)

    def _believed(self, assignment: dispatcher.Assignment) -> Callable[[str], tuple[Endpoint, ...]]:
        """What the data path is to go by, rather than only what gossip tells at this moment."""
        now = asyncio.get_running_loop().time()
        speaking = frozenset(each.node_id for each in self._gossip.members() if each.state is not State.DEAD)
        believed = {
            network_id: self._neighbours.update(
                network_id, self._gossip.endpoints(network_id), _peers(each), speaking, now
            )
            for each in assignment.networks
            for network_id in (each.network.meta.id,)
        }
        self._neighbours.keep_only(believed)
        return believed.__getitem__

    async def _remember(self) -> None:
        """For the next process on this host."""
        if (everything := self._neighbours.everything()) != self._remembered:
            await asyncio.to_thread(neighbours.save, self._memory, everything)
            self._remembered = everything

    def _forget_unassigned(self, assignment: dispatcher.Assignment) -> frozenset[str]:
        """End what the managers no longer know of. Returns the tasks that run, or are to."""
        assigned = {each.task.meta.id: each.task for each in assignment.tasks}
        for task_id in self._tasks.statuses().keys() - assigned.keys():
            self._tasks.forget(task_id)
        known = self._tasks.statuses()
        return frozenset(
            task_id
            for task_id, task in assigned.items()
            if self._tasks.is_alive(task_id) or (is_wanted(task) and task_id not in known)
        )

    def _run_tasks(
        self, assignment: dispatcher.Assignment, report: Report
    ) -> dict[str, dispatcher.TaskStatus]:
        """Start and stop what is to be, and say how far every assigned task is."""
        waiting: dict[str, dispatcher.TaskStatus] = {}
        for each in assignment.tasks:
            task_id = each.task.meta.id
            known = self._tasks.statuses().get(task_id)
            if is_wanted(each.task) and known is None:
                if reason := obstacle(each.task, report):
                    waiting[task_id] = _status(task_id, types.TASK_STATE_PREPARING, reason)
                else:
                    namespace, held = self._kernel.task_namespace(task_id), self._kernel.descriptor_to_hold()
                    self._tasks.start(task_spec(each.task, each.service_name, namespace, held))
            elif not is_wanted(each.task) and known is None:
                waiting[task_id] = _status(task_id, types.TASK_STATE_SHUTDOWN, "stopped before it started")
            elif not is_wanted(each.task) and known is not None and not has_ended(known):
                self._tasks.stop(task_id)
        assigned = {each.task.meta.id for each in assignment.tasks}
        return waiting | {id_: s for id_, s in self._tasks.statuses().items() if id_ in assigned}

    def _tell_networks(self, assignment: dispatcher.Assignment, connected: frozenset[str]) -> None:
        """Who else is on each network, and our own endpoints there."""
        assigned = {each.network.meta.id: each for each in assignment.networks}
        for network_id in self._joined.keys() - assigned.keys():
            del self._joined[network_id]
            self._gossip.leave_network(network_id)
        for network_id, each in assigned.items():
            peers = _peers(each)
            own = own_endpoints(assignment, network_id, connected)
            if self._joined.get(network_id) != (peers, own):
                self._joined[network_id] = (peers, own)
                self._gossip.set_peers(network_id, peers)
                self._gossip.publish(network_id, own)


def _repairs(report: Report) -> list[dispatcher.NodeNotice]:
    return [
        dispatcher.NodeNotice(action="repair", network_id=network_id, reason=what)
        for network_id, what in report.repairs.items()
    ]


def _peers(assigned: dispatcher.AssignedNetwork) -> frozenset[str]:
    return frozenset(each.node_id for each in assigned.peers)


def _status(task_id: str, state: types.TaskState.ValueType, message: str) -> dispatcher.TaskStatus:
    return dispatcher.TaskStatus(task_id=task_id, state=state, message=message)
