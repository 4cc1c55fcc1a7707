"""A fleet of real gossip nodes in one process, for bench/gossip.py: the worker's shell, its sockets and keys.

    unshare --net python -m bench.gossip_fleet

Commands come on standard input and answers go to standard output, one JSON object a line; they are those of
bench/memberlist/main.go. The process runs as a worker does, overwriting what it frees, and is alone in its
network namespace, so that what goes over the loopback is its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import resource
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog

from swarmnet.core.endpoints import Endpoint, mac_of, public_key, sign_all
from swarmnet.core.epochs import Epoch, Epochs, Role, epochs
from swarmnet.core.gossip.members import State
from swarmnet.core.ids import make_id
from swarmnet.core.keys import GOSSIP_SCOPE, EpochSecret
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.gossip import Gossip
from swarmnet.worker.memory import wipe_what_is_freed

NETWORK: Final = make_id(bytes(range(16)))
SEEDS: Final = 3
_LOOK_S: Final = 0.01

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spent:
    """What this process has used, and what has gone over the loopback."""

    byte_count: float
    packets: float
    cpu_s: float

    @classmethod
    def so_far(cls) -> Spent:
        for row in Path("/proc/net/dev").read_text().splitlines():
            name, _, numbers = row.partition(":")
            if name.strip() == "lo":
                fields = numbers.split()
                return cls(float(fields[8]), float(fields[9]), time.process_time())
        raise OSError("there is no loopback")

    def since(self) -> Answer:
        now = self.so_far()
        return {
            "bytes": now.byte_count - self.byte_count,
            "packets": now.packets - self.packets,
            "cpu_s": now.cpu_s - self.cpu_s,
        }


@dataclass(eq=False)
class Node:
    node_id: str
    address: str
    shell: Gossip
    own: list[tuple[Endpoint, bytes]] = field(default_factory=list)


class Managers:
    """What the managers do for gossip: keys of a scope, and signatures of endpoints."""

    def __init__(self) -> None:
        self._private = SecretBytes(secrets.token_bytes(32))
        self._secrets: dict[tuple[str, int], EpochSecret] = {}
        self._addresses = 0
        self.public = public_key(self._private)

    def epochs(self, scope: str, *roles: tuple[int, Role]) -> Epochs:
        return epochs(scope, (Epoch(self._secret(scope, number), role) for number, role in roles))

    def signed(self, node_ids: Sequence[str]) -> list[tuple[Endpoint, bytes]]:
        """Endpoints of new tasks on these nodes, all placed together."""
        endpoints = [self._endpoint(each) for each in node_ids]
        return list(zip(endpoints, sign_all(self._private, endpoints), strict=True))

    def _endpoint(self, node_id: str) -> Endpoint:
        self._addresses += 1
        ip = str(ip_address("10.0.0.1") + self._addresses)
        return Endpoint(NETWORK, make_id(secrets.token_bytes(16)), ip_address(ip), mac_of(ip), node_id)

    def _secret(self, scope: str, number: int) -> EpochSecret:
        key = scope, number
        if key not in self._secrets:
            self._secrets[key] = EpochSecret(scope, number, SecretBytes(secrets.token_bytes(32)))
        return self._secrets[key]


class Fleet:
    def __init__(self) -> None:
        self.managers = Managers()
        self.nodes: list[Node] = []
        self._epoch = 1
        self._on_changed: Callable[[str], None] = lambda node_id: None

    # -- the nodes -----------------------------------------------------------------------------------------

    async def start(self, *, nodes: int, patience_s: float, **_: Any) -> Answer:
        """All at once: each joins by the ones that come after it, as the managers give out seeds."""
        self.nodes = [self._make(index) for index in range(nodes)]
        peers = frozenset(each.node_id for each in self.nodes)
        first = self.managers.epochs(GOSSIP_SCOPE, (self._epoch, Role.CURRENT))
        of_network = self.managers.epochs(NETWORK, (self._epoch, Role.CURRENT))
        for each in self.nodes:
            await each.shell.start()
            each.shell.set_endpoint_key(self.managers.public)
            each.shell.set_peers(NETWORK, peers)
            each.shell.set_epochs(first)
            each.shell.set_epochs(of_network)
            each.shell.publish(NETWORK, ())
        began = time.perf_counter()
        for index, each in enumerate(self.nodes):
            after = [self.nodes[(index + step) % nodes] for step in range(1, SEEDS + 1)]
            each.shell.join([(seed.node_id, seed.address) for seed in after])
        took = await self._until(self._complete, began, patience_s)
        return {"s": took, "false_deaths": self._false_deaths()}

    async def stop(self, **_: Any) -> Answer:
        for each in self.nodes:
            await each.shell.stop()
        self.nodes = []
        return {}

    async def kill(self, *, patience_s: float, **_: Any) -> Answer:
        """One falls silent without a word."""
        victim = self.nodes.pop(random.randrange(len(self.nodes)))
        began = time.perf_counter()
        await victim.shell.stop()
        return {"s": await self._until(lambda: self._gone(victim), began, patience_s)}

    def _make(self, index: int) -> Node:
        node_id = make_id(secrets.token_bytes(16))
        address = f"127.21.{index // 200}.{index % 200 + 1}:7946"
        shell = Gossip(node_id, address, address, lambda _: self._on_changed(node_id))
        return Node(node_id, address, shell)

    def _complete(self) -> bool:
        return all(
            sum(rumor.state is State.ALIVE for rumor in each.shell.members()) == len(self.nodes)
            for each in self.nodes
        )

    def _false_deaths(self) -> int:
        return sum(
            rumor.state in (State.DEAD, State.LEFT) for each in self.nodes for rumor in each.shell.members()
        )

    def _gone(self, victim: Node) -> bool:
        return all(
            rumor.state is State.DEAD
            for each in self.nodes
            for rumor in each.shell.members()
            if rumor.node_id == victim.node_id
        )

    async def _until(self, holds: Callable[[], bool], began: float, patience_s: float) -> float | None:
        while not holds():
            if time.perf_counter() - began > patience_s:
                return None
            await asyncio.sleep(_LOOK_S)
        return time.perf_counter() - began

    # -- what is measured ----------------------------------------------------------------------------------

    async def idle(self, *, seconds: float, **_: Any) -> Answer:
        before = Spent.so_far()
        await asyncio.sleep(seconds)
        return before.since()

    async def update(self, *, seconds: float, **_: Any) -> Answer:
        """One new endpoint; the answer comes when the window is over."""
        origin = random.choice(self.nodes)
        (made,) = self.managers.signed([origin.node_id])
        arrived: dict[str, float] = {}

        def changed(node_id: str) -> None:
            arrived.setdefault(node_id, time.perf_counter())

        self._on_changed = changed
        before = Spent.so_far()
        began = time.perf_counter()
        self._publish(origin, made)
        await asyncio.sleep(began + seconds - time.perf_counter())
        answer = before.since()
        self._on_changed = lambda node_id: None
        everywhere = self._everywhere([made[0]]) and len(arrived) == len(self.nodes) - 1
        return answer | {"s": max(arrived.values()) - began if everywhere else None}

    async def rate(self, *, per_s: float, seconds: float, grace_s: float, **_: Any) -> Answer:
        """Many new endpoints of one large service, by random nodes; then some seconds in which the last ones
        arrive."""
        count = int(per_s * seconds)
        chosen = [random.choice(self.nodes) for _ in range(count)]
        made = self.managers.signed([each.node_id for each in chosen])
        before, began = Spent.so_far(), time.perf_counter()
        for number, (origin, endpoint) in enumerate(zip(chosen, made, strict=True)):
            await asyncio.sleep(max(began + number / per_s - time.perf_counter(), 0))
            self._publish(origin, endpoint)
        await asyncio.sleep(grace_s)
        answer = before.since()
        return answer | {"offered": count, "everywhere": self._everywhere([each[0] for each in made])}

    async def rotate(self, *, patience_s: float, **_: Any) -> Answer:
        """Both scopes' keys, each step once all nodes have confirmed the one before, under updates.
        `s`: until all have confirmed that they send with the new ones; what was refused until the old ones
        are gone is lost."""
        old = self._epoch
        self._epoch = new = old + 1
        lost_before = self._refused()
        updates = asyncio.create_task(self.rate(per_s=50.0, seconds=1.5, grace_s=1.0))
        await asyncio.sleep(0.2)
        began = time.perf_counter()
        await self._step(((old, Role.CURRENT), (new, Role.NEXT)), began, patience_s)
        took = await self._step(((old, Role.PREVIOUS), (new, Role.CURRENT)), began, patience_s)
        await asyncio.sleep(0.5)
        await self._step(((new, Role.CURRENT),), began, patience_s)
        told = await updates
        missing = told["offered"] - told["everywhere"]
        return {"s": took, "lost": missing + self._refused() - lost_before}

    async def _step(
        self, roles: tuple[tuple[int, Role], ...], began: float, patience_s: float
    ) -> float | None:
        wanted = {scope: self.managers.epochs(scope, *roles) for scope in (GOSSIP_SCOPE, NETWORK)}
        for each in self.nodes:
            for told in wanted.values():
                each.shell.set_epochs(told)
            await asyncio.sleep(0)  # what has come is handled between two nodes
        using = next(number for number, role in roles if role is Role.CURRENT)
        numbers = tuple(number for number, _ in roles)

        def confirmed() -> bool:
            return all(
                each.shell.installed(scope) == (numbers, using) for each in self.nodes for scope in wanted
            )

        return await self._until(confirmed, began, patience_s)

    def _refused(self) -> int:
        return sum(
            count
            for each in self.nodes
            for name, count in each.shell.counters().items()
            if name.startswith("dropped_")
        )

    def _publish(self, origin: Node, made: tuple[Endpoint, bytes]) -> None:
        origin.own.append(made)
        origin.shell.publish(NETWORK, origin.own)

    def _everywhere(self, made: list[Endpoint]) -> int:
        """How many of them every other node has."""
        missing: set[Endpoint] = set()
        for each in self.nodes:
            held = set(each.shell.endpoints(NETWORK))
            missing |= {endpoint for endpoint in made if endpoint.node_id != each.node_id} - held
        return len(made) - len(missing)


async def commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while raw := await reader.readline():
        yield json.loads(raw)


async def serve() -> None:
    fleet = Fleet()
    does: dict[str, Callable[..., Awaitable[Answer]]] = {
        "start": fleet.start,
        "stop": fleet.stop,
        "idle": fleet.idle,
        "update": fleet.update,
        "rate": fleet.rate,
        "kill": fleet.kill,
        "rotate": fleet.rotate,
    }
    async for command in commands():
        answer = await does[command.pop("do")](**command)
        print(json.dumps(answer), flush=True)
    await fleet.stop()


def main() -> None:
    wipe_what_is_freed()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
