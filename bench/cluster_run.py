"""One run of bench/cluster.py, inside a lab whose daemons run and are in no swarm yet.

    python -m bench.cluster_run FIGURES_FILE plain|encrypted

Writes {case: [values]}. Times are those of an operator: from before the call to after the answer, or to
the first answered ping.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import grpc

from swarmnet.api.v1 import control_pb2, local_pb2, types_pb2
from swarmnet.api.v1.control_pb2_grpc import ControlStub
from swarmnet.api.v1.local_pb2_grpc import LocalStub
from swarmnet.cli.demo.pinger import Pinger
from swarmnet.cli.lab.place import Host, Lab

NETWORK: Final = "bench"
TIMEOUT_S: Final = 60.0
REST_S: Final = 1.0
"""Before each join: what the one before it set off is over."""
IDLE_S: Final = 3.0
"""Before memory is read."""

_PROMPT: Final = 'echo ready; read -r line; "$@"'
"""A shell that waits for Return: what it costs to get onto the host is not the command's."""

Figures = dict[str, list[float]]


def timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


class Cluster:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.leader = lab.host("m1")

    def local(self, host: Host) -> LocalStub:
        return LocalStub(grpc.insecure_channel(f"unix://{self.lab.socket(host)}"))

    def control(self, host: Host | None = None) -> ControlStub:
        channel = grpc.insecure_channel(f"unix://{self.lab.socket(host or self.leader)}")
        return ControlStub(channel)

    def cli(self, host: str, *arguments: str) -> float:
        """How long the command takes that an operator types at a prompt on that host, in seconds."""
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }
        argv = ["sh", "-c", _PROMPT, "sh", "swarmnet", *arguments]
        with self.lab.popen(host, argv, text=True, **pipes) as shell:
            assert shell.stdout is not None
            shell.stdout.readline()
            started = time.monotonic()
            said, _ = shell.communicate("\n", timeout=TIMEOUT_S)
            taken = time.monotonic() - started
        if shell.returncode:
            sys.exit(f"{host}# swarmnet {' '.join(arguments)}\n{said}exit status {shell.returncode}")
        return taken

    def running(self, service: str, count: int) -> list[types_pb2.Task]:
        """Wait until that many tasks of the service run, by watching."""
        control = self.control()
        watch = control.Watch(
            control_pb2.WatchRequest(kinds=[control_pb2.OBJECT_KIND_TASK]), timeout=TIMEOUT_S
        )
        watch.initial_metadata()
        while True:
            request = control_pb2.ListTasksRequest(services=[service])
            tasks = control.ListTasks(request, timeout=TIMEOUT_S).tasks
            up = [task for task in tasks if task.state == types_pb2.TASK_STATE_RUNNING]
            if len(up) >= count:
                watch.cancel()
                return sorted(up, key=lambda task: task.slot)
            next(watch)

    def reached(self, pairs: Sequence[tuple[types_pb2.Task, types_pb2.Task]]) -> float:
        """When (monotonic) each second task had answered a ping of the first one."""
        with ExitStack() as pinging:
            pingers = [pinging.enter_context(self.pinger(*pair, 100)) for pair in pairs]
            deadline = time.monotonic() + TIMEOUT_S
            while not all(pinger.answered for pinger in pingers):
                if time.monotonic() > deadline:
                    sys.exit("tasks do not reach each other")
                time.sleep(0.002)
            return time.monotonic()

    def pinger(self, client: types_pb2.Task, server: types_pb2.Task, rate_per_s: int) -> Pinger:
        nodes = self.control().ListNodes(control_pb2.ListNodesRequest(), timeout=TIMEOUT_S).nodes
        names = {view.node.meta.id: view.node.hostname for view in nodes}
        namespace = f"/run/swarmnet/netns/t-{client.meta.id[:12]}"
        file = self.lab.network_namespace(self.lab.host(names[client.node_id]), namespace)
        return Pinger(file, server.attachments[0].address.split("/")[0], rate_per_s)


