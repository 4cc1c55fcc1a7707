"""Which nodes have tasks of which networks, kept up with each change: nobody has to look at all tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from swarmnet.api.v1 import types_pb2 as types


def is_on_node(task: types.Task) -> bool:
    """A node has it, from assignment until it has really ended, also while it is being stopped."""
    return bool(task.node_id) and types.TASK_STATE_ASSIGNED <= task.state <= types.TASK_STATE_RUNNING


class Placement:
    """Counts of the tasks that nodes have, by network and by node."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, int]] = defaultdict(dict)
        self._tasks: dict[str, dict[str, types.Task]] = defaultdict(dict)

    def replace(self, old: types.Task | None, new: types.Task | None) -> None:
        """A task was made, has changed, or is gone."""
        if old is not None and is_on_node(old):
            del self._tasks[old.node_id][old.meta.id]
            self._count(old, -1)
        if new is not None and is_on_node(new):
            self._tasks[new.node_id][new.meta.id] = new
            self._count(new, 1)

    def _count(self, task: types.Task, step: int) -> None:
        for network_id in task.spec.networks:
            counts = self._nodes[network_id]
            counts[task.node_id] = counts.get(task.node_id, 0) + step
            if not counts[task.node_id]:
                del counts[task.node_id]

    def nodes_on(self, network_id: str) -> Iterable[str]:
        """Ids of the nodes that have a task of the network."""
        return self._nodes.get(network_id, {}).keys()

    def networks(self) -> Iterable[str]:
        """Ids of the networks that some node has a task of."""
        return (network_id for network_id, counts in self._nodes.items() if counts)

    def tasks_on(self, node_id: str) -> Mapping[str, types.Task]:
        """By id, those that the node has."""
        return self._tasks.get(node_id, {})

    def networks_on(self, node_id: str) -> set[str]:
        """Ids of the networks that the node has tasks of."""
        return {network_id for task in self.tasks_on(node_id).values() for network_id in task.spec.networks}
