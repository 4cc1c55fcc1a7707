"""A lab as everybody in it finds it: one file that names the hosts, and how to run something in one of them.

FOLDER/lab.json            this; the environment variable SWARMNET_LAB names it
FOLDER/root.pid            the lab's first process, as numbered outside the lab
FOLDER/pids/NAME           the host's daemon, as numbered in the lab; NAME.KIND is one of the other kind

In memory, and seen in the lab only (short, since the path of a unix socket has at most 107 bytes):

/run/lab/NAME/run          the host's /run/swarmnet
/run/lab/NAME/state        the host's /var/lib/swarmnet
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from swarmnet.core.errors import FailedPrecondition, NotFound, Unavailable

VARIABLE: Final = "SWARMNET_LAB"
HOSTS: Final = Path("/run/lab")
RUN_DIR: Final = Path("/run/swarmnet")
STATE_DIR: Final = Path("/var/lib/swarmnet")

_START: Final = 'setsid "$1" </dev/null >>"$2" 2>&1 & echo $! >"$3"'
"""A daemon of its own session, whose parent ends at once; its number is the one that the lab gives it."""

Kind = Literal["manager", "worker", "bare"]


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    kind: Kind
    address: str
    pid: int
    """The process that holds its namespaces, as numbered in the lab."""


@dataclass(frozen=True, slots=True)
class Lab:
    folder: Path
    logs: Path
    process_namespace: int
    """Inode of the lab's process namespace: who is in it numbers processes as the lab does."""
    hosts: tuple[Host, ...]

    @classmethod
    def load(cls, file: Path | str | None = None) -> Self:
        """The lab of `file`, or of SWARMNET_LAB; FailedPrecondition outside any."""
        name = file or os.environ.get(VARIABLE, "")
        if not name or not Path(name).exists():
            raise FailedPrecondition(
                f"{name} is no lab that runs" if name else "this is not inside a lab",
                hint="start one with `swarmnet lab shell`, or name its file in SWARMNET_LAB",
            )
        fields = json.loads(Path(name).read_text())
        hosts = tuple(Host(**each) for each in fields["hosts"])
        return cls(Path(fields["folder"]), Path(fields["logs"]), fields["process_namespace"], hosts)

    @property
    def file(self) -> Path:
        return self.folder / "lab.json"

    def save(self) -> None:
        new = self.file.with_suffix(".new")
        fields = asdict(self) | {"folder": str(self.folder), "logs": str(self.logs)}
        new.write_text(json.dumps(fields))
        new.replace(self.file)

    def host(self, name: str) -> Host:
        for each in self.hosts:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.hosts)
        raise NotFound(f"no host {name} in this lab", hint=f"its hosts: {known}")

    def of_kind(self, kind: Kind) -> tuple[Host, ...]:
        return tuple(each for each in self.hosts if each.kind == kind)

    def run_dir(self, host: str) -> Path:
        """The host's /run/swarmnet, for the lab's first process."""
        return HOSTS / host / "run"

    def socket(self, host: Host) -> Path:
        return self.run_dir(host.name) / f"{host.kind}.sock"

    def environment(self) -> dict[str, str]:
        """What a command in the lab sees: the swarm's first manager, and the lab."""
        managers = self.of_kind("manager")
        found = {VARIABLE: str(self.file), "PATH": search_path()}
        if managers:
            found["SWARMNET_HOST"] = f"unix://{self.socket(managers[0])}"
        return found

    # Running something in a host.
    def popen(
        self, host: str, argv: Sequence[str], *, namespace: str = "", env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:  # fmt: skip
        """Starts `argv` in the host; `namespace` is a file, in the host, of a network namespace to run in."""
        environment = host_environment() | dict(env or {})
        if self.is_inside():
            entered = self.entered(self.host(host), argv, namespace)
        else:
            enter = [sys.executable, "-m", "swarmnet.cli.lab.enter"]
            entered = [*enter, str(self.file), self.host(host).name, namespace, *argv]
        return subprocess.Popen(entered, env=environment, **options)

    def run(
        self, host: str, argv: Sequence[str], *, namespace: str = "", timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` in the host and waits; its exit status and output are the caller's to judge."""
        pipes: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        with self.popen(host, argv, namespace=namespace, text=True, **pipes) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def is_inside(self) -> bool:
        return Path("/proc/self/ns/pid").stat().st_ino == self.process_namespace

    def entered(self, host: Host, argv: Sequence[str], namespace: str = "") -> list[str]:
        """What somebody inside executes so that `argv` runs in `host`.

        A program does it, not code of ours between fork and exec: that could wait for ever for a lock that a
        thread held at the fork, and gRPC has threads.
        """
        task = ["nsenter", f"--net={namespace}"] if namespace else []
        return ["nsenter", f"--target={host.pid}", "--net", "--uts", "--mount", *task, *argv]

    # Looking in from where one is, inside or outside.
    def root(self) -> str:
        """Put before a path of the lab's first process, this makes one of the caller's."""
        return "" if self.is_inside() else f"/proc/{(self.folder / 'root.pid').read_text()}/root"

    def network_namespace(self, host: Host, of: str = "") -> str:
        """The host's network namespace as a file; or, of a file in the host, the one that it names."""
        return f"{self.root()}/proc/{host.pid}/" + (f"root{of}" if of else "ns/net")

    # Its daemons.
    def start_daemon(self, host: Host, kind: Kind | None = None) -> None:
        """Starts the host's manager or worker (on a bare host: `kind`); it logs to LOGS/NAME.log.

        A manager's host can have a worker too, and the other way round: that one is NAME.KIND.
        """
        name = _daemon_name(host, kind)
        files = [str(self.logs / f"{name}.log"), str(self._pid_file(name))]
        started = self.run(host.name, ["sh", "-c", _START, "sh", f"swarmnet-{kind or host.kind}", *files])
        if started.returncode:
            raise Unavailable(f"no daemon starts on {host.name}: {started.stderr.strip()}")

    def kill_daemon(
        self, host: str, number: signal.Signals = signal.SIGKILL, kind: Kind | None = None
    ) -> None:
        """Signals the host's daemon (or the other one, of that kind), and nothing else of the host."""
        pid = self._pid_file(_daemon_name(self.host(host), kind)).read_text().strip()
        killed = self.run(host, ["sh", "-c", f"kill -{number.value} {pid}"])  # the shell's own: no procps
        if killed.returncode:
            raise NotFound(f"the daemon of {host} does not run: {killed.stderr.strip()}")

    def _pid_file(self, host: str) -> Path:
        return self.folder / "pids" / host


def _daemon_name(host: Host, kind: Kind | None) -> str:
    return host.name if kind in (None, host.kind) or host.kind == "bare" else f"{host.name}.{kind}"


def search_path() -> str:
    """PATH with this installation's commands first and the system's own last."""
    own = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    return ":".join(dict.fromkeys([own, *path.split(":"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]))


def host_environment() -> dict[str, str]:
    """That of a login on a host: the caller's, without what names this lab's managers from outside."""
    return {name: value for name, value in os.environ.items() if name != "SWARMNET_HOST"} | {
        "PATH": search_path()
    }
