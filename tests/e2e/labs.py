"""Labs for tests: started as an operator starts them, looked at from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from swarmnet.cli.lab.place import Lab

SWARMNET: Final = str(Path(sys.executable).with_name("swarmnet"))
PATIENCE_S: Final = 60.0
_STAY: Final = ("sh", "-c", 'echo "$SWARMNET_LAB"; exec sleep infinity')


@contextmanager
def running(logs: Path, *options: str) -> Iterator[Lab]:
    """A lab in this kernel, from when its swarm is ready; ended by SIGTERM."""
    argv = [SWARMNET, "lab", "run", "--kernel", "host", "--logs", str(logs), *options, "--", *_STAY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        file = process.stdout.readline().strip()
        try:
            assert file, process.stderr.read()
            yield Lab.load(file)
        finally:
            process.terminate()


class Swarm:
    """The command line, typed on a lab's managers."""

    def __init__(self, lab: Lab, manager: str = "m1") -> None:
        self.lab = lab
        self.manager = manager

    def ask(self, command: str) -> str:
        result = self.lab.run(self.manager, ["swarmnet", *command.split()], timeout_s=PATIENCE_S)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def rows(self, command: str) -> list[Mapping[str, str]]:
        return [json.loads(line) for line in self.ask(f"{command} --format json --no-trunc").splitlines()]

    def running_tasks(self, service: str) -> list[Mapping[str, str]]:
        found = self.rows(f"service ps {service}")
        return [row for row in found if row["CurrentState"].startswith("Running")]

    def in_task(self, task: Mapping[str, str], argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self.lab.run(task["Node"], argv, namespace=task_namespace(task))

    def reaches(self, client: Mapping[str, str], server: Mapping[str, str]) -> bool:
        return self.in_task(client, ["ping", "-c", "1", "-W", "1", address(server)]).returncode == 0


def address(task: Mapping[str, str]) -> str:
    return task["Addresses"].split("/")[0]


def task_namespace(task: Mapping[str, str]) -> str:
    return f"/run/swarmnet/netns/t-{task['ID'][:12]}"


def eventually(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Asks until it holds; fails with `what` at the deadline."""
    deadline = time.monotonic() + patience_s
    pause_s = 0.02
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)
