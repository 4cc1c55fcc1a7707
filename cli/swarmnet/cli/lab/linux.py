"""The few Linux calls that Python 3.11 lacks: namespaces, mounts, and dying with one's parent.

Each raises OSError with the kernel's errno. Constants: <sched.h>, <sys/mount.h>, <sys/prctl.h>.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import Final

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1
_RB_POWER_OFF: Final = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Moves this process (for CLONE_NEWPID: its next children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(path: Path | str, kind: int) -> None:
    """Moves this process into the namespace that `path` names; `kind` is its CLONE_NEW… flag."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), str(path))
    finally:
        os.close(fd)


def mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (str(source).encode(), str(target).encode(), kind.encode() or None)
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), str(target))


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that made it ends, however it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def power_off() -> None:
    """Stops the whole machine at once. Only for the first process of a virtual one."""
    _check(_libc.reboot(_RB_POWER_OFF), "reboot")


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
