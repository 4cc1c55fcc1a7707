"""The process that holds one task, so that the task outlives its worker.

    python -I -S -c "import shim" TASK_DIRECTORY READY_FD LOCK_FD [HELD_FD]

    worker ── shim (the host's namespaces; keeps the status file; stops the task)
               └─ init (pid 1 of the task's namespaces; reaps, hands signals on; dies with the shim)
                   └─ the task's command

Nothing of swarmnet is imported, and of the standard library only what is needed: the start of a task costs
one interpreter and two forks. The shim reads the task's `spec`, and writes its `status` each time that it
changes. It closes READY_FD once the command runs, or cannot. It holds the lock on LOCK_FD for as long as
anything of the task is alive: a lock that is free says that the task is over, whoever has its pid by then.
HELD_FD is a socket that the kernel needs for as long as there are tasks; nobody reads from it.

SIGTERM: the task gets it too, and SIGKILL when its grace period is over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing, collections and enum would cost a third of the interpreter's own start
    import signal
    from collections.abc import Iterable
    from typing import NoReturn
else:
    import _signal as signal  # `signal` without the enum around it

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_NOEXEC = 0x8
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_KEPT_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
"""Those that containers have by docker's default: no NET_ADMIN, so a task cannot undo its network."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_WRITABLE_BY_ROOT = ("proc/sys", "proc/irq", "proc/bus", "proc/sysrq-trigger")
_WAITED_FOR = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOT_STARTED = 125
"""The init's exit status when the command was never run."""

_libc = ctypes.CDLL(None, use_errno=True)


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """What `decode` reads: `name=value` and a NUL, which no path, argument or variable can hold."""
    return b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in fields)


def decode(raw: bytes) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for entry in raw.split(b"\0")[:-1]:
        name, _, value = os.fsdecode(entry).partition("=")
        fields.setdefault(name, []).append(value)
    return fields


class Spec:
    """What to run, from the file `spec`: see Launch.encode in the worker's taskdir.py."""

    def __init__(self, directory: str) -> None:
        with open(f"{directory}/spec", "rb") as file:
            fields = decode(file.read())
        self.namespace = fields["namespace"][0]
        self.hostname = fields["hostname"][0]
        self.root = fields["root"][0]
        self.workdir = fields["workdir"][0]
        self.user = tuple(int(each) for each in fields["user"][0].split(":"))
        self.grace_s = float(fields["grace_s"][0])
        self.arguments = fields["argument"]
        self.environment = dict(each.split("=", 1) for each in fields.get("variable", ()))
        self.hidden = fields.get("hidden", [])


def main(directory: str, ready: int, lock: int, *held: int) -> NoReturn:
    """Run the task to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    os.umask(0o022)
    os.chdir("/")
    for inherited in (ready, lock, *held):
        os.set_inheritable(inherited, False)
    write_status(directory, state="starting")
    code, stopped = NOT_STARTED, False
    try:
        spec = Spec(directory)
        init, trouble = start_init(spec, ready)
        if not trouble:
            write_status(directory, state="running")
        os.close(ready)
        code, stopped = wait(init, spec.grace_s)
    except OSError as error:
        trouble = error.strerror or str(error)
    write_status(directory, state="ended", code=code, stopped=int(stopped), trouble=trouble)
    os._exit(0)


def write_status(directory: str, **fields: object) -> None:
    """Replace the file as a whole. It always says who the shim is."""
    raw = encode([("pid", str(os.getpid())), *((name, str(value)) for name, value in fields.items())])
    with open(f"{directory}/status.new", "wb") as file:
        file.write(raw)
    os.rename(f"{directory}/status.new", f"{directory}/status")


def start_init(spec: Spec, ready: int) -> tuple[int, str]:
    """Its pid, once the command runs; or why it does not run."""
    _call("unshare", _CLONE_NEWPID)
    receive, send = os.pipe()
    shim = os.getpid()
    init = os.fork()
    if init == 0:
        os.close(receive)
        os.close(ready)
        run_init(spec, shim, send)
    os.close(send)
    with open(receive, "rb") as file:
        return init, file.read().decode(errors="replace")


def wait(init: int, grace_s: float) -> tuple[int, bool]:
    """The exit status of the task (128 + its signal), and whether it was asked to stop."""
    stopped, kill_at = False, None
    while True:
        caught = _next_signal(kill_at)
        if caught is None:
            os.kill(init, signal.SIGKILL)
            kill_at = None
        elif caught == signal.SIGCHLD:
            pid, status = os.waitpid(init, os.WNOHANG)
            if pid:
                return _exit_code(status), stopped
        elif not stopped:
            os.kill(init, signal.SIGTERM)
            stopped, kill_at = True, time.monotonic() + grace_s


def _next_signal(deadline: float | None) -> int | None:
    """None: the deadline (monotonic) passed first."""
    if deadline is None:
        return signal.sigwaitinfo(_WAITED_FOR).si_signo
    info = signal.sigtimedwait(_WAITED_FOR, max(deadline - time.monotonic(), 0))
    return info.si_signo if info is not None else None


def run_init(spec: Spec, shim: int, errors: int) -> NoReturn:
    """Be pid 1 of the task."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if not os.path.exists(f"/proc/{shim}"):
            os._exit(NOT_STARTED)
        _enter(spec)
        task = os.fork()
        if task == 0:
            _execute(spec, errors)
    except Exception as error:
        text = error.strerror if isinstance(error, OSError) else None
        os.write(errors, (text or repr(error)).encode())
        os._exit(NOT_STARTED)
    os.close(errors)
    while True:
        caught = signal.sigwaitinfo(_WAITED_FOR).si_signo
        if caught != signal.SIGCHLD:
            os.kill(task, caught)
            continue
        while (ended := _reap()) is not None:
            pid, status = ended
            if pid == task:
                os._exit(_exit_code(status))


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _enter(spec: Spec) -> None:
    """Leave the host's namespaces, its files last."""
    network = os.open(spec.namespace, os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", network, _CLONE_NEWNET)
    os.close(network)
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC)
    name = spec.hostname.encode()
    _call("sethostname", name, len(name))
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    if spec.root == "/":
        _stay_on_host(spec.hidden)
    else:
        _move_to(spec.root)


