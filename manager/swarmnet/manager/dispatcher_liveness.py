"""Which workers are alive: one that is silent for three heartbeats is down."""

from __future__ import annotations

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import HEARTBEATS_MISSED_DOWN
from swarmnet.core.state import Transaction
from swarmnet.manager.dispatcher_assignment import heartbeat_period_s

KINDS = (types.Node, types.Cluster)


class Liveness:
    """When each worker was last heard of, by a monotonic clock (`now` everywhere here, in seconds).

    A new leader has heard of nobody: every node is unknown to it, and has three heartbeats to come. One that
    is heard of is ready again, also if its session began while it was being marked as unknown.
    """

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._expected: dict[str, float] = {}

    def begin(self) -> None:
        self._heard.clear()
        self._expected.clear()

    def heard(self, node_id: str, now: float) -> None:
        """It has registered, and lives."""
        self._heard[node_id] = now

    def plan(self, transaction: Transaction, now: float) -> float | None:
        cluster = next(iter(transaction.scan(types.Cluster)), None)
        silence_s = HEARTBEATS_MISSED_DOWN * heartbeat_period_s(cluster)
        deadlines = []
        workers = [n for n in transaction.scan(types.Node) if n.role == types.ROLE_WORKER]
        for node in workers:
            if node.state == types.NODE_STATE_DOWN:
                continue
            since = self._since(node.meta.id, now)
            if now >= since + silence_s:
                _mark(transaction, node, types.NODE_STATE_DOWN, f"no heartbeat for {silence_s:g} s")
                continue
            deadlines.append(since + silence_s)
            heard = node.meta.id in self._heard
            if not heard and node.state == types.NODE_STATE_READY:
                _mark(transaction, node, types.NODE_STATE_UNKNOWN, "not heard of since a new manager leads")
            elif heard and node.state == types.NODE_STATE_UNKNOWN:
                _mark(transaction, node, types.NODE_STATE_READY, "")
        self._forget_all_but({node.meta.id for node in workers})
        return min(deadlines, default=None)

    def _since(self, node_id: str, now: float) -> float:
        """When it was heard last, or else when it was first missed."""
        heard = self._heard.get(node_id)
        return heard if heard is not None else self._expected.setdefault(node_id, now)

    def _forget_all_but(self, known: set[str]) -> None:
        for clock in (self._heard, self._expected):
            for node_id in clock.keys() - known:
                del clock[node_id]


def _mark(transaction: Transaction, node: types.Node, state: types.NodeState.ValueType, message: str) -> None:
    changed = transaction.edit(node)
    changed.state = state
    changed.message = message
    transaction.put(changed)
