"""The key plane under load: rotations of many scopes on many workers, and one key to very many.

    python -m bench.keys [--scopes 1000] [--workers 200] [--holders 10] [--streams 1000] [--rounds 5]

One real manager with its journal on this disk; the workers are real mutual-TLS streams of another process
(keys_workers.py), which acknowledge as workers do, and have no kernel to program. Each network is held by
`--holders` workers. Each figure is one JSON line; a missed reach says "ok": false. What else this machine
does counts in all of them but one: how long the manager's own work kept its event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from bench.report import Reach, line
from tests.e2e.manager_process import Manager, answered, eventually
from tests.ports import free_port

from swarmnet.api.v1 import control_pb2, control_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.rotation import RETIRE, STABLE
from swarmnet.manager.lag import REMEMBERED_S

ROOT: Final = Path(__file__).parents[1]
NETWORKS_PER_SERVICE: Final = 50
_PATIENCE_S: Final = 600.0


@dataclass
class Measured(Manager):
    """A manager that tells its metrics, and not much to its log."""

    metrics_port: int = field(default_factory=free_port)

    def arguments(self) -> list[str]:
        kept = [each for each in super().arguments() if not each.startswith(("--metrics", "--log-level"))]
        return [*kept, f"--metrics-addr=127.0.0.1:{self.metrics_port}", "--log-level=warning"]

    async def lag_s(self) -> tuple[float, float]:
        """The longest of the last ten seconds: (late, of its own work)."""
        text = await asyncio.to_thread(self._metrics)
        found = [
            re.search(rf"^swarmnet_event_loop_{name}_max_seconds (\S+)$", text, re.MULTILINE)
            for name in ("lag", "busy")
        ]
        assert all(found), text
        late, busy = (float(each[1]) for each in found if each is not None)
        return late, busy

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())


class Fleet:
    """The process of the workers, and what it told last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: dict[str, float] = {}
        self.ended = False
        self._changed = asyncio.Condition()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            said = json.loads(raw)
            async with self._changed:
                self.told.update(said)
                self._changed.notify_all()
        async with self._changed:
            self.ended = True
            self._changed.notify_all()

    async def until(self, holds: Callable[[dict[str, float]], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.ended or holds(self.told))
        assert not self.ended, "the workers' process ended"


@asynccontextmanager
async def cluster(folder: Path, workers: int) -> AsyncIterator[tuple[Measured, Fleet]]:
    """A manager and its workers, all of them connected."""
    manager = Measured(folder / "m1")
    manager.folder.mkdir()
    await manager.start()
    try:
        await manager.init()
        token = folder / "token"
        token.write_text((await manager.tokens()).worker)
        root = manager.folder / "state/certificates/root.pem"
        arguments = (manager.bootstrap, manager.address, token, root, workers)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.keys_workers",
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        fleet = Fleet(process)
        listening = asyncio.create_task(fleet.listen())
        try:
            await fleet.until(lambda told: "ready" in told)
            yield manager, fleet
        finally:
            process.kill()
            await process.wait()
            listening.cancel()
    finally:
        await manager.stop(signal.SIGKILL)


async def fill(manager: Measured, fleet: Fleet, plan: Plan) -> None:
    """Networks, and services that bring each to its holders; until all hold their keys."""
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        control = control_pb2_grpc.ControlStub(channel)
        for number in range(plan.scopes):
            await answered(
                control.CreateNetwork(
                    control_pb2.CreateNetworkRequest(name=f"n{number}", options={"encrypted": ""}), timeout=30
                )
            )
        for first in range(0, plan.scopes, NETWORKS_PER_SERVICE):
            names = [f"n{n}" for n in range(first, min(first + NETWORKS_PER_SERVICE, plan.scopes))]
            spec = types.ServiceSpec(name=f"s{first}", image="host", replicas=plan.holders, networks=names)
            await answered(control.CreateService(control_pb2.CreateServiceRequest(spec=spec), timeout=30))
    await fleet.until(lambda told: told.get("keys") == plan.scopes * plan.holders + plan.workers)


@dataclass(frozen=True, slots=True)
class Plan:
    scopes: int
    workers: int
    holders: int
    streams: int
    rounds: int


@dataclass
class Found:
    rotations_s: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    busy_ms: list[float] = field(default_factory=list)
    fanouts_s: list[float] = field(default_factory=list)


async def rotate_all(manager: Measured) -> float:
    """Seconds from asking until every scope's new epoch is acknowledged by all that hold it."""
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        control = control_pb2_grpc.ControlStub(channel)
        events = control.Watch(control_pb2.WatchRequest(kinds=[control_pb2.OBJECT_KIND_KEY_SCOPE]))
        await events.initial_metadata()
        started = time.monotonic()
        asked = await answered(control.RotateKeys(control_pb2.RotateKeysRequest(), timeout=60))
        waiting = set(asked.scopes)
        async for event in events:
            if event.key_scope.phase == RETIRE:
                waiting.discard(event.key_scope.meta.id)
            if not waiting:
                return time.monotonic() - started
    raise AssertionError("the watch ended")


async def settled(manager: Measured) -> None:
    """Until no rotation is in progress."""

    async def all_stable() -> bool:
        async with grpc.aio.insecure_channel(manager.socket) as channel:
            keys = await control_pb2_grpc.ControlStub(channel).ListKeys(
                control_pb2.ListKeysRequest(), timeout=60
            )
        return all(each.scope.phase == STABLE for each in keys.keys)

    await eventually(all_stable, _PATIENCE_S, 1.0)


async def measure_rotations(manager: Measured, plan: Plan, found: Found) -> None:
    for _ in range(plan.rounds):
        await settled(manager)
        await asyncio.sleep(REMEMBERED_S + 0.5)
        lags: list[tuple[float, float]] = []
        watching = asyncio.create_task(watch_lag(manager, lags))
        found.rotations_s.append(await rotate_all(manager))
        watching.cancel()
        lags.append(await manager.lag_s())
        found.late_ms.append(1000 * max(late for late, _ in lags))
        found.busy_ms.append(1000 * max(busy for _, busy in lags))


async def watch_lag(manager: Measured, lags: list[tuple[float, float]]) -> None:
    while True:
        await asyncio.sleep(REMEMBERED_S / 2)
        lags.append(await manager.lag_s())


async def measure_fanout(manager: Measured, fleet: Fleet, plan: Plan, found: Found) -> None:
    """Seconds from asking for a new key of gossip until the last worker has it."""
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        control = control_pb2_grpc.ControlStub(channel)
        for _ in range(plan.rounds):
            await settled(manager)
            before = fleet.told["gossip"]
            started = time.monotonic()
            await answered(control.RotateKeys(control_pb2.RotateKeysRequest(ref="gossip"), timeout=60))
            await fleet.until(lambda told, before=before: told["gossip"] > before)  # type: ignore[misc]
            found.fanouts_s.append(fleet.told["at"] - started)


async def measure(plan: Plan, only: str) -> None:
    (ROOT / "out").mkdir(exist_ok=True)
    found = Found()
    with tempfile.TemporaryDirectory(dir=ROOT / "out", prefix="bench-keys-") as folder:
        if only in ("", "rotation"):
            (Path(folder) / "rotation").mkdir()
            async with cluster(Path(folder) / "rotation", plan.workers) as (manager, fleet):
                await fill(manager, fleet, plan)
                await measure_rotations(manager, plan, found)
            tell_rotations(plan, found)
        if only in ("", "fanout"):
            (Path(folder) / "fanout").mkdir()
            async with cluster(Path(folder) / "fanout", plan.streams) as (manager, fleet):
                await measure_fanout(manager, fleet, plan, found)
            print(
                line(
                    "keys", f"a new key on {plan.streams} streams", "s", found.fanouts_s, Reach(2.0, of="max")
                ),
                flush=True,
            )


def tell_rotations(plan: Plan, found: Found) -> None:
    what = f"{plan.scopes} scopes of {plan.holders} holders and gossip on {plan.workers} workers"
    rows: list[tuple[str, str, list[float], Any]] = [
        (f"{what} rotated, until all acknowledged", "s", found.rotations_s, Reach(20.0, of="max")),
        ("leader's event loop late, longest meanwhile", "ms", found.late_ms, Reach(50.0, of="max")),
        ("of that by its own work", "ms", found.busy_ms, Reach(50.0, of="max")),
    ]
    for case, unit, values, reach in rows:
        print(line("keys", case, unit, values, reach), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--scopes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--holders", type=int, default=10)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("rotation", "fanout"), default="")
    chosen = parser.parse_args()
    plan = Plan(chosen.scopes, chosen.workers, chosen.holders, chosen.streams, chosen.rounds)
    asyncio.run(measure(plan, chosen.only))


if __name__ == "__main__":
    main()
