"""What the story plays on: encrypted networks, a task of each on every worker, streams between them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Final

from tests.hitless.sniffer import Sniffer
from tests.hitless.streams import Plan
from tests.hitless.swarm import Swarm, eventually

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.demo.wire import Target, inject
from swarmnet.core import rotation
from swarmnet.core.ids import SHORT_ID_LENGTH

NETWORKS: Final = ("n1", "n2", "n3")
ATTACKER: Final = "attacker"
"""A host without swarmnet."""
_SEEN_S: Final = 10.0


class Stage:
    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._lab = swarm.lab
        self._networks: dict[str, types.Network] = {}
        self._tasks: dict[str, Mapping[str, types.Task]] = {}

    def build(self) -> None:
        """Returns when every task runs. One network at a time: the hosts share a CPU."""
        for name in NETWORKS:
            self._networks[name] = self._swarm.create_network(name)
            self._swarm.create_service(f"on-{name}", name)
            eventually(lambda: self._all_run(name), f"a task of {name} runs on each worker")  # noqa: B023

    def _all_run(self, name: str) -> bool:
        self._tasks[name] = self._swarm.running(f"on-{name}")
        return len(self._tasks[name]) == len(self._swarm.workers)

    def plan(self) -> Plan:
        """On each network, from the task of each host to that of each other host."""
        tasks = {
            f"{name} {host}": (self._namespace(host, task), address(task))
            for name, by_host in self._tasks.items()
            for host, task in sorted(by_host.items())
        }
        streams = [
            (f"{name} {source}", f"{name} {target}")
            for name, by_host in self._tasks.items()
            for source, target in permutations(sorted(by_host), 2)
        ]
        return Plan(tasks, streams)

    def _namespace(self, host: str, task: types.Task) -> str:
        name = f"t-{task.meta.id[:SHORT_ID_LENGTH]}"
        return self._lab.network_namespace(self._lab.host(host), f"/run/swarmnet/netns/{name}")

    def scope_ids(self) -> frozenset[str]:
        return frozenset(each.meta.id for each in self._networks.values())

    def epochs(self) -> dict[int, int]:
        """The current epoch of each network, by its index."""
        scopes = self._swarm.keys()
        return {
            network.index: rotation.number_of(scopes[network.meta.id], types.EPOCH_ROLE_CURRENT)
            for network in self._networks.values()
        }

    def moved(self) -> list[str]:
        """The networks on which not all the tasks run that ran at the beginning."""
        return [
            name for name in NETWORKS if _ids(self._swarm.running(f"on-{name}")) != _ids(self._tasks[name])
        ]

    def show_plaintext(self, sniffer: Sniffer, count: int) -> int:
        """Has an attacker send so many VXLAN packets with a marker in clear; how many the sniffer sees."""
        network, tasks = self._networks[NETWORKS[0]], self._tasks[NETWORKS[0]]
        (victim, task), (_, neighbour) = sorted(tasks.items())[:2]
        target = Target(
            host_address=self._lab.host(victim).address,
            vni=network.vni,
            port=network.port,
            task_address=address(task),
            task_mac=task.attachments[0].mac,
            neighbour_address=address(neighbour),
            neighbour_mac=neighbour.attachments[0].mac,
        )
        before = sniffer.counts.plaintext
        inject(self._lab.network_namespace(self._lab.host(ATTACKER)), target, count)
        eventually(lambda: sniffer.counts.plaintext - before >= count, "the sniffer sees plaintext", _SEEN_S)
        return sniffer.counts.plaintext - before


def address(task: types.Task) -> str:
    """Without the prefix length."""
    return task.attachments[0].address.split("/")[0]


def _ids(tasks: Mapping[str, types.Task]) -> set[str]:
    return {task.meta.id for task in tasks.values()}
