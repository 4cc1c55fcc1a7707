"""A lab from start to end: hosts, daemons, the command, and nothing left.

    swarmnet lab run             waits; killing it, however, ends the lab
    └── first process            process, mount and network namespaces of its own, and the underlay
        ├── one per host         holds the host's namespaces
        ├── daemons              in their hosts
        └── COMMAND              beside the bridge, with SWARMNET_HOST and SWARMNET_LAB

When the first process of a process namespace ends, the kernel kills all others in it and frees their network
and mount namespaces with all that is in them: there is no clean-up that could fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from swarmnet.cli.lab import hosts, linux, scratch
from swarmnet.cli.lab.place import Lab
from swarmnet.core.errors import SwarmnetError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `lab run` was asked for."""

    managers: int
    workers: int
    bare: tuple[str, ...] = ()
    join: bool = True
    both: bool = False
    """Every host of a manager also has a worker, and the other way round, which is of no swarm."""
    logs: Path = Path("out/lab")
    """Folder for the daemons' logs."""

    def sites(self) -> tuple[hosts.Site, ...]:
        return hosts.plan(self.managers, self.workers, self.bare)


def run(wanted: Wanted, command: Sequence[str], report: Callable[[str], None]) -> int:
    """The exit status of `command`, run in a lab as wanted."""
    wanted.sites()
    with scratch.folder("swarmnet-lab-") as folder:
        linux.unshare(linux.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _first_process(wanted, folder, command, report)
        (folder / "root.pid").write_text(str(pid))
        with _ended_with(pid):
            return _exit_status(os.waitpid(pid, 0)[1])


def with_logs(wanted: Path | None, action: Callable[[Path], int]) -> int:
    """The status of `action`, given a folder for logs: the wanted one, or one that stays only on failure."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        return action(wanted.absolute())
    folder, status = Path(tempfile.mkdtemp(prefix="swarmnet-logs-")), 1
    try:
        status = action(folder)
    finally:
        if status and any(folder.iterdir()):
            print(f"logs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return status


@contextlib.contextmanager
def _ended_with(pid: int) -> Generator[None]:
    """Ctrl-C is the command's to answer; SIGTERM and SIGHUP end the lab."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    yield
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _first_process(
    wanted: Wanted, folder: Path, command: Sequence[str], report: Callable[[str], None]
) -> NoReturn:
    status = 1
    try:
        linux.die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        lab = _build(wanted.sites(), folder, wanted.logs)
        for host in (*lab.of_kind("manager"), *lab.of_kind("worker")):
            lab.start_daemon(host)
            if wanted.both:
                lab.start_daemon(host, "worker" if host.kind == "manager" else "manager")
        status = _in_child(lambda: _form(lab, wanted, report)) or _in_child(lambda: _exec(lab, command))
    except SwarmnetError as error:
        print(f"Error: {error}", file=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Error: the lab could not be built: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _build(sites: Sequence[hosts.Site], folder: Path, logs: Path) -> Lab:
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc")
    linux.mount("sys", "/sys", "sysfs")
    linux.mount("lab", "/run", "tmpfs", options="mode=755")
    Path("/run/netns").mkdir()
    (folder / "pids").mkdir()
    made = hosts.make(sites, folder)
    lab = Lab(folder, logs, Path("/proc/self/ns/pid").stat().st_ino, made)
    lab.save()
    return lab


def _in_child(action: Callable[[], int]) -> int:
    """Its result, in a process of its own; this one must stay small, and reaps whatever ends meanwhile."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            os._exit(action())
        except (SwarmnetError, OSError) as error:
            print(f"Error: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
    while True:
        ended, status = os.wait()
        if ended == pid:
            return _exit_status(status)


def _form(lab: Lab, wanted: Wanted, report: Callable[[str], None]) -> int:
    from swarmnet.cli.lab import cluster

    cluster.form(lab, join=wanted.join, report=report)
    return 0


def _exec(lab: Lab, command: Sequence[str]) -> NoReturn:
    os.execvpe(command[0], list(command), dict(os.environ) | lab.environment())  # noqa: S606  no shell wanted


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
