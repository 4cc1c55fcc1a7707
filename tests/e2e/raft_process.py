"""One manager's Raft as a process of its own, to be killed. Started by RaftProcess; speaks lines.

stdin: `put WORD BYTES` (as padding after the word), `dump`. stdout: `started`, `leads`, `follows`, `ok WORD`,
`no WORD REASON`, `lines WORD...`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import structlog
from tests.unit.raft_cluster import Manager, eventually, until

from swarmnet.core.errors import SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.raft.node import Tuning

ROOT = Path(__file__).parents[2]
LINE_BYTES = 16 * 1024 * 1024


@dataclass
class RaftProcess:
    """The test's end of it. `acknowledged` are the words that were promised to be kept."""

    manager: Manager
    started: bool = False
    leads: bool = False
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    dumps: list[list[str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    process: Process | None = None
    _reader: asyncio.Task[None] | None = None

    async def start(self, **how: object) -> None:
        """`bootstrap=True`, `join=OTHER` (who leads) or nothing: go on. Waits until it takes part."""
        mine = self.manager
        config = {
            "node_id": mine.node_id,
            "port": mine.port,
            "raft_port": mine.raft_port,
            "directory": str(mine.directory),
            "certificate": mine.credentials.certificate_pem.decode(),
            "key": mine.credentials.key.reveal().decode(),
            "root": mine.credentials.root_pem.decode(),
            "log_entries": mine.tuning.log_entries,
            "bootstrap": bool(how.get("bootstrap")),
        }
        if isinstance(other := how.get("join"), RaftProcess):
            config["join"] = [other.manager.node_id, other.manager.member.address]
        self.started = self.leads = False
        module = [sys.executable, "-m", "tests.e2e.raft_process"]
        self.process = await asyncio.create_subprocess_exec(
            *module, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES
        )
        self._write(json.dumps(config))
        self._reader = asyncio.create_task(self._read(self.process))
        await until(lambda: self.started)

    def put(self, word: str, padding_bytes: int = 0) -> None:
        self._write(f"put {word} {padding_bytes}")

    async def dump(self) -> list[str]:
        """What its state machine has applied."""
        before = len(self.dumps)
        self._write("dump")
        await until(lambda: len(self.dumps) > before)
        return self.dumps[-1]

    async def next_change(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        assert self._reader is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader
        self.leads = False
        self.changed.set()

    def memory_mib(self) -> float:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def _write(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(ConnectionError):
            self.process.stdin.write(f"{line}\n".encode())

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            if not raw.endswith(b"\n"):
                return  # killed while it wrote this
            verb, *words = raw.decode().split()
            match verb:
                case "started":
                    self.started = True
                case "leads" | "follows":
                    self.leads = verb == "leads"
                case "ok":
                    self.acknowledged.append(words[0])
                case "no":
                    self.refused.append(words[0])
                    self.reasons.append(words[1])
                case "lines":
                    self.dumps.append(words)
            self.changed.set()


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def put(manager: Manager, word: str, padding_bytes: int) -> None:
    try:
        await manager.node.propose(word.encode() + bytes(padding_bytes))
        say("ok", word)
    except SwarmnetError as error:
        say("no", word, error.reason)


async def run() -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    config = json.loads(await stdin.readline())
    key = SecretBytes(config["key"].encode())
    mine = Credentials(config["certificate"].encode(), key, config["root"].encode())
    manager = Manager(config["node_id"], mine, Path(config["directory"]), config["port"])
    manager.raft_port = config["raft_port"]
    manager.tuning = Tuning(log_entries=config["log_entries"])
    manager.told = lambda leads: say("leads" if leads else "follows")
    if "join" in config:
        leader = Manager(config["join"][0], mine, Path())
        leader.port = int(config["join"][1].rpartition(":")[2])
        await eventually(lambda: manager.join(leader), grpc.aio.AioRpcError)
    else:
        await manager.start(bootstrap=config["bootstrap"])
    say("started")
    tasks = set()
    while line := (await stdin.readline()).decode().split():
        if line[0] == "dump":
            say("lines", *(each.decode() for each in manager.machine.lines))
        else:
            task = asyncio.create_task(put(manager, line[1], int(line[2])))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await manager.stop()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(run())
