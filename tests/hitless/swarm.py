"""The swarm as an operator sees it, whichever of its managers happens to be alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from swarmnet.api.v1 import control_pb2, types_pb2
from swarmnet.api.v1.control_pb2_grpc import ControlStub
from swarmnet.cli.lab.place import Host, Lab

PATIENCE_S: Final = 600.0
_CALL_S: Final = 10.0
_PAUSE_S: Final = 0.05
_LOOK_S: Final = 0.5
"""Each look costs the managers several linearizable reads, on the one CPU that all hosts share."""
_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}
"""What a call may end with while a manager is gone, or another one is being elected."""
_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 50))

AnswerT = TypeVar("AnswerT")


class Broken(Exception):
    """What has to hold for the experiment to go on does not."""


class Swarm:
    """Calls that are repeated at another manager until one answers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.managers = lab.of_kind("manager")
        self.workers = lab.of_kind("worker")
        self._stubs = [ControlStub(_channel(lab, host)) for host in self.managers]

    def call(self, rpc: str, request: Any) -> Any:
        """Broken when no manager answers for minutes; grpc.RpcError for what is refused."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return getattr(self._stubs[0], rpc)(request, timeout=_CALL_S)
            except grpc.RpcError as error:
                if error.code() not in _PASSING:
                    raise
                if time.monotonic() > deadline:
                    raise Broken(f"no manager answers {rpc}: {error.details()}") from None
            self._stubs.append(self._stubs.pop(0))
            time.sleep(_PAUSE_S)

    def keys(self) -> dict[str, types_pb2.KeyScope]:
        """Every scope by its id."""
        answer = self.call("ListKeys", control_pb2.ListKeysRequest())
        return {view.scope.meta.id: view.scope for view in answer.keys}

    def waiting_for(self) -> dict[str, list[str]]:
        """Of each scope, the hosts that keep its step waiting."""
        names = {view.node.meta.id: view.node.hostname for view in self.nodes()}
        answer = self.call("ListKeys", control_pb2.ListKeysRequest())
        return {view.name: [names[each] for each in view.waiting_for] for view in answer.keys}

    def rotate(self) -> None:
        """Every scope, as `swarmnet key rotate` does."""
        self.call("RotateKeys", control_pb2.RotateKeysRequest())

    def update(self, **settings_s: int) -> None:
        """Settings of the cluster, in seconds."""
        fields: Any = {name: Duration(seconds=each) for name, each in settings_s.items()}
        self.call("UpdateCluster", control_pb2.UpdateClusterRequest(**fields))

    def nodes(self) -> Sequence[control_pb2.NodeView]:
        found: Sequence[control_pb2.NodeView] = self.call("ListNodes", control_pb2.ListNodesRequest()).nodes
        return found

    def leader(self) -> str:
        """The leading manager's host; empty when there is none just now."""
        return next((each.node.hostname for each in self.nodes() if each.manager_status == "Leader"), "")

    def all_managers_there(self) -> bool:
        status = sorted(view.manager_status for view in self.nodes() if view.manager_status)
        return status == ["Leader", *["Reachable"] * (len(self.managers) - 1)]

    def all_workers_ready(self) -> bool:
        ready = [view for view in self.nodes() if view.node.state == types_pb2.NODE_STATE_READY]
        return sum(view.node.role == types_pb2.ROLE_WORKER for view in ready) == len(self.workers)

    def create_network(self, name: str) -> types_pb2.Network:
        request = control_pb2.CreateNetworkRequest(
            name=name, driver="overlay", options={"encrypted": ""}, request_id=f"network {name}"
        )
        self.call("CreateNetwork", request)
        made: types_pb2.Network = self.call("GetNetwork", control_pb2.GetRequest(ref=name))
        return made

    def create_service(self, name: str, network: str) -> None:
        """One task on each worker, that does nothing."""
        spec = types_pb2.ServiceSpec(
            name=name,
            image="host",
            command=["sleep", "infinity"],
            mode=types_pb2.SERVICE_MODE_GLOBAL,
            networks=[network],
        )
        self.call("CreateService", control_pb2.CreateServiceRequest(spec=spec, request_id=f"service {name}"))

    def running(self, service: str) -> dict[str, types_pb2.Task]:
        """Its running tasks, by host."""
        names: Mapping[str, str] = {view.node.meta.id: view.node.hostname for view in self.nodes()}
        tasks = self.call("ListTasks", control_pb2.ListTasksRequest(services=[service])).tasks
        return {names[each.node_id]: each for each in tasks if each.state == types_pb2.TASK_STATE_RUNNING}


def _channel(lab: Lab, host: Host) -> grpc.Channel:
    return grpc.insecure_channel(f"unix://{lab.socket(host)}", options=_OPTIONS)


def eventually(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Asks until it holds; Broken with `what` at the deadline."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(f"not within {patience_s:.0f} s: {what}")
        time.sleep(_LOOK_S)
