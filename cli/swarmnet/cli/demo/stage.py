"""What every step of the demo works with: the lab, the screen, the figures, and commands run in hosts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from swarmnet.cli.demo.screen import Screen
from swarmnet.cli.demo.wire import Target
from swarmnet.cli.lab.place import RUN_DIR, Host, Lab
from swarmnet.core.ids import SHORT_ID_LENGTH

COMMAND_TIMEOUT_S: Final = 120.0
_PAUSE_S: Final = 0.05


class Miss(Exception):
    """Something that the demo promises and did not get."""


@dataclass(frozen=True, slots=True)
class Task:
    """A running task of a service."""

    id: str
    name: str
    host: Host
    address: str
    """IPv4, without the prefix length."""

    @property
    def namespace(self) -> str:
        """Its network namespace, as a file in its host (worker's layout)."""
        return str(RUN_DIR / "netns" / f"t-{self.id[:SHORT_ID_LENGTH]}")

    @property
    def mac(self) -> str:
        """02:42: and the address, as the allocator makes it."""
        return ":".join(["02", "42", *(f"{int(part):02x}" for part in self.address.split("."))])


@dataclass(slots=True)
class Stage:
    lab: Lab
    screen: Screen
    figures: dict[str, Any] = field(default_factory=dict)
    manager: str = "m1"
    """The host that cluster commands are typed on."""

    def figure(self, name: str, value: float) -> float:
        """Keeps a figure for the last line: seconds, to the millisecond, or a count."""
        self.figures[name] = round(value, 3)
        return value

    # Commands.
    def show(
        self,
        argv: str,
        *,
        host: str = "",
        expect: int = 0,
        shown_as: str = "",
        secret: str = "",
        quiet: bool = False,
    ) -> str:
        """Types a command on a host, shows it and its output; Miss when it exits not as expected.

        `secret` is cut from what is shown.
        """
        where = host or self.manager
        self.screen.command(where, shown_as or argv)
        result = self.lab.run(where, argv.split(), timeout_s=COMMAND_TIMEOUT_S)
        said = result.stdout + result.stderr
        if not quiet or result.returncode != expect:
            self.screen.output(said.replace(secret, "…") if secret else said)
        if result.returncode != expect:
            raise Miss(f"`{shown_as or argv}` on {where} ended with {result.returncode}, not {expect}")
        return said

    def watch(self, argv: str, *, host: str = "") -> None:
        """As show, for commands with progress bars: on a terminal they draw on it themselves."""
        if not self.screen.is_terminal:
            self.show(argv, host=host)
            return
        where = host or self.manager
        self.screen.command(where, argv)
        status = self.lab.popen(where, argv.split(), stdin=subprocess.DEVNULL).wait(timeout=COMMAND_TIMEOUT_S)
        if status:
            raise Miss(f"`{argv}` on {where} ended with {status}")

    def ask(self, argv: str) -> str:
        """What a command says on standard output, unseen; Miss when it fails."""
        result = self.lab.run(self.manager, argv.split())
        if result.returncode:
            raise Miss(f"`{argv}`: {result.stderr.strip()}")
        return result.stdout

    def rows(self, argv: str) -> list[Mapping[str, str]]:
        """What a list command says, unseen, one mapping a row."""
        said = self.ask(f"{argv} --format json --no-trunc")
        return [json.loads(line) for line in said.splitlines()]

    def document(self, argv: str) -> Mapping[str, Any]:
        """The one object that an inspect command shows, unseen."""
        found: list[Mapping[str, Any]] = json.loads(self.ask(argv))
        return found[0]

    def timed(self, name: str, action: Callable[[], object]) -> float:
        """How long `action` took, also kept as a figure. Seconds."""
        started = time.monotonic()
        action()
        return self.figure(name, time.monotonic() - started)

    # The swarm.
    def tasks(self, service: str) -> list[Task]:
        """The service's running tasks, by name."""
        return [
            Task(row["ID"], row["Name"], self.lab.host(row["Node"]), row["Addresses"].split("/")[0])
            for row in self.rows(f"swarmnet service ps {service}")
            if row["CurrentState"].startswith("Running")
        ]

    def in_task(
        self, task: Task, argv: Sequence[str], timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        return self.lab.run(task.host.name, argv, namespace=task.namespace, timeout_s=timeout_s)

    def namespace_of(self, task: Task) -> str:
        """The task's network namespace, seen from here."""
        return self.lab.network_namespace(task.host, task.namespace)

    def target(self, network: str, task: Task, neighbour: Task) -> Target:
        of = self.document(f"swarmnet network inspect {network}")
        return Target(
            host_address=task.host.address,
            vni=of["VNI"],
            port=of["Port"],
            task_address=task.address,
            task_mac=task.mac,
            neighbour_address=neighbour.address,
            neighbour_mac=neighbour.mac,
        )


def check(holds: bool, miss: str) -> None:
    if not holds:
        raise Miss(miss)


def wait_for(condition: Callable[[], bool], timeout_s: float, miss: str) -> None:
    """Until `condition` holds; Miss at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Miss(f"{miss} (waited {timeout_s:.0f} s)")
        time.sleep(_PAUSE_S)
