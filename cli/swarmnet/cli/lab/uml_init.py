"""The first process inside user-mode-linux: prepares the machine, runs the job, switches off.

python -m swarmnet.cli.lab.uml_init FOLDER      (see uml.py for what FOLDER holds)
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Final, TypedDict

from swarmnet.cli.lab import linux

MODULES: Final = (
    "xfrm_user", "esp4", "gcm", "seqiv", "vxlan", "bridge", "veth", "dummy", "nf_tables",
    "ip_tables", "iptable_filter", "xt_policy", "xt_tcpudp", "sch_netem", "sch_tbf", "sch_prio", "cls_u32",
)  # fmt: skip
_CHUNK_BYTES: Final = 65536
_LAST_OUTPUT_S: Final = 2.0
"""How long what the job left behind may still hold its output open."""
_MODULES_ROOT: Final = Path("/lib/modules")
_BACKLOG: Final = (Path("/proc/sys/net/core/netdev_max_backlog"), "100000")
"""All hosts of a lab share one CPU and its one queue of received packets; each would have its own."""


class Job(TypedDict):
    argv: list[str]
    env: dict[str, str]
    cwd: str
    size: list[int]
    interactive: bool


def main(folder: Path) -> None:
    try:
        job: Job = json.loads((folder / "job.json").read_text())
        _mount_all()
        linux.mount("tmp", folder / "tmp", "tmpfs")
        _load_modules()
        _BACKLOG[0].write_text(_BACKLOG[1])
        status = _run(job)
    except Exception as error:  # nobody is above this process to see it
        print(f"user-mode-linux could not be prepared: {error!r}", file=sys.stderr)
    else:
        os.sync()  # first: the status says that all is done
        _write_whole(folder / "status", str(status))
    os.sync()
    linux.power_off()


def _write_whole(path: Path, text: str) -> None:
    """The file is there with all of its content, or not at all."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _mount_all() -> None:
    linux.mount("proc", "/proc", "proc")
    linux.mount("sysfs", "/sys", "sysfs")
    if not os.path.ismount("/dev"):
        linux.mount("dev", "/dev", "devtmpfs")
    for folder, kind in (("pts", "devpts"), ("shm", "tmpfs")):
        Path("/dev", folder).mkdir(exist_ok=True)
        linux.mount(kind, f"/dev/{folder}", kind, options="ptmxmode=0666" if kind == "devpts" else "")
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.symlink("/proc/self/fd", "/dev/fd")
    linux.mount("run", "/run", "tmpfs")


def _load_modules() -> None:
    """Debian keeps this kernel's modules aside; nothing is written to the host's /lib/modules."""
    release = os.uname().release
    _MODULES_ROOT.mkdir(exist_ok=True)
    linux.mount("modules", _MODULES_ROOT, "tmpfs")
    (_MODULES_ROOT / release).symlink_to(f"/usr/lib/uml/modules/{release}")
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(["modprobe", "-a", *MODULES], env=path, stderr=subprocess.STDOUT, check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], env=path, check=True)


def _run(job: Job) -> int:
    """The job, leading a session of its own, so that Ctrl-C reaches it and nobody else."""
    if job["interactive"]:
        pid = _start(job, lambda: _take_terminal(job))
        return _reap(pid)
    pipes = {name: os.pipe() for name in ("tty0", "tty1")}
    writers = [writer for _, writer in pipes.values()]
    pid = _start(job, lambda: _take_pipes(writers))
    for writer in writers:
        os.close(writer)
    copies = [Thread(target=_copy, args=(reader, name), daemon=True) for name, (reader, _) in pipes.items()]
    for each in copies:
        each.start()
    status = _reap(pid)
    for each in copies:
        each.join(_LAST_OUTPUT_S)
    return status


def _start(job: Job, take_streams: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        take_streams()
        os.chdir(job["cwd"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])  # noqa: S606  no shell wanted
    except OSError as error:
        print(f"{job['argv'][0]}: {error}", file=sys.stderr)
    os._exit(127)


def _take_terminal(job: Job) -> None:
    """The console as a terminal, with the size of the one outside."""
    console = os.open("/dev/tty0", os.O_RDWR)
    fcntl.ioctl(console, termios.TIOCSCTTY, 1)
    fcntl.ioctl(console, termios.TIOCSWINSZ, struct.pack("4H", *job["size"], 0, 0))
    for target in (0, 1, 2):
        os.dup2(console, target)


def _take_pipes(writers: list[int]) -> None:
    """Not a terminal, as outside; the consoles are only the way out."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writers[0], 1)
    os.dup2(writers[1], 2)


def _copy(reader: int, console: str) -> None:
    target = os.open(f"/dev/{console}", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(target)
    while data := os.read(reader, _CHUNK_BYTES):
        while data:
            data = data[os.write(target, data) :]
    termios.tcdrain(target)


def _reap(pid: int) -> int:
    """The exit status of one child; this process is everybody's last parent."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main(Path(sys.argv[1]))
