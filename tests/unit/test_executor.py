"""The process executor on this host's kernel, with real namespaces: root only."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.api.v1.dispatcher_pb2 import TaskStatus
from swarmnet.worker import executor as executor_module
from swarmnet.worker import taskdir
from swarmnet.worker.executor import Executor, TaskSpec, has_ended
from swarmnet.worker.images import DEFAULT_PATH, ImageStore

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)
TASK = "task0000000000000000000aa"


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty network namespace, bound to a file, as the data path leaves one for each task."""
    path = tmp_path_factory.mktemp("netns") / "t-task"
    path.touch()
    child = os.fork()
    if child == 0:
        bound = _libc.unshare(_CLONE_NEWNET) or _libc.mount(
            b"/proc/self/ns/net", os.fsencode(path), b"", _MS_BIND, b""
        )
        os._exit(1 if bound else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    yield path
    assert _libc.umount2(os.fsencode(path), 2) == 0


class Bench:
    """An executor, and ways to wait for what it does."""

    def __init__(self, state_dir: Path, namespace: Path) -> None:
        self.state_dir = state_dir
        self.namespace = namespace
        self.changes = asyncio.Event()
        self.executor = self.make()

    def make(self) -> Executor:
        images = ImageStore(self.state_dir / "store", self.state_dir / "images")
        return Executor(self.state_dir, images, (self.state_dir,), self.changes.set)

    def start(
        self,
        *command: str,
        image: str = "host",
        grace_s: float = 5,
        env: tuple[str, ...] = (),
        held: int = -1,
    ) -> None:
        spec = TaskSpec(TASK, "web.1", "web", image, command, env, grace_s, self.namespace, held)
        self.executor.start(spec)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.changes.wait()
                self.changes.clear()

    async def reached(self, state: types.TaskState.ValueType) -> TaskStatus:
        await self.until(lambda: self.status().state == state or has_ended(self.status()))
        assert self.status().state == state, (self.status(), self.log())
        return self.status()

    def status(self) -> TaskStatus:
        return self.executor.statuses()[TASK]

    def log(self) -> str:
        return taskdir.directory(self.state_dir, TASK).log.read_text()


@pytest.fixture
async def bench(tmp_path: Path, namespace: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, namespace)
    yield bench
    await bench.executor.forget_all()
    await bench.executor.close()


async def test_a_command_that_ends_is_complete_and_its_output_is_kept(bench: Bench) -> None:
    bench.start("sh", "-c", "echo out; echo err >&2")
    await bench.reached(types.TASK_STATE_COMPLETE)
    assert bench.log() == "out\nerr\n"


async def test_a_command_that_fails_tells_its_exit_status(bench: Bench) -> None:
    bench.start("sh", "-c", "exit 7")
    status = await bench.reached(types.TASK_STATE_FAILED)
    assert (status.exit_code, status.message) == (7, "the command ended with 7")


async def test_a_command_that_a_signal_kills_has_128_and_its_number(bench: Bench) -> None:
    bench.start("sh", "-c", "kill -9 $$")
    assert (await bench.reached(types.TASK_STATE_FAILED)).exit_code == 128 + signal.SIGKILL


async def test_a_task_has_namespaces_and_variables_of_its_own(bench: Bench) -> None:
    script = "hostname; cat /proc/net/dev | wc -l; echo $$; echo $SWARMNET_SERVICE $X; env | wc -l"
    bench.start("sh", "-c", script, env=("X=y=z",))
    await bench.reached(types.TASK_STATE_COMPLETE)
    lines = [line.strip() for line in bench.log().splitlines()]
    assert lines[0] == "web.1"
    assert lines[1] == "3"  # two header lines, and lo
    assert lines[2] == "2"  # the command is the init's first child
    assert lines[3] == "web y=z"


async def test_a_task_has_neither_net_admin_nor_the_workers_state(bench: Bench) -> None:
    secret = bench.state_dir / "certificates"
    secret.mkdir()
    bench.start("sh", "-c", f"grep CapEff /proc/self/status; ls -A {bench.state_dir} | wc -l")
    await bench.reached(types.TASK_STATE_COMPLETE)
    capabilities, entries = bench.log().splitlines()
    assert int(capabilities.split()[1], 16) & (1 << 12 | 1 << 21) == 0
    assert entries == "0"
    assert secret.is_dir()


async def test_stop_lets_the_task_end_by_itself(bench: Bench) -> None:
    bench.start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    await bench.reached(types.TASK_STATE_RUNNING)
    await _written(bench, "up\n")
    bench.executor.stop(TASK)
    status = await bench.reached(types.TASK_STATE_SHUTDOWN)
    assert (status.exit_code, bench.log()) == (3, "up\nbye\n")


async def test_a_task_that_ignores_the_signal_is_killed_after_its_grace_period(bench: Bench) -> None:
    bench.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done", grace_s=0.1)
    await bench.reached(types.TASK_STATE_RUNNING)
    await _written(bench, "up\n")
    bench.executor.stop(TASK)
    assert (await bench.reached(types.TASK_STATE_SHUTDOWN)).exit_code == 128 + signal.SIGKILL


async def test_a_command_without_handlers_is_stopped_too(bench: Bench) -> None:
    bench.start("sleep", "100")
    await bench.reached(types.TASK_STATE_RUNNING)
    bench.executor.stop(TASK)
    assert (await bench.reached(types.TASK_STATE_SHUTDOWN)).exit_code == 128 + signal.SIGTERM


async def test_a_stop_before_the_task_runs_still_stops_it(bench: Bench) -> None:
    bench.start("sleep", "100")
    bench.executor.stop(TASK)
    await bench.until(lambda: has_ended(bench.status()))
    assert bench.status().state == types.TASK_STATE_SHUTDOWN


@pytest.mark.parametrize(
    ("image", "command", "message"),
    [
        ("host", ("/no/such",), "cannot start: /no/such: No such file or directory"),
        ("host", ("nosuch",), "cannot start: nosuch: No such file or directory"),
        ("host", ("/etc",), "cannot start: /etc: Permission denied"),
        ("nginx", (), "no such image on this node: nginx"),
        ("host", (), "image host has no command of its own"),
    ],
)
async def test_what_cannot_start_is_rejected_with_the_reason(
    bench: Bench, image: str, command: tuple[str, ...], message: str
) -> None:
    bench.start(*command, image=image)
    assert (await bench.reached(types.TASK_STATE_REJECTED)).message == message


async def test_a_missing_namespace_starts_nothing(bench: Bench) -> None:
    bench.namespace = bench.state_dir / "gone"
    bench.start("echo", "unprotected")
    status = await bench.reached(types.TASK_STATE_REJECTED)
    assert "No such file" in status.message
    assert bench.log() == ""


async def test_another_worker_adopts_a_running_task_and_stops_it(bench: Bench) -> None:
    bench.start("sleep", "100")
    await bench.reached(types.TASK_STATE_RUNNING)
    await bench.executor.close()
    bench.executor = bench.make()
    await bench.executor.adopt()
    await bench.reached(types.TASK_STATE_RUNNING)
    bench.executor.stop(TASK)
    await bench.reached(types.TASK_STATE_SHUTDOWN)


async def test_the_end_of_a_task_between_two_workers_is_not_lost(bench: Bench) -> None:
    bench.start("sh", "-c", "read x <&0; sleep 0.1; exit 9")
    await bench.reached(types.TASK_STATE_RUNNING)
    pidfd = os.pidfd_open(taskdir.directory(bench.state_dir, TASK).status().pid)
    await bench.executor.close()
    await executor_module._readable(pidfd)
    os.close(pidfd)
    bench.executor = bench.make()
    await bench.executor.adopt()
    assert (await bench.reached(types.TASK_STATE_FAILED)).exit_code == 9


async def test_death_of_the_shim_is_death_of_the_task(bench: Bench) -> None:
    bench.start("sleep", "100")
    await bench.reached(types.TASK_STATE_RUNNING)
    directory = taskdir.directory(bench.state_dir, TASK)
    os.kill(directory.status().pid, signal.SIGKILL)
    await bench.reached(types.TASK_STATE_FAILED)
    await _until_dead(directory)


async def test_a_pid_that_somebody_else_has_by_now_is_left_alone(bench: Bench) -> None:
    directory = taskdir.directory(bench.state_dir, TASK)
    directory.path.mkdir(parents=True)
    (directory.path / "status").write_bytes(b"pid=%d\0state=running\0" % os.getpid())
    os.close(directory.lock())
    await bench.executor.adopt()
    status = await bench.reached(types.TASK_STATE_FAILED)
    assert "while nobody watched" in status.message


async def test_a_held_descriptor_lives_as_long_as_the_task_which_does_not_have_it(bench: Bench) -> None:
    theirs, ours = os.pipe()
    pipe = f"pipe:[{os.fstat(ours).st_ino}]"
    bench.start("sh", "-c", "ls -l /proc/self/fd; read line", held=ours)
    await bench.reached(types.TASK_STATE_RUNNING)
    os.close(ours)
    os.set_blocking(theirs, False)
    with pytest.raises(BlockingIOError):  # somebody still has the other end
        os.read(theirs, 1)
    bench.executor.stop(TASK)
    await bench.until(lambda: not bench.executor.is_alive(TASK))
    assert os.read(theirs, 1) == b""
    os.close(theirs)
    assert pipe not in bench.log()


async def test_forgetting_stops_the_task_and_removes_its_files(bench: Bench) -> None:
    bench.start("sleep", "100")
    await bench.reached(types.TASK_STATE_RUNNING)
    bench.executor.forget(TASK)
    await bench.until(lambda: TASK not in bench.executor.statuses())
    assert taskdir.directories(bench.state_dir) == []


@pytest.fixture
def mini(bench: Bench) -> Path:
    """An image of a few programs of this host, copied with the libraries that they need."""
    root = bench.state_dir / "store/mini/rootfs"
    programs = [found for name in ("sh", "ls", "touch") if (found := shutil.which(name))]
    listed = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    libraries = {word for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    for source in (*programs, *libraries):
        (root / source[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / source[1:])
    return root


async def test_an_image_is_read_only_and_sees_nothing_of_the_host(bench: Bench, mini: Path) -> None:
    script = "touch /x || touch /usr/x || touch /proc/sys/x || echo read-only; touch /tmp/x && echo tmp; "
    script += f"echo 1 >/dev/null; ls -A {bench.state_dir}; echo $PATH"
    bench.start("sh", "-c", script, image="mini")
    await bench.reached(types.TASK_STATE_COMPLETE)
    assert "read-only\ntmp\n" in bench.log()
    assert f"cannot access '{bench.state_dir}'" in bench.log()
    assert DEFAULT_PATH.removeprefix("PATH=") in bench.log()


async def _written(bench: Bench, text: str) -> None:
    async with asyncio.timeout(10):
        while bench.log() != text:  # noqa: ASYNC110 - a file says nothing
            await asyncio.sleep(0.01)


async def _until_dead(directory: taskdir.TaskDirectory) -> None:
    async with asyncio.timeout(10):
        while directory.is_alive():  # noqa: ASYNC110 - nor does a lock
            await asyncio.sleep(0.01)