def _stay_on_host(hidden: Iterable[str]) -> None:
    """The host's own files, without swarmnet's: its keys and sockets."""
    _mount_kernel_views("")
    for path in hidden:
        _mount("tmpfs", path, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "size=4k,mode=700")


def _move_to(root: str) -> None:
    """An image's files, read-only; /tmp, /run and /dev are the task's own."""
    _mount(root, root, "", _MS_BIND | _MS_REC)
    os.chdir(root)
    for name in ("proc", "sys", "dev", "tmp", "run"):
        os.makedirs(name, exist_ok=True)
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, b".", _AT_RECURSIVE, attributes, size)
    _mount_kernel_views(".")
    for path in filter(os.path.exists, _WRITABLE_BY_ROOT):
        _mount(path, path, "", _MS_BIND | _MS_REC)
        _mount("none", path, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    for name in ("tmp", "run"):
        _mount("tmpfs", name, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    _make_devices()
    _call("syscall", _SYS_PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _mount_kernel_views(root: str) -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("proc", f"{root}/proc", "proc", flags)
    _mount("sysfs", f"{root}/sys", "sysfs", flags | _MS_RDONLY)


def _make_devices() -> None:
    _mount("tmpfs", "dev", "tmpfs", _MS_NOSUID, "mode=755,size=64k")
    for name in _DEVICES:
        os.close(os.open(f"dev/{name}", os.O_WRONLY | os.O_CREAT, 0o666))
        _mount(f"/dev/{name}", f"dev/{name}", "", _MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"dev/{name}")
    os.symlink("/proc/self/fd", "dev/fd")
    os.mkdir("dev/shm")
    _mount("tmpfs", "dev/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")


def _execute(spec: Spec, errors: int) -> NoReturn:
    """Become the command; the only way back is an error."""
    program = spec.arguments[0]
    try:
        _drop_capabilities()
        if spec.user != (0, 0):
            os.setgroups([])
            os.setgid(spec.user[1])
            os.setuid(spec.user[0])
        os.umask(0o022)
        os.chdir(spec.workdir)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)
        _search(program, spec.arguments, spec.environment)
    except OSError as error:
        os.write(errors, f"{program}: {error.strerror}".encode())
    os._exit(127)


def _search(program: str, arguments: list[str], environment: dict[str, str]) -> None:
    """As execvpe does it, which would import modules that an image's root does not have. OSError if it is
    nowhere; one that is there and may not be run says so."""
    folders = (
        [""] if "/" in program else [f"{each}/" for each in environment.get("PATH", "").split(":") if each]
    )
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders:
        try:
            os.execve(folder + program, arguments, environment)  # noqa: S606 - running it is the point
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise failure


def _drop_capabilities() -> None:
    """Bound what root can have from the next exec on."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in _KEPT_CAPABILITIES:
            _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    try:
        _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())
    except OSError as error:
        raise OSError(error.errno, f"cannot mount {kind or source} at {target}: {error.strerror}") from None


def _call(name: str, *arguments: object) -> None:
    """A function of the C library that answers -1 for an error."""
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def run() -> NoReturn:
    main(sys.argv[1], *(int(each) for each in sys.argv[2:]))
