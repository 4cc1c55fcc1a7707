"""Daemons as real processes on one network namespace of their own, and the command line at their sockets."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

from swarmnet.api.v1 import control_pb2, local_pb2
from swarmnet.cli.connection import Endpoint
from swarmnet.cli.daemons import Daemon, Kind
from swarmnet.cli.main import main
from swarmnet.cli.manager import Manager
from swarmnet.core.errors import SwarmnetError
from swarmnet.worker import taskdir
from swarmnet.worker.datapath.namespaces import Namespaces
from swarmnet.worker.taskdir import TaskDirectory

PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@dataclass
class Host:
    """One daemon, with directories and an address of its own."""

    island: Island
    kind: Kind
    folder: Path
    address: str
    process: subprocess.Popen[bytes] | None = None
    _manager: Manager | None = None

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def bootstrap(self) -> str:
        return f"{self.address}:2378"

    @property
    def metrics(self) -> str:
        """Of a manager: the loopback has addresses enough for all."""
        return f"127.9.9.{self.address.rpartition('.')[2]}:9477"

    def start(self) -> None:
        """Until it answers."""
        arguments = [f"--state-dir={self.folder}/state", f"--run-dir={self.run_dir}"]
        arguments.append(f"--advertise-addr={self.address}")
        if self.kind == "manager":
            arguments += [f"--listen-addr={self.address}:2377", f"--bootstrap-addr={self.bootstrap}"]
            arguments.append(f"--raft-addr={self.address}:2374")
            arguments.append(f"--metrics-addr={self.metrics}")
        else:
            arguments.append(f"--gossip-addr={self.address}:7946")
        with (self.folder / "log").open("ab") as log:
            module = self.island.manager if self.kind == "manager" else "swarmnet.worker.main"
            command = [sys.executable, "-m", module, *arguments]
            self.process = subprocess.Popen(self.island.inside(command), stderr=log)
        eventually(lambda: self.daemon().call(lambda local: local.GetInfo, local_pb2.GetInfoRequest()))

    def daemon(self) -> Daemon:
        return Daemon(self.kind, Endpoint(path=str(self.run_dir / f"{self.kind}.sock")))

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def end_tasks(self) -> None:
        """A worker's tasks and their network namespaces outlive it."""
        for task in taskdir.directories(self.folder / "state"):
            if task.is_alive():
                os.kill(task.status().pid, signal.SIGKILL)
                eventually(partial(ended, task))
        left = Namespaces(self.run_dir / "netns")
        for name in left.names():
            left.remove(name)

    def swarmnet(self, *arguments: str) -> Result:
        """The command line on this host, in this process: a unix socket is reached from any network."""
        settings = {name: value for name, value in os.environ.items() if not name.startswith("SWARMNET_")}
        settings["SWARMNET_RUN_DIR"] = str(self.run_dir)
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, settings, clear=True), redirect_stdout(out), redirect_stderr(err):
            try:
                status = main(arguments)
            except SystemExit as leaving:
                status = int(leaving.code or 0)
        return Result(status, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str) -> str:
        """What a command that has to succeed printed."""
        result = self.swarmnet(*arguments)
        assert result.status == 0, result.err
        return result.out

    def create_network(self, name: str) -> None:
        """Over the API: the command line takes many times as long."""
        request = control_pb2.CreateNetworkRequest(name=name, driver="overlay", request_id=name)
        if self._manager is None:
            self._manager = Manager([Endpoint(path=str(self.run_dir / "manager.sock"))])
        self._manager.call(lambda control: control.CreateNetwork, request)

    def versions(self) -> dict[str, int]:
        """Every object an operator can change, and when it last did."""
        manager = Manager([Endpoint(path=str(self.run_dir / "manager.sock"))])
        networks = manager.call(lambda control: control.ListNetworks, control_pb2.ListRequest()).networks
        services = manager.call(lambda control: control.ListServices, control_pb2.ListRequest()).services
        nodes = manager.call(lambda control: control.ListNodes, control_pb2.ListNodesRequest()).nodes
        tokens = manager.call(lambda control: control.GetJoinTokens, control_pb2.GetJoinTokensRequest())
        manager.close()
        found = {each.meta.id: each.meta.version for each in networks}
        found |= {view.service.meta.id: view.service.meta.version for view in services}
        found |= {view.node.meta.id: 0 for view in nodes}  # nodes change by themselves
        return found | {tokens.worker: 0, tokens.manager: 0}


@dataclass
class Island:
    folder: Path
    holder: subprocess.Popen[bytes]
    hosts: list[Host] = field(default_factory=list)
    manager: str = "swarmnet.manager.main"
    """The module that managers run."""

    def inside(self, command: list[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]

    def ip(self, line: str) -> None:
        subprocess.run(self.inside(["ip", *line.split()]), check=True)

    def host(self, kind: Kind) -> Host:
        """Another host whose daemon answers, outside of any swarm."""
        number = len(self.hosts) + 1
        address = f"10.9.9.{number}"
        self.ip(f"addr add {address}/24 dev shore")
        made = Host(self, kind, self.folder / f"h{number}", address)
        made.run_dir.mkdir(parents=True)
        self.hosts.append(made)
        made.start()
        return made

    def joined(self, kind: Kind, manager: Host) -> Host:
        """Another host, in the manager's swarm and ready."""
        host = self.host(kind)
        host.ok(
            "swarm",
            "join",
            "--token",
            manager.ok("swarm", "join-token", "-q", kind).strip(),
            manager.bootstrap,
        )
        count = len(manager.ok("node", "ls", "-q").split())
        eventually(lambda: manager.ok("node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * count)
        return host


@contextmanager
def island(folder: Path) -> Iterator[Island]:
    """An empty one; what was started on it is killed at the end, tasks too."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = os.readlink("/proc/self/ns/net")
    eventually(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own)
    made = Island(folder, holder)
    try:
        for line in ("link set lo up", "link add shore type bridge", "link set shore up"):
            made.ip(line)
        yield made
    finally:
        for host in made.hosts:
            host.kill()
            host.end_tasks()
        holder.kill()
        holder.wait()


def ended(task: TaskDirectory) -> bool:
    return not task.is_alive()


def eventually(ask: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Ask until the answer is true and without an error of ours."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if ask():
                return
        except SwarmnetError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"nothing within {patience_s} s"
        time.sleep(0.02)
