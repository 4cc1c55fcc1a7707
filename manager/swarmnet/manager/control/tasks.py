"""Tasks are read only: the control loops make, move and remove them."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun


class TaskNoun(Noun):
    async def ListTasks(
        self, request: control.ListTasksRequest, context: object
    ) -> control.ListTasksResponse:
        state = self._store.state
        services = {lookup.service(state, ref).meta.id for ref in request.services}
        nodes = {lookup.node(state, ref).meta.id for ref in request.nodes}
        tasks = (
            task
            for task in state.all(types.Task)
            if (not services or task.service_id in services) and (not nodes or task.node_id in nodes)
        )
        return control.ListTasksResponse(tasks=tasks)
