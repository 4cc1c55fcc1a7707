"""The process executor: tasks as processes of their own, which a worker starts, finds again, and stops.

A task that the managers no longer want keeps running until it has been stopped; one whose worker dies keeps
running until the next worker adopts it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.api.v1.dispatcher_pb2 import TaskStatus
from swarmnet.core.errors import InvalidArgument, SwarmnetError
from swarmnet.core.limits import STOP_GRACE_PERIOD_S
from swarmnet.worker import taskdir
from swarmnet.worker.images import ImageStore
from swarmnet.worker.taskdir import Launch, TaskDirectory

log = structlog.get_logger()
_SHIM: Final = (
    f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import shim; shim.run()"  # compiled once
)
_INHERITED: Final = (3, 4, 5)
"""The shim's descriptors: ready, lock, and one held for the data path if there is one to hold."""
_KILL_MARGIN_S: Final = 5.0
"""A shim that has not ended its task by then, after the grace period, is killed together with it."""
_ADOPTION_POLL_S: Final = 0.01
"""How often to look at a shim that an earlier worker had only just started."""
_MAX_HOSTNAME: Final = 64
_ENDED: Final = frozenset(
    {
        types.TASK_STATE_COMPLETE,
        types.TASK_STATE_SHUTDOWN,
        types.TASK_STATE_FAILED,
        types.TASK_STATE_REJECTED,
    }
)
_LOST: Final = "the task ended while nobody watched: its host restarted, or its shim was killed"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task to start, in a namespace that is connected already.

    `held` is a descriptor that is to live as long as the task does; -1 is none.
    """

    task_id: str
    name: str
    service: str
    image: str
    command: tuple[str, ...]
    variables: tuple[str, ...]
    grace_s: float
    namespace: Path
    held: int = -1


def task_spec(task: types.Task, service: str, namespace: Path, held: int = -1) -> TaskSpec:
    spec = task.spec
    has_grace = spec.HasField("stop_grace_period")
    return TaskSpec(
        task_id=task.meta.id,
        name=f"{service}.{task.slot or task.meta.id[:12]}",
        service=service,
        image=spec.image,
        command=tuple(spec.command),
        variables=tuple(spec.env),
        grace_s=spec.stop_grace_period.ToTimedelta().total_seconds() if has_grace else STOP_GRACE_PERIOD_S,
        namespace=namespace,
        held=held,
    )


@dataclass(slots=True)
class Run:
    """One task of this host. `pidfd` is that of its shim while it is alive."""

    directory: TaskDirectory
    status: TaskStatus
    grace_s: float = STOP_GRACE_PERIOD_S
    pidfd: int = -1
    stopping: bool = False
    forget: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Executor:
    """`changed` is called after each change of `statuses`."""

    def __init__(
        self, state_dir: Path, images: ImageStore, hidden: tuple[Path, ...], changed: Callable[[], None]
    ) -> None:
        self._state_dir = state_dir
        self._images = images
        self._hidden = hidden
        self._changed = changed
        self._runs: dict[str, Run] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    def statuses(self) -> Mapping[str, TaskStatus]:
        """By task id: every task that was started here and not forgotten."""
        return {task_id: run.status for task_id, run in self._runs.items()}

    def is_alive(self, task_id: str) -> bool:
        run = self._runs.get(task_id)
        return run is not None and not run.ended.is_set()

    async def adopt(self) -> None:
        """Find the tasks of an earlier worker."""
        for directory in await asyncio.to_thread(taskdir.directories, self._state_dir):
            run = self._runs[directory.task_id] = Run(directory, TaskStatus(task_id=directory.task_id))
            self._go(self._readopt(run))

    def start(self, spec: TaskSpec) -> None:
        """Start a task that this executor does not know yet."""
        assert spec.task_id not in self._runs, "a task is started once"
        directory = taskdir.directory(self._state_dir, spec.task_id)
        status = TaskStatus(task_id=spec.task_id, state=types.TASK_STATE_PREPARING)
        run = self._runs[spec.task_id] = Run(directory, status, spec.grace_s)
        self._go(self._launch(run, spec))

    def stop(self, task_id: str) -> None:
        """Ask a task to end: SIGTERM, and SIGKILL when its grace period is over. Asking again is harmless."""
        run = self._runs[task_id]
        if run.stopping or run.ended.is_set():
            return
        run.stopping = True
        if run.pidfd >= 0:
            self._go(self._end(run))

    def forget(self, task_id: str) -> None:
        """Stop it, and remove all there is of it."""
        run = self._runs[task_id]
        if not run.forget:
            run.forget = True
            self.stop(task_id)
            self._go(self._discard(run))

    async def forget_all(self) -> None:
        """Stop everything, and wait until it is gone."""
        runs = list(self._runs.values())
        for run in runs:
            self.forget(run.directory.task_id)
        await asyncio.gather(*self._jobs)

    async def close(self) -> None:
        """Let go of the tasks; they run on."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for run in self._runs.values():
            _close(run)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._done)

    def _done(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            log.error("task job failed", exc_info=error)

    async def _launch(self, run: Run, spec: TaskSpec) -> None:
        try:
            launch = await asyncio.to_thread(self._prepare, spec)
            pid, ready = await asyncio.to_thread(_spawn, run.directory, launch, spec.held)
        except (SwarmnetError, OSError) as error:
            text = error.message if isinstance(error, SwarmnetError) else str(error)
            self._finish(run, types.TASK_STATE_REJECTED, text)
            return
        run.pidfd = os.pidfd_open(pid)
        if run.stopping:
            self._go(self._end(run))
        try:
            await _readable(ready)
        finally:
            os.close(ready)
        if run.directory.status().state == "running":
            self._set(run, types.TASK_STATE_RUNNING)
        await _readable(run.pidfd)
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended
        self._settle(run)

    def _prepare(self, spec: TaskSpec) -> Launch:
        image = self._images.prepare(spec.image)
        arguments = spec.command or image.command
        if not arguments:
            raise InvalidArgument(
                f"image {spec.image} has no command of its own", hint="Name one: IMAGE COMMAND [ARG...]."
            )
        hostname = spec.name[:_MAX_HOSTNAME]
        ours = (
            f"HOSTNAME={hostname}",
            f"SWARMNET_TASK_ID={spec.task_id}",
            f"SWARMNET_TASK_NAME={spec.name}",
            f"SWARMNET_SERVICE={spec.service}",
        )
        return Launch(
            namespace=spec.namespace,
            hostname=hostname,
            root=image.root,
            workdir=image.workdir,
            user=image.user,
            grace_s=spec.grace_s,
            arguments=arguments,
            variables=("HOME=/", *image.variables, *ours, *spec.variables),
            hidden=tuple(each for each in self._hidden if each.is_dir()),
        )

    async def _readopt(self, run: Run) -> None:
        while run.directory.is_alive() and run.directory.status().state in ("", "starting"):  # noqa: ASYNC110
            await asyncio.sleep(_ADOPTION_POLL_S)
        run.pidfd = _open_shim(run.directory)
        if run.pidfd >= 0:
            run.grace_s = run.directory.grace_s()
            if run.stopping:
                self._go(self._end(run))
            self._set(run, types.TASK_STATE_RUNNING)
            await _readable(run.pidfd)
        self._settle(run)

    def _settle(self, run: Run) -> None:
        """The shim is gone: say what it said last."""
        _close(run)
        last = run.directory.status()
        if last.state != "ended":
            if run.stopping:
                self._finish(run, types.TASK_STATE_SHUTDOWN, "")
            else:
                self._finish(run, types.TASK_STATE_FAILED, _LOST)
        elif last.trouble and not last.stopped:
            self._finish(run, types.TASK_STATE_REJECTED, f"cannot start: {last.trouble}", last.code)
        elif last.stopped:
            self._finish(run, types.TASK_STATE_SHUTDOWN, "", last.code)
        elif last.code:
            self._finish(run, types.TASK_STATE_FAILED, f"the command ended with {last.code}", last.code)
        else:
            self._finish(run, types.TASK_STATE_COMPLETE, "", 0)

    async def _end(self, run: Run) -> None:
        """SIGTERM; the shim keeps to the grace period, also when this worker dies meanwhile."""
        _signal(run, signal.SIGTERM)
        try:
            await asyncio.wait_for(run.ended.wait(), run.grace_s + _KILL_MARGIN_S)
        except TimeoutError:
            _signal(run, signal.SIGKILL)

    async def _discard(self, run: Run) -> None:
        await run.ended.wait()
        await asyncio.to_thread(run.directory.remove)
        del self._runs[run.directory.task_id]
        self._changed()

    def _finish(self, run: Run, state: types.TaskState.ValueType, message: str, code: int = 0) -> None:
        run.ended.set()
        self._set(run, state, message, code)

    def _set(self, run: Run, state: types.TaskState.ValueType, message: str = "", code: int = 0) -> None:
        task_id = run.directory.task_id
        run.status = TaskStatus(task_id=task_id, state=state, message=message, exit_code=code)
        log.info("task changed", task=task_id, state=types.TaskState.Name(state), message=message)
        self._changed()


def has_ended(status: TaskStatus) -> bool:
    return status.state in _ENDED


def _spawn(directory: TaskDirectory, launch: Launch, held: int) -> tuple[int, int]:
    """The shim's pid, and a descriptor that ends when its task runs or cannot. Blocks for a fork."""
    directory.create(launch)
    lock = _above_inherited(directory.lock())
    ready, done = os.pipe()
    done = _above_inherited(done)
    given = [done, lock, *([_above_inherited(os.dup(held))] if held >= 0 else [])]
    inherited = _INHERITED[: len(given)]
    command = [sys.executable, "-I", "-S", "-c", _SHIM, str(directory.path), *map(str, inherited)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(directory.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_DUP2, own, theirs) for own, theirs in zip(given, inherited, strict=True)),
    ]
    try:
        return os.posix_spawn(sys.executable, command, {}, file_actions=actions, setsid=True), ready
    except OSError:
        os.close(ready)
        raise
    finally:
        for each in given:
            os.close(each)


def _above_inherited(descriptor: int) -> int:
    """The same under a number that setting up the shim's own does not overwrite."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _INHERITED[-1] + 1)
    os.close(descriptor)
    return moved


def _open_shim(directory: TaskDirectory) -> int:
    """A pidfd of the shim that holds the lock; -1 if it went away meanwhile."""
    if not directory.is_alive():
        return -1
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(directory.status().pid)
        if directory.is_alive():
            return pidfd
        os.close(pidfd)
    return -1


def _signal(run: Run, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if run.pidfd >= 0:
            signal.pidfd_send_signal(run.pidfd, number)


def _close(run: Run) -> None:
    if run.pidfd >= 0:
        os.close(run.pidfd)
        run.pidfd = -1


async def _readable(descriptor: int) -> None:
    """Wait for input, the end of it, or, for a pidfd, the end of the process."""
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    loop.add_reader(descriptor, lambda: None if seen.done() else seen.set_result(None))
    try:
        await seen
    finally:
        loop.remove_reader(descriptor)