def form(cluster: Cluster, figures: Figures) -> None:
    cluster.local(cluster.leader).Init(local_pb2.InitRequest(), timeout=TIMEOUT_S)
    tokens = cluster.control().GetJoinTokens(control_pb2.GetJoinTokensRequest(), timeout=TIMEOUT_S)
    for name in ("m2", "m3"):
        join(cluster, name, tokens.manager, tokens.manager_address)
    joined = figures["worker joined, by the API"] = []
    for name in ("w1", "w2"):
        time.sleep(REST_S)
        joined.append(timed(lambda: join(cluster, name, tokens.worker, tokens.manager_address)))  # noqa: B023
    time.sleep(REST_S)
    line = ("swarm", "join", "--token", tokens.worker, tokens.manager_address)
    figures["worker joined, by the CLI"] = [cluster.cli("w3", *line)]


def join(cluster: Cluster, name: str, token: str, address: str) -> None:
    request = local_pb2.JoinRequest(token=token, addresses=[address])
    cluster.local(cluster.lab.host(name)).Join(request, timeout=TIMEOUT_S)


def run_service(cluster: Cluster, encrypted: bool, figures: Figures) -> list[types_pb2.Task]:
    options = ("--opt", "encrypted") if encrypted else ()
    line = ("network", "create", "--driver", "overlay", *options, NETWORK)
    figures["network created, by the CLI"] = [cluster.cli("m1", *line)]
    control = cluster.control()
    spec = types_pb2.ServiceSpec(
        name="web", image="host", command=["sleep", "infinity"], replicas=3, networks=[NETWORK]
    )
    started = time.monotonic()
    control.CreateService(control_pb2.CreateServiceRequest(spec=spec, request_id="web"), timeout=TIMEOUT_S)
    tasks = cluster.running("web", 3)
    reached = cluster.reached(list(permutations(tasks, 2)))
    figures["service of 3 created until all reach each other"] = [reached - started]
    started = time.monotonic()
    control.ScaleService(control_pb2.ScaleServiceRequest(ref="web", replicas=4), timeout=TIMEOUT_S)
    tasks = cluster.running("web", 4)
    other = next(task for task in tasks if task.node_id != tasks[-1].node_id)
    reached = cluster.reached([(other, tasks[-1])])
    figures["scaled up until the new task answers on another host"] = [reached - started]
    return tasks


def rotate(cluster: Cluster, tasks: Sequence[types_pb2.Task], figures: Figures) -> None:
    with cluster.pinger(tasks[0], tasks[1], 200) as pings:
        cluster.cli("m1", "key", "rotate")
    if pings.sent < 200:
        sys.exit(f"only {pings.sent} pings were sent in a rotation")
    figures["pings lost in a rotation at 200/s"] = [pings.lost]


def read_memory(cluster: Cluster, figures: Figures) -> None:
    time.sleep(IDLE_S)
    for role, names in (("manager", ("m1", "m2", "m3")), ("worker", ("w1", "w2", "w3"))):
        figures[f"memory of an idle {role}"] = [resident_mib(cluster.lab, name) for name in names]


def daemon_pid(lab: Lab, name: str) -> int:
    return int((lab.folder / "pids" / name).read_text())


def resident_mib(lab: Lab, name: str) -> float:
    status = Path(f"/proc/{daemon_pid(lab, name)}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def kill_leader(cluster: Cluster, figures: Figures) -> None:
    nodes = cluster.control().ListNodes(control_pb2.ListNodesRequest(), timeout=TIMEOUT_S).nodes
    leader = next(view.node.hostname for view in nodes if view.manager_status == "Leader")
    survivor = next(name for name in ("m1", "m2", "m3") if name != leader)
    control = cluster.control(cluster.lab.host(survivor))
    control.GetCluster(control_pb2.GetClusterRequest(), timeout=TIMEOUT_S)
    pid = daemon_pid(cluster.lab, leader)
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    request = control_pb2.CreateNetworkRequest(name="after", driver="overlay", request_id="after")
    while True:
        try:
            control.CreateNetwork(request, timeout=TIMEOUT_S)
            break
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
                raise
    figures["leading manager killed until the next write"] = [time.monotonic() - started]


def main() -> None:
    file, kind = Path(sys.argv[1]), sys.argv[2]
    cluster, figures = Cluster(Lab.load()), Figures()
    form(cluster, figures)
    read_memory(cluster, figures)
    tasks = run_service(cluster, kind == "encrypted", figures)
    rotate(cluster, tasks, figures)
    kill_leader(cluster, figures)
    file.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
