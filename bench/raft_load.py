"""What bench/raft.py asks of a cluster, and the one load generator for all of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

import grpc
import grpc.aio

KEYS: Final = 256
VALUE_BYTES: Final = 256
MEMBERS: Final = 3
WARM_UP_S: Final = 0.5
ATTEMPT_EVERY_S: Final = 0.02
ATTEMPT_TIMEOUT_S: Final = 0.5
WRITABLE_WITHIN_S: Final = 60.0

_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
"""What a call may end with while there is no leader."""


class Client(Protocol):
    """One connection to one member, over mutual TLS."""

    async def write(self, key: int, value: str, timeout_s: float | None = None) -> None:
        """Returns when it is committed."""

    async def read(self, key: int) -> str:
        """Linearizable."""

    async def close(self) -> None: ...


class Cluster(Protocol):
    """Three members on loopback, each a process with its own directory."""

    name: str

    async def start(self) -> None:
        """Returns when there is a leader and every key has a value."""

    async def leader(self) -> int: ...

    def client(self, member: int) -> Client:
        """As its users call it who have much to do."""

    def unary_client(self, member: int) -> Client:
        """Each call by itself. What it raises is grpc's own."""

    async def kill(self, member: int) -> None:
        """SIGKILL."""

    async def restart(self, member: int) -> None:
        """Returns when all three are members of one cluster again, and answer."""

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Load:
    """Calls a second, and milliseconds that half and 99 in 100 of them took at most."""

    per_s: float
    p50_ms: float
    p99_ms: float


async def load(call: Callable[[int, str], Awaitable[object]], tasks: int, seconds: float) -> Load:
    """`call(key, value)` by that many tasks, each with its own key; the first 0.5 s does not count."""
    values = [f"{random.getrandbits(4 * VALUE_BYTES):0{VALUE_BYTES}x}" for _ in range(tasks)]
    taken: list[float] = []
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds

    async def repeat(key: int) -> None:
        while (started := time.perf_counter()) < end:
            await call(key, values[key])
            if begin <= (ended := time.perf_counter()) < end:
                taken.append(ended - started)

    async with asyncio.TaskGroup() as group:
        for key in range(tasks):
            group.create_task(repeat(key))
    taken.sort()
    p50, p99 = (taken[len(taken) * percent // 100] * 1e3 for percent in (50, 99))
    return Load(len(taken) / seconds, p50, p99)


async def failover(cluster: Cluster) -> float:
    """Seconds from SIGKILL of the leader to the next write that a survivor accepts. All three run then."""
    leader = await cluster.leader()
    survivors = [cluster.unary_client(member) for member in range(MEMBERS) if member != leader]
    for client in survivors:
        await client.write(0, "before")
    await asyncio.sleep(random.uniform(0, 0.2))  # not in step with any heartbeat
    killed = time.monotonic()
    await cluster.kill(leader)
    accepted = await _accepted(survivors)
    for client in survivors:
        await client.close()
    await cluster.restart(leader)
    return accepted - killed


async def _accepted(clients: Sequence[Client]) -> float:
    """When the first write was accepted: they take turns, an attempt every 20 ms, each of 0.5 s."""
    accepted: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def attempt(number: int) -> None:
        try:
            await clients[number % len(clients)].write(number % KEYS, f"{number}", ATTEMPT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                raise
            return
        if not accepted.done():
            accepted.set_result(time.monotonic())

    async with asyncio.timeout(WRITABLE_WITHIN_S), asyncio.TaskGroup() as group:
        for number in count():
            group.create_task(attempt(number))
            if (await asyncio.wait((accepted,), timeout=ATTEMPT_EVERY_S))[0]:
                break
    return accepted.result()
