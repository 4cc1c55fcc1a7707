"""Into a lab from outside: runs a command in one of its hosts, in the lab's own process namespace.

    python -m swarmnet.cli.lab.enter LAB.json HOST NAMESPACE-OR-EMPTY COMMAND…

Takes its standard streams along and gives back its exit status; 128 + the signal's number if one killed it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from swarmnet.cli.lab import linux
from swarmnet.cli.lab.place import Lab


def enter(lab: Lab, host: str, namespace: str, argv: list[str]) -> int:
    """Must be called outside the lab, in a process with one thread."""
    if lab.is_inside():
        raise AssertionError("already inside")
    root = (lab.folder / "root.pid").read_text()
    linux.setns(f"/proc/{root}/ns/pid", linux.CLONE_NEWPID)
    linux.setns(f"/proc/{root}/ns/mnt", linux.CLONE_NEWNS)
    pid = os.fork()
    if pid == 0:
        become(lab, host, namespace, argv)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def become(lab: Lab, host: str, namespace: str, argv: list[str]) -> None:
    """Replaces this process, which is inside the lab, by the command in the host."""
    entered = lab.entered(lab.host(host), argv, namespace)
    os.execvp(entered[0], entered)  # noqa: S606  no shell wanted


if __name__ == "__main__":
    file, name, handle, *command = sys.argv[1:]
    sys.exit(enter(Lab.load(Path(file)), name, handle, command))
