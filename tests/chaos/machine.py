"""One manager's machine in the lab: its process, its disk, its clock and its cable, each of which can fail.

Faults overlap: each leaves its mark, and the machine is what all marks together say. A process is down while
any fault keeps it down; a link is cut while any fault cuts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import grpc.aio
from tests.chaos.commands import environment, run
from tests.chaos.control import Controls
from tests.chaos.relay import Cable, Quality

from swarmnet.api.v1 import local_pb2
from swarmnet.api.v1.local_pb2_grpc import LocalStub
from swarmnet.cli.lab.place import RUN_DIR, STATE_DIR, Host, Lab

DISK_BYTES: Final = 96 * 1024 * 1024
_OPTIONS: Final = (("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50))
_ASK_S: Final = 0.2
_RESTART_S: Final = 0.1
_TERMINATED_S: Final = 10.0

Token = object
"""Stands for one fault that was injected."""


@dataclass(frozen=True, slots=True)
class Death:
    """The process ended, and no fault had ended it."""

    machine: str
    status: int
    at: float


@dataclass
class Machine:
    """`start` once; then marks are set and taken off, followed by `settle`."""

    lab: Lab
    host: Host
    log_entries: int
    down: set[Token] = field(default_factory=set)
    paused: set[Token] = field(default_factory=set)
    cut_from: dict[Token, frozenset[str]] = field(default_factory=dict)
    """Addresses from which nothing arrives here."""
    reset_from: dict[Token, frozenset[str]] = field(default_factory=dict)
    """Addresses whose connections to here are reset."""
    cables: dict[Token, Quality] = field(default_factory=dict)
    slow: dict[Token, float] = field(default_factory=dict)
    clocks: dict[Token, float] = field(default_factory=dict)
    full: set[Token] = field(default_factory=set)
    deaths: list[Death] = field(default_factory=list)
    may_die_until: float = 0.0
    starts: int = 0
    leads: bool = False
    """Whether it thought so when it was last asked."""

    def __post_init__(self) -> None:
        self.controls = Controls(self.lab.folder / f"controls-{self.name}")
        self._state_file = self.lab.folder / f"state-{self.name}"
        self._pid: int | None = None
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._settling = asyncio.Lock()
        self.cable = Cable(self.name, random.Random(self.name))
        self._quality: Quality | None = None
        self._firewall = ""

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def socket(self) -> str:
        return f"unix:{self.lab.socket(self.host)}"

    @property
    def is_up(self) -> bool:
        return self._pid is not None and not self.paused

    async def start(self) -> None:
        """Give the machine a disk of its own, and the manager whoever starts it again whenever it ends."""
        size = f"size={DISK_BYTES},mode=700"
        await self._run("mount", "-t", "tmpfs", "-o", size, "chaos", str(STATE_DIR))
        await self.cable.lay()
        self._wanted.set()
        self._keeper = asyncio.create_task(self._keep(await self._launcher()))

    def unmark(self, token: Token) -> None:
        """Take off what this fault has left."""
        for those in (self.down, self.paused, self.full):
            those.discard(token)
        for these in (self.cut_from, self.reset_from, self.cables, self.slow, self.clocks):
            these.pop(token, None)

    async def settle(self) -> None:
        """Make the machine what its marks say."""
        async with self._settling:
            self.controls.sync_delay_s = max(self.slow.values(), default=0.0)
            self.controls.clock_offset_s = sum(self.clocks.values())
            self._settle_disk()
            await self._settle_network()
            await self._settle_process()

    def terminate(self) -> None:
        """Stop the manager as an operator does; it is started again."""
        self.may_die_until = time.monotonic() + _TERMINATED_S
        self._signal(signal.SIGTERM)

    async def keep_asking_who_leads(self) -> None:
        async with grpc.aio.insecure_channel(self.socket, _OPTIONS) as channel:
            local = LocalStub(channel)
            while True:
                try:
                    info = await local.GetInfo(local_pb2.GetInfoRequest(), timeout=_ASK_S)
                except grpc.aio.AioRpcError:
                    pass  # down, or stopped: it leads as much as it did
                else:
                    self.leads = info.node_id == info.manager_id
                await asyncio.sleep(_ASK_S)

    async def state(self) -> tuple[int, str] | None:
        """Index and digest of its state machine; None if it does not tell them in time."""
        self._state_file.unlink(missing_ok=True)
        self._signal(signal.SIGUSR1)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if self._state_file.exists():
                index, digest = self._state_file.read_text().split()
                return int(index), digest
        return None

    # The process

    async def _keep(self, launcher: asyncio.subprocess.Process) -> None:
        while True:
            await self._wanted.wait()
            self._pid = int(await _said(launcher, ask=True))
            self.starts += 1
            if self.down:  # meanwhile
                self._signal(signal.SIGKILL)
            elif self.paused:
                self._signal(signal.SIGSTOP)
            status = int(await _said(launcher))
            self._pid = None
            self._ended.set()
            if self._wanted.is_set() and time.monotonic() > self.may_die_until:
                self.deaths.append(Death(self.name, status, time.monotonic()))
            await asyncio.sleep(_RESTART_S)

    async def _launcher(self) -> asyncio.subprocess.Process:
        controls = self.lab.folder / f"controls-{self.name}"
        program = [sys.executable, "-m", "tests.chaos.launcher", str(controls)]
        program += [str(self._state_file), str(self.log_entries)]
        program += [f"--advertise-addr={self.host.address}", f"--run-dir={RUN_DIR}"]
        with (self.lab.logs / f"{self.name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self.lab.entered(self.host, program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(),
            )

    async def _settle_process(self) -> None:
        if self.down:
            self._wanted.clear()
            self._ended.clear()
            if self._signal(signal.SIGKILL):
                await self._ended.wait()
        else:
            self._wanted.set()
            self._signal(signal.SIGSTOP if self.paused else signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        """Whether there was a process to signal."""
        if self._pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):  # ended, as we shall be told in a moment
            os.kill(self._pid, number)
        return True

    # The network

    async def _settle_network(self) -> None:
        firewall = self._rules()
        if firewall != self._firewall:
            await self._run("iptables-legacy-restore", text=firewall)
            self._firewall = firewall
        quality = next(iter(self.cables.values()), None)
        if quality != self._quality:
            await self.cable.set(quality)
            self._quality = quality

    def _rules(self) -> str:
        cut = sorted(frozenset().union(*self.cut_from.values()))
        reset = sorted(frozenset().union(*self.reset_from.values()))
        lines = [f"-A INPUT -s {address} -j DROP" for address in cut]
        lines += [f"-A INPUT -s {address} -p tcp -j REJECT --reject-with tcp-reset" for address in reset]
        return "\n".join(("*filter", ":INPUT ACCEPT", *lines, "COMMIT", ""))

    # The disk

    @property
    def disk(self) -> Path:
        return Path(f"/proc/{self.host.pid}/root{STATE_DIR}")

    def _settle_disk(self) -> None:
        filler = self.disk / "filler"
        if not self.full:
            filler.unlink(missing_ok=True)
        elif not filler.exists():
            with filler.open("wb") as file:
                self._fill(file.fileno())

    def _fill(self, file: int) -> None:
        """All that is left; the manager may be taking of it at the same time."""
        while True:
            free = os.statvfs(self.disk)
            taken = 512 * os.fstat(file).st_blocks
            try:
                os.posix_fallocate(file, 0, max(taken + free.f_bavail * free.f_bsize, 1))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if os.statvfs(self.disk).f_bavail == 0:
                    return
            else:
                return

    async def _run(self, *argv: str, text: str = "") -> None:
        await run(*self.lab.entered(self.host, argv), text=text)


async def _said(launcher: asyncio.subprocess.Process, *, ask: bool = False) -> bytes:
    """Its next line; `ask` for a manager first."""
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    if ask:
        launcher.stdin.write(b"\n")
    if not (line := await launcher.stdout.readline()):
        raise OSError("a launcher ended: see the manager's log")
    return line


def machines_of(lab: Lab, log_entries: int) -> list[Machine]:
    """One for each host of the lab."""
    return [Machine(lab, replace(host, kind="manager"), log_entries) for host in lab.hosts]
