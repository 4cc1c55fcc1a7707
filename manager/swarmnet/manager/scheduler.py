"""The scheduler: a node for every pending task, spread over those that can run it, or why none can."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.endpoints import Endpoint, sign_all
from swarmnet.core.placement import is_on_node
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import seconds, stamp
from swarmnet.manager.addresses import bare
from swarmnet.manager.constraints import parse_constraints
from swarmnet.manager.loop import Batch
from swarmnet.manager.scheduler_filters import Ask, suitable
from swarmnet.manager.tasks import is_ended, is_wanted

KINDS = (types.Task, types.Node, types.Network)

_FAILED_OFTEN: Final = 3
"""A node where a service failed as often as this comes last for it."""


def plan(transaction: Transaction, now: float) -> float | None:
    """Assign what is pending and due; wake when the next restart is due."""
    tasks = transaction.scan(types.Task)
    pending = [t for t in tasks if t.state == types.TASK_STATE_PENDING and is_wanted(t)]
    later = [at for t in pending if (at := seconds(t.not_before)) > now]
    due = [t for t in pending if seconds(t.not_before) <= now]
    if due:
        work = _Pass(transaction, tasks, now)
        for task in due:
            work.place(task)
            if work.batch.full:
                break
        work.sign()
    return min(later, default=None)


class _Pass:
    """How full the nodes are, kept up to date while tasks are placed."""

    def __init__(self, transaction: Transaction, tasks: Iterable[types.Task], now: float) -> None:
        self.batch = Batch()
        self._placed: list[types.Task] = []
        self._transaction = transaction
        self._now = now
        self._workers = [n for n in transaction.scan(types.Node) if n.role == types.ROLE_WORKER]
        self._networks = {n.meta.id: n for n in transaction.scan(types.Network)}
        self._total: Counter[str] = Counter()
        self._of_service: dict[str, Counter[str]] = defaultdict(Counter)
        self._failures: dict[str, Counter[str]] = defaultdict(Counter)
        for task in tasks:
            self._count(task)

    def _count(self, task: types.Task) -> None:
        if is_on_node(task):
            self._total[task.node_id] += 1
            self._of_service[task.service_id][task.node_id] += 1
        elif is_ended(task) and task.state in (types.TASK_STATE_FAILED, types.TASK_STATE_REJECTED):
            self._failures[task.service_id][task.node_id] += 1

    def place(self, task: types.Task) -> None:
        """Assign the task, or say why not."""
        nodes, why = suitable(self._ask(task), self._candidates(task))
        if not nodes:
            self._explain(task, why)
            return
        node = min(nodes, key=lambda each: self._load(task.service_id, each))
        # What the decision rests on: a node or network that changes meanwhile brings it back here.
        self._transaction.get(types.Node, node.meta.id)
        for network_id in task.spec.networks:
            self._transaction.get(types.Network, network_id)
        assigned = self._assign(task, node)
        self._count(assigned)
        self._placed.append(assigned)
        self.batch.add(assigned)

    def _ask(self, task: types.Task) -> Ask:
        networks = (self._networks.get(each) for each in task.spec.networks)
        encrypted = any(network is not None and network.encrypted for network in networks)
        return Ask(task.spec.image, encrypted, parse_constraints(task.spec.constraints))

    def _candidates(self, task: types.Task) -> Sequence[types.Node]:
        """A global service's task is made for one node."""
        if not task.node_id:
            return self._workers
        return [node for node in self._workers if node.meta.id == task.node_id]

    def _load(self, service_id: str, node: types.Node) -> tuple[bool, int, int, int]:
        """Spread the service first, then the nodes' tasks in all."""
        id_ = node.meta.id
        failing = self._failures[service_id][id_] >= _FAILED_OFTEN
        return failing, self._of_service[service_id][id_], self._total[id_], node.index

    def _explain(self, task: types.Task, why: str) -> None:
        if task.message != why:
            changed = self._transaction.edit(task)
            changed.message = why
            self._put(changed)

    def _put(self, task: types.Task) -> None:
        self._transaction.put(task)
        self.batch.add(task)

    def _assign(self, task: types.Task, node: types.Node) -> types.Task:
        assigned = self._transaction.edit(task)
        assigned.node_id = node.meta.id
        assigned.state = types.TASK_STATE_ASSIGNED
        assigned.state_at.CopyFrom(stamp(self._now))
        assigned.message = ""
        return assigned

    def sign(self) -> None:
        """The endpoints of all tasks that were placed, those of a network together: nobody else is shown as
        much as a hash of them."""
        for places in _by_network(self._placed).values():
            signatures = sign_all(self._signing_key(), [each.endpoint for each in places])
            for place, signature in zip(places, signatures, strict=True):
                place.take(signature)
        for task in self._placed:
            self._transaction.put(task)

    def _signing_key(self) -> SecretBytes:
        secrets = next(iter(self._transaction.scan(store.ClusterSecrets)), None)
        assert secrets is not None, "no cluster secrets in a swarm"
        return SecretBytes(secrets.endpoint_private_key)


@dataclass(frozen=True, slots=True)
class _Place:
    """An endpoint, and where its signature belongs."""

    attachment: types.Attachment
    endpoint: Endpoint

    def take(self, signature: bytes) -> None:
        if self.endpoint.ip == ip_address(bare(self.attachment.address)):
            self.attachment.signature = signature
        else:
            self.attachment.signature_v6 = signature


def _by_network(tasks: Iterable[types.Task]) -> dict[str, list[_Place]]:
    places: dict[str, list[_Place]] = defaultdict(list)
    for task in tasks:
        for attachment in task.attachments:
            for address in filter(None, (attachment.address, attachment.address_v6)):
                endpoint = _endpoint(task, attachment, address)
                places[attachment.network_id].append(_Place(attachment, endpoint))
    return places


def _endpoint(task: types.Task, attachment: types.Attachment, address: str) -> Endpoint:
    ip = ip_address(bare(address))
    return Endpoint(attachment.network_id, task.meta.id, ip, attachment.mac, task.node_id)
