"""Runs a command in Debian's user-mode-linux kernel, on the same files and with the same terminal.

Boots in about three seconds, needs no KVM, and works inside a virtual machine. The command, its environment
and its folder go in by a file; its exit status comes back by one; standard output and standard error stay
apart, on two consoles. Standard input is the terminal, or else empty: a console hands on no end of file.
Everything runs in a process namespace of its own: when this process dies, the kernel takes all of it along.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from swarmnet.cli.lab import linux, scratch
from swarmnet.cli.lab.kernel import UML
from swarmnet.core.errors import Internal

MEMORY: Final = "3G"
_LOOK_S: Final = 0.5
_SWITCH_OFF_S: Final = 5.0


def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None, memory: str = MEMORY) -> int:
    """The exit status of `argv`, in a freshly booted kernel; 128 + the signal's number if one killed it."""
    with scratch.folder("swarmnet-uml-") as folder:
        _describe(folder, argv, env or os.environ)
        status = folder / "status"
        with (folder / "console").open("w") as console:
            ended = _boot(_command(folder, memory, console.fileno()), console.fileno(), status)
        if not status.exists():
            last_words = (folder / "console").read_text(errors="replace").strip()
            raise Internal(
                f"user-mode-linux ended with status {ended} before the command did: {last_words}",
                hint="it needs free memory in /dev/shm, and linux.uml of Debian 12",
            )
        return int(status.read_text())


def _boot(command: Sequence[str], console: int, status: Path) -> int:
    """Runs the kernel until it ends by itself, or until its work is done and it has had time to switch off.

    It may loop for ever while it switches off (seen once in some hundred runs); all is on disk by then.
    """
    with subprocess.Popen(
        command,
        env=_boot_environment(),
        pass_fds=[console],
        preexec_fn=_before_boot,  # noqa: PLW1509  prctl, sched_setaffinity
    ) as boot:
        try:
            while not status.exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return boot.wait(_LOOK_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return boot.wait(_SWITCH_OFF_S)
        finally:
            boot.kill()
        return boot.wait()


def _before_boot() -> None:
    """One CPU for all of it. User-mode-linux traces its processes: each system call is a hand-over between
    two processes of the host, and those between two CPUs cost two to three times as much.
    """
    linux.die_with_parent()
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})


def _boot_environment() -> dict[str, str]:
    """Without a temporary folder: the kernel then keeps its memory in /dev/shm."""
    return {name: value for name, value in os.environ.items() if name not in {"TMPDIR", "TMP", "TEMP"}}


def _describe(folder: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
    size = shutil.get_terminal_size()
    (folder / "tmp").mkdir()
    of_guest = {"COLUMNS": str(size.columns), "LINES": str(size.lines), "TMPDIR": str(folder / "tmp")}
    job = {
        "argv": list(argv),
        "env": dict(env) | of_guest,
        "cwd": str(Path.cwd()),
        "size": [size.lines, size.columns],
        "interactive": os.isatty(0) and os.isatty(1),
    }
    (folder / "job.json").write_text(json.dumps(job))
    init = folder / "init"
    init.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m swarmnet.cli.lab.uml_init "{folder}"\n'
    )
    init.chmod(0o700)


def _command(folder: Path, memory: str, console: int) -> list[str]:
    return [
        "unshare", "--fork", "--pid", "--kill-child",
        UML, f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
        f"init={folder}/init", "con=null", "con0=fd:0,fd:1", "con1=null,fd:2", f"con2=null,fd:{console}",
        "console=tty2", "quiet", "loglevel=1",
    ]  # fmt: skip
