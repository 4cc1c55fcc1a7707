"""A worker of the simulation: the real agent, data path, ledger and sealer over a kernel in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.sim.fake_kernel import FakeKernel

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.seal import Sealer
from swarmnet.worker.agent import Agent
from swarmnet.worker.datapath.datapath import Capability, Datapath
from swarmnet.worker.datapath.ipsec import Ipsec
from swarmnet.worker.datapath.kernel import Kernel
from swarmnet.worker.datapath.ledger import Ledger
from swarmnet.worker.executor import TaskSpec


class Killed(BaseException):
    """SIGKILL, or the power: nothing catches it."""


class SimDatapath(Datapath):
    """On the calling task instead of a thread of its own."""

    def __init__(self, kernel: FakeKernel, folder: Path) -> None:
        super().__init__(folder / "run", folder / "state")
        self._writer.shutdown()
        self._ledger = Ledger(self._ledger_path)
        links: Any = kernel
        netlink: Any = kernel
        self._links = links
        self._ipsec = Ipsec(netlink, self._ledger)
        self._kernel = Kernel(links, self._ipsec)
        self._capability = Capability(esp=True)

    async def _run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)


class SimGossip:
    """Gossip as far as keys go; nobody speaks."""

    def __init__(self, node_id: str, boot: int) -> None:
        self.sealer = Sealer(node_id, boot)

    def set_endpoint_key(self, public: bytes) -> None:
        pass

    def set_epochs(self, epochs: Epochs) -> None:
        self.sealer.set_epochs(epochs)

    def forget(self, scope: str) -> None:
        self.sealer.forget(scope)

    def set_peers(self, network_id: str, peers: frozenset[str]) -> None:
        pass

    def join(self, seeds: Sequence[tuple[str, str]]) -> None:
        pass

    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]]) -> None:
        pass

    def leave_network(self, network_id: str) -> None:
        pass

    def endpoints(self, network_id: str) -> tuple[Endpoint, ...]:
        return ()

    def members(self) -> tuple[Rumor, ...]:
        return ()

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        epochs = self.sealer.epochs(scope)
        if epochs is None:
            return (), 0
        return epochs.numbers(), epochs.current.number if epochs.current else 0


class SimTasks:
    """Tasks that run as soon as they are started, and outlive the worker."""

    def __init__(self) -> None:
        self.known: dict[str, dispatcher.TaskStatus] = {}

    def statuses(self) -> Mapping[str, dispatcher.TaskStatus]:
        return dict(self.known)

    def is_alive(self, task_id: str) -> bool:
        return task_id in self.known

    def start(self, spec: TaskSpec) -> None:
        self.known[spec.task_id] = dispatcher.TaskStatus(task_id=spec.task_id, state=types.TASK_STATE_RUNNING)

    def stop(self, task_id: str) -> None:
        self.known.pop(task_id, None)

    def forget(self, task_id: str) -> None:
        self.known.pop(task_id, None)


class SimWorker:
    """One host. `said` is what its process last wanted to tell the managers; None: nothing yet."""

    def __init__(self, name: str, index: int, folder: Path) -> None:
        self.name, self.node_id, self.address = name, f"node-{name}", f"192.0.2.{index}"
        self.kernel = FakeKernel()
        self.tasks = SimTasks()
        self._folder = folder
        self._boot = 0
        self.start()

    def start(self) -> None:
        """A new process over whatever kernel there is."""
        self._boot += 1
        self.said: dispatcher.KeyReport | None = None
        self.applied: dispatcher.Assignment | None = None
        self.gossip = SimGossip(self.node_id, self._boot)
        self.agent = Agent(
            self.address,
            SimDatapath(self.kernel, self._folder),
            self.gossip,
            self.tasks,
            self._tell,
            memory=self._folder / "endpoints.json",
        )

    def reboot(self) -> None:
        self.kernel.wipe()
        self.tasks.known.clear()
        self.start()

    async def take(self, assignment: dispatcher.Assignment) -> None:
        """One pass of the agent, to its end. Killed in it, this is a new process."""
        try:
            await self.agent._pass(assignment)
        except Killed:
            self.start()
            raise
        self.applied = assignment

    def _tell(self, statuses: Mapping[str, dispatcher.TaskStatus], keys: dispatcher.KeyReport) -> None:
        self.said = keys
