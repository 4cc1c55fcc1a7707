"""The files of one task, below the worker's state directory: tasks/<task id>/

spec      what the shim is to run; 0600, since variables may be secret
lock      held by the shim as long as anything of the task lives
status    the shim's pid, and how far the task is
log       what the task wrote to stdout and stderr
"""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from swarmnet.worker import shim


@dataclass(frozen=True, slots=True)
class Launch:
    """A task as the shim starts it. `root` is / for the host's own files, `user` is (uid, gid).

    `hidden` are directories that a task on the host's files must not see.
    """

    namespace: Path
    hostname: str
    root: Path
    workdir: str
    user: tuple[int, int]
    grace_s: float
    arguments: tuple[str, ...]
    variables: tuple[str, ...]
    hidden: tuple[Path, ...]

    def encode(self) -> bytes:
        return shim.encode(
            [
                ("namespace", str(self.namespace)),
                ("hostname", self.hostname),
                ("root", str(self.root)),
                ("workdir", self.workdir),
                ("user", f"{self.user[0]}:{self.user[1]}"),
                ("grace_s", str(self.grace_s)),
                *(("argument", each) for each in self.arguments),
                *(("variable", each) for each in self.variables),
                *(("hidden", str(each)) for each in self.hidden),
            ]
        )


@dataclass(frozen=True, slots=True)
class Status:
    """What the shim last said. `state` is starting, running or ended; `trouble`: why it never ran."""

    pid: int = 0
    state: str = ""
    code: int = 0
    stopped: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class TaskDirectory:
    path: Path

    @property
    def task_id(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "log"

    def create(self, launch: Launch) -> None:
        """Make the directory anew."""
        self.remove()
        self.path.mkdir(mode=0o700, parents=True)
        descriptor = os.open(self.path / "spec", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(launch.encode())

    def grace_s(self) -> float:
        """The grace period that the task was started with."""
        return shim.Spec(str(self.path)).grace_s

    def lock(self) -> int:
        """A locked descriptor for the shim to inherit. BlockingIOError while the task is alive."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        return descriptor

    def is_alive(self) -> bool:
        """Whether a shim holds the lock."""
        if not (self.path / "lock").exists():
            return False
        try:
            os.close(self.lock())
        except BlockingIOError:
            return True
        return False

    def status(self) -> Status:
        """An empty one when the shim has not written any yet."""
        try:
            fields = shim.decode((self.path / "status").read_bytes())
        except FileNotFoundError:
            return Status()
        last = {name: values[-1] for name, values in fields.items()}
        return Status(
            pid=int(last["pid"]),
            state=last["state"],
            code=int(last.get("code", "0")),
            stopped=last.get("stopped") == "1",
            trouble=last.get("trouble", ""),
        )

    def remove(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)


def directories(state_dir: Path) -> list[TaskDirectory]:
    """Those of every task that this host still knows of."""
    folder = state_dir / "tasks"
    if not folder.is_dir():
        return []
    return [TaskDirectory(each) for each in sorted(folder.iterdir())]


def directory(state_dir: Path, task_id: str) -> TaskDirectory:
    return TaskDirectory(state_dir / "tasks" / task_id)
