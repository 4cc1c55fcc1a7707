"""The orchestrator: as many tasks as the services ask for, and successors of those that ended or were lost.

It makes tasks and says what they are to become (desired_state). Addresses, nodes and keys are other loops'
work; it sees theirs in the state, as they see its.

A service's task has a place: a slot from 1 of a replicated service, a node of a global one. Each place has at
most one task that is to run; the others in it are its history, or are on their way out.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.ids import make_id
from swarmnet.core.limits import RESTART_DELAY_S
from swarmnet.core.placement import is_on_node
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import seconds, stamp
from swarmnet.manager.constraints import parse_constraints
from swarmnet.manager.keymanager import request_rotation
from swarmnet.manager.loop import Batch
from swarmnet.manager.roles import is_leaving_work
from swarmnet.manager.tasks import is_ended, is_lost, is_wanted

KINDS = (types.Service, types.Task, types.Node)

_BADLY = (types.TASK_STATE_FAILED, types.TASK_STATE_REJECTED)


def plan(transaction: Transaction, now: float) -> float | None:
    """One pass over all services; it stops when its batch is full."""
    work = _Pass(transaction, now)
    work.give_up_lost_nodes()
    work.stop_the_unwanted()
    work.fill_places()
    return None


class _Pass:
    """The tasks as they are after what the pass has changed so far."""

    def __init__(self, transaction: Transaction, now: float) -> None:
        self._transaction = transaction
        self._now = now
        self._batch = Batch()
        self._services = {s.meta.id: s for s in transaction.scan(types.Service)}
        self._nodes = {n.meta.id: n for n in transaction.scan(types.Node)}
        self._tasks = {t.meta.id: t for t in transaction.scan(types.Task)}

    def give_up_lost_nodes(self) -> None:
        """Tasks on lost nodes end as orphans.

        A silent node may still hold its networks' keys, and even run the tasks: the networks are rekeyed, so
        that it cannot speak for addresses that others get. Who removes, fences or drains it by force sees
        to that itself.
        """
        silent: set[str] = set()
        for task in list(self._tasks.values()):
            node = self._nodes.get(task.node_id)
            if not is_on_node(task) or not is_lost(node) or self._batch.full:
                continue
            self._orphan(task, node)
            if node is not None and not (node.fenced or node.drained_by_force):
                silent.update(task.spec.networks)
        request_rotation(self._transaction, sorted(silent), "node down")

    def stop_the_unwanted(self) -> None:
        """Tasks of removed services go; those on drained nodes stop, and get successors elsewhere."""
        for task in list(self._tasks.values()):
            if self._batch.full:
                return
            node = self._nodes.get(task.node_id)
            if task.service_id not in self._services:
                self._stop(task, types.TASK_STATE_REMOVE)
            elif node is not None and _is_drained(node) and is_on_node(task):
                self._stop(task, types.TASK_STATE_SHUTDOWN)

    def fill_places(self) -> None:
        by_service: dict[str, list[types.Task]] = defaultdict(list)
        for task in self._tasks.values():
            by_service[task.service_id].append(task)
        for service in self._services.values():
            tasks = by_service[service.meta.id]
            if service.spec.mode == types.SERVICE_MODE_GLOBAL:
                self._fill_nodes(service, tasks)
            else:
                self._fill_slots(service, tasks)

    def _fill_slots(self, service: types.Service, tasks: Sequence[types.Task]) -> None:
        places: dict[int, list[types.Task]] = defaultdict(list)
        for task in tasks:
            if task.slot > service.spec.replicas:
                self._stop(task, types.TASK_STATE_REMOVE)
            else:
                places[task.slot].append(task)
        for slot in range(1, service.spec.replicas + 1):
            if self._batch.full:
                return
            self._fill(service, places[slot], slot=slot)

    def _fill_nodes(self, service: types.Service, tasks: Sequence[types.Task]) -> None:
        places: dict[str, list[types.Task]] = defaultdict(list)
        for task in tasks:
            places[task.node_id].append(task)
        constraints = parse_constraints(service.spec.constraints)
        for node in self._nodes.values():
            here = places.pop(node.meta.id, [])
            fits = node.role == types.ROLE_WORKER and all(c.allows(node) for c in constraints)
            if not fits or is_lost(node) or _is_drained(node):
                self._stop_all(here)
            elif node.availability == types.AVAILABILITY_ACTIVE and not self._batch.full:
                self._fill(service, here, node_id=node.meta.id)
        for left_over in places.values():
            self._stop_all(left_over)

    def _fill(
        self, service: types.Service, place: Sequence[types.Task], *, slot: int = 0, node_id: str = ""
    ) -> None:
        wanted = sorted((t for t in place if is_wanted(t)), key=is_ended)
        for surplus in wanted[1:]:
            self._stop(surplus, types.TASK_STATE_SHUTDOWN)
        if not wanted:
            self._create(service, slot, node_id, self._now)
        elif is_ended(wanted[0]) and _may_restart(wanted[0], place):
            self._stop(wanted[0], types.TASK_STATE_SHUTDOWN)
            self._create(service, slot, node_id, self._now + _delay_s(wanted[0]))

    def _create(self, service: types.Service, slot: int, node_id: str, not_before: float) -> None:
        task = types.Task(
            meta=types.Meta(id=make_id(secrets.token_bytes(16))),
            service_id=service.meta.id,
            slot=slot,
            node_id=node_id,
            spec=service.spec,
            spec_version=service.spec_version,
            state=types.TASK_STATE_NEW,
            desired_state=types.TASK_STATE_RUNNING,
            state_at=stamp(self._now),
        )
        if not_before > self._now:
            task.not_before.CopyFrom(stamp(not_before))
        self._put(task)

    def _orphan(self, task: types.Task, node: types.Node | None) -> None:
        changed = self._transaction.edit(task)
        changed.state = types.TASK_STATE_ORPHANED
        changed.state_at.CopyFrom(stamp(self._now))
        changed.message = _why_lost(node)
        self._put(changed)

    def _stop_all(self, tasks: Iterable[types.Task]) -> None:
        for task in tasks:
            self._stop(task, types.TASK_STATE_REMOVE)

    def _stop(self, task: types.Task, desired: types.TaskState.ValueType) -> None:
        if task.desired_state < desired:
            changed = self._transaction.edit(task)
            changed.desired_state = desired
            self._put(changed)

    def _put(self, task: types.Task) -> None:
        self._transaction.put(task)
        self._tasks[task.meta.id] = task
        self._batch.add(task)


def _why_lost(node: types.Node | None) -> str:
    if node is None:
        return "its node was removed"
    return f"node {node.hostname} {'was drained by force' if node.drained_by_force else 'is down'}"


def _is_drained(node: types.Node) -> bool:
    """Also by becoming a manager: managers run no tasks."""
    return node.availability == types.AVAILABILITY_DRAIN or is_leaving_work(node)


def _may_restart(task: types.Task, place: Iterable[types.Task]) -> bool:
    """An orphan did not fail: whatever the policy, it is made up for."""
    policy = task.spec.restart
    if task.state == types.TASK_STATE_ORPHANED:
        return True
    if policy.condition == types.RESTART_CONDITION_NONE:
        return False
    if policy.condition == types.RESTART_CONDITION_ON_FAILURE and task.state not in _BADLY:
        return False
    ended = sum(is_ended(each) and each.state != types.TASK_STATE_ORPHANED for each in place)
    return not policy.max_attempts or ended <= policy.max_attempts


def _delay_s(task: types.Task) -> float:
    if task.state == types.TASK_STATE_ORPHANED:
        return 0.0
    policy = task.spec.restart
    return seconds(policy.delay) if policy.HasField("delay") else RESTART_DELAY_S
