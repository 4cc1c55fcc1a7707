"""Parts of a node by themselves, each in a process of its own: the pipeline, replayed messages, memory.

python -m bench.gossip_pieces pipeline|replay|memory AMOUNT     one JSON line
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import multiprocessing
import random
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
from bench.gossip_fleet import NETWORK, Managers
from bench.report import Reach

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs, Role
from swarmnet.core.gossip import protocol, sync
from swarmnet.core.gossip.events import SyncRequest
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.messages import delta_frames, of_rumor
from swarmnet.core.gossip.seal import CHALLENGE_BYTES, Sealer, receiver
from swarmnet.core.gossip.table import Delta, Entry
from swarmnet.core.ids import make_id
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.worker.datagrams import split_address
from swarmnet.worker.gossip import Gossip
from swarmnet.worker.memory import wipe_what_is_freed
from swarmnet.worker.neighbours import Neighbours

Say: TypeAlias = Callable[..., None]
ROOT: Final = Path(__file__).parents[1]
MEMBERS: Final = 1_000
ENDPOINTS: Final = 10_000
_NODE: Final = "127.0.0.1:17946"
_FRIEND: Final = "127.0.0.2:17946"
_ADDRESSES: Final = {"a": "10.0.0.1:7946", "b": "10.0.0.2:7946"}
_NAMES: Final = {address: name for name, address in _ADDRESSES.items()}
_LENGTH: Final = struct.Struct("!I")
_LOOK_S: Final = 0.01
_BURST: Final = 32
_PAUSE_S: Final = 0.0002
_PATIENCE_S: Final = 60.0

Answer: TypeAlias = dict[str, Any]


def measure_pieces(say: Say, *, quick: bool) -> None:
    rates = [_alone("pipeline", 20_000 if quick else 100_000) for _ in range(1 if quick else 3)]
    case = "a core's datagrams: received, opened, merged, answer sealed and sent"
    say(case, "datagrams/s of CPU", [each["per_s"] for each in rates], Reach(60_000, at_least=True))
    replays = 100_000 if quick else 1_000_000
    told = _alone("replay", replays)
    for when in ("at once", "after the receiver's restart", "after the sender's restart"):
        case = f"a captured message sent {replays} times again, {when}"
        say(case, "accepted", [told[when]], Reach(0, of="max"))
    held = _alone("memory", ENDPOINTS)
    case = f"a worker's memory with {MEMBERS} members and {ENDPOINTS} endpoints"
    say(case, "MiB", [held["mib"]], Reach(150))
    say(f"{case}: event loop held up by taking them in", "ms", [held["held_up_ms"]])


def _alone(piece: str, amount: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gossip_pieces", piece, str(amount)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=300)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


class Friend:
    """A member that the benchmark speaks for, by the protocol's own sealing."""

    def __init__(self, managers: Managers) -> None:
        self.rumor = _rumor(_FRIEND)
        self.node_id = self.rumor.node_id
        self.sealer = Sealer(self.node_id, self.rumor.boot)
        for scope in (GOSSIP_SCOPE, NETWORK):
            self.sealer.set_epochs(current(managers, scope))

    def reply(
        self, request: bytes, challenge: bytes, rumors: Sequence[Rumor], frames: Sequence[bytes]
    ) -> bytes:
        """To a sync: these members, or these endpoints."""
        opened = self.sealer.open_request(request, challenge)
        if opened.scope == GOSSIP_SCOPE:
            asked = pb.ClusterSync.FromString(opened.body)
            body = sync.cluster_body(asked.ticket, asked.members, rumors)
        else:
            body = sync.network_body(pb.NetworkSync.FromString(opened.body).ticket, None, frames)
        return self.sealer.seal_reply(opened.scope, body, opened.to, challenge)


def current(managers: Managers, scope: str) -> Epochs:
    return managers.epochs(scope, (1, Role.CURRENT))


async def join(
    node: Gossip, friend: Friend, rumors: Sequence[Rumor], frames: Sequence[bytes]
) -> asyncio.Server:
    """The node takes the friend for a seed, which tells it of these members, and of these endpoints."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        writer.write(challenge)
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        reply = friend.reply(await reader.readexactly(length), challenge, rumors, frames)
        writer.write(_LENGTH.pack(len(reply)) + reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, *split_address(friend.rumor.address))
    node.join([(friend.node_id, friend.rumor.address)])
    await _until(lambda: len(node.members()) == len(rumors) + 1)
    return server


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - nodes tell of no change among members
            await asyncio.sleep(_LOOK_S)


def new_node(managers: Managers) -> Gossip:
    node = Gossip(make_id(secrets.token_bytes(16)), _NODE, _NODE, lambda _: None)
    node.set_endpoint_key(managers.public)
    return node


# -- the pipeline ------------------------------------------------------------------------------------------


async def pipeline(pings: int) -> Answer:
    """Pings with a rumor, each answered by a worker's shell: how many a second of its process's time."""
    managers = Managers()
    node, friend = new_node(managers), Friend(managers)
    await node.start()
    node.set_epochs(current(managers, GOSSIP_SCOPE))
    server = await join(node, friend, [friend.rumor], [])
    to = receiver(node.members()[0].node_id, node.members()[0].boot)
    sealed = [friend.sealer.seal(GOSSIP_SCOPE, _ping(number, friend.rumor), to) for number in range(1, pings)]
    spawned = multiprocessing.get_context("spawn")
    ready, go = spawned.Event(), spawned.Event()
    sender = spawned.Process(target=send_all, args=(sealed, ready, go))
    sender.start()
    del sealed
    await asyncio.to_thread(ready.wait)
    before, began = node.counters(), time.process_time()
    go.set()
    await asyncio.to_thread(sender.join)
    took, after = time.process_time() - began, node.counters()
    server.close()
    await node.stop()
    received, sent = (after[name] - before.get(name, 0) for name in ("received", "sent"))
    if sent < received or any(name.startswith("dropped_") for name in after):
        raise RuntimeError(f"not all that came was answered: {after}")
    return {"per_s": received / took, "received": received, "of": pings}


def _ping(number: int, rumor: Rumor) -> bytes:
    ping = pb.Ping(sequence=number)
    return pb.ClusterDatagram(ping=ping, rumors=[of_rumor(rumor)]).SerializeToString()


def send_all(datagrams: Sequence[bytes], ready: Event, go: Event) -> None:
    """More than the receiver has time for; the rest is lost."""
    ready.set()
    go.wait()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(split_address(_FRIEND))
        sock.connect(split_address(_NODE))
        for number, each in enumerate(datagrams):
            sock.send(each)
            if not number % _BURST:
                time.sleep(_PAUSE_S)


# -- replay ------------------------------------------------------------------------------------------------


class Pair:
    """Two nodes, without sockets, and what the one has sent to the other."""

    def __init__(self) -> None:
        self._managers = Managers()
        self.cores: dict[str, protocol.Gossip] = {}
        self.captured: list[bytes] = []
        self._now = 0.0
        for name in ("a", "b"):
            self.start(name)

    def start(self, name: str) -> None:
        """For the first time, or again."""
        core = self.cores[name] = protocol.Gossip(
            name,
            _ADDRESSES[name],
            boot=secrets.randbits(32),
            started_ms=int(time.time() * 1000) + int(1000 * self._now),
            randomness=random.Random(),
        )
        core.set_endpoint_key(self._managers.public)
        for scope in (GOSSIP_SCOPE, NETWORK):
            core.set_epochs(current(self._managers, scope))
        core.set_peers(NETWORK, frozenset(_ADDRESSES))
        core.start(self._now)
        core.publish(NETWORK, self._managers.signed([name]), self._now)
        core.join(_ADDRESSES.items())

    def run(self, seconds: float) -> None:
        """Everything arrives at once."""
        end = self._now + seconds
        while self._now < end:
            self._now += 0.01
            for core in self.cores.values():
                core.tick(self._now)
            while sum(self._deliver(name) for name in self.cores):
                pass

    def _deliver(self, name: str) -> bool:
        out = self.cores[name].take()
        for address, payload in out.datagrams:
            target = _NAMES[address]
            if target == "b":
                self.captured.append(payload)
            self.cores[target].receive(payload, self._now)
        for request in out.syncs:
            self._sync(self.cores[name], request)
        return bool(out.datagrams or out.syncs)

    def _sync(self, source: protocol.Gossip, request: SyncRequest) -> None:
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        body = source.sync_begun(request.ticket, challenge)
        target = self.cores[_NAMES[request.address]]
        reply = None if body is None else target.receive_sync(body, challenge, self._now)
        source.sync_answered(request.ticket, reply, self._now)

    def replay(self, times: int) -> int:
        """What was captured, over and over: how often b did anything but count it as refused."""
        core, captured = self.cores["b"], self.captured[:]
        before = core.members(), core.endpoints(NETWORK), refused(core)
        for number in range(times):
            core.receive(captured[number % len(captured)], self._now)
        out = core.take()
        if (
            out.datagrams
            or out.syncs
            or out.events
            or before[:2] != (core.members(), core.endpoints(NETWORK))
        ):
            return times
        return times - (refused(core) - before[2])


def refused(core: protocol.Gossip) -> int:
    return sum(count for name, count in core.counters().items() if name.startswith("dropped_"))


def replay(times: int) -> Answer:
    pair = Pair()
    pair.run(3.0)
    told = {"at once": pair.replay(times)}
    for who, when in (("b", "after the receiver's restart"), ("a", "after the sender's restart")):
        pair.start(who)
        before = len(pair.captured)
        pair.run(3.0)
        del pair.captured[before:]
        told[when] = pair.replay(times)
    return told


# -- memory ------------------------------------------------------------------------------------------------


async def memory(endpoints: int) -> Answer:
    """A worker's process, with all that it imports, once it has heard of that many endpoints."""
    importlib.import_module("swarmnet.worker.command")
    managers = Managers()
    node, friend = new_node(managers), Friend(managers)
    rumors = [
        friend.rumor,
        *(_rumor(f"127.0.{at // 250 + 1}.{at % 250 + 1}:7946") for at in range(MEMBERS - 1)),
    ]
    await node.start()
    for scope in (GOSSIP_SCOPE, NETWORK):
        node.set_epochs(current(managers, scope))
    node.set_peers(NETWORK, frozenset([friend.node_id]))
    server = await join(node, friend, rumors, table(managers, rumors, endpoints))
    lateness = Lateness()
    node.publish(NETWORK, ())
    await _until(lambda: len(node.endpoints(NETWORK)) == endpoints)
    node.set_peers(NETWORK, frozenset(each.node_id for each in rumors))
    neighbours = Neighbours()
    neighbours.update(NETWORK, node.endpoints(NETWORK), frozenset(), frozenset(), 0.0)
    await asyncio.sleep(1.0)
    held_up_s = lateness.stop()
    server.close()
    await node.stop()
    return {"mib": resident_mib(), "held_up_ms": 1000 * held_up_s, "believed": len(neighbours.everything())}


def resident_mib() -> float:
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS:")) / 1024


def table(managers: Managers, owners: Sequence[Rumor], endpoints: int) -> list[bytes]:
    """The endpoints of services that are spread over these nodes, as they come in a sync."""
    spread = [owners[at % len(owners)].node_id for at in range(endpoints)]
    rows: dict[str, list[tuple[Endpoint, bytes]]] = defaultdict(list)
    for owner, made in zip(spread, managers.signed(spread), strict=True):
        rows[owner].append(made)
    return [frame for owner, row in rows.items() for frame in _row(owner, row)]


def _row(owner: str, row: Sequence[tuple[Endpoint, bytes]]) -> list[bytes]:
    start = int(time.time() * 1000)
    entries = tuple(
        Entry(owner, endpoint.task_id, start + number, endpoint, signature)
        for number, (endpoint, signature) in enumerate(row)
    )
    return [frame for _, frame in delta_frames(Delta(owner, 0, entries[-1].time, entries))]


def _rumor(address: str) -> Rumor:
    now_ms = int(time.time() * 1000)
    return Rumor(make_id(secrets.token_bytes(16)), address, now_ms, State.ALIVE, boot=secrets.randbits(32))


class Lateness:
    """How long the event loop was kept from a timer, at most."""

    _PERIOD_S: Final = 0.005

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._PERIOD_S, self._look, self._loop.time())

    def stop(self) -> float:
        self._timer.cancel()
        return self._longest_s

    def _look(self, since: float) -> None:
        now = self._loop.time()
        self._longest_s = max(self._longest_s, now - since - self._PERIOD_S)
        self._timer = self._loop.call_later(self._PERIOD_S, self._look, now)


def main() -> None:
    wipe_what_is_freed()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    piece, amount = sys.argv[1], int(sys.argv[2])
    match piece:
        case "pipeline":
            told = asyncio.run(pipeline(amount))
        case "replay":
            told = replay(amount)
        case "memory":
            told = asyncio.run(memory(amount))
        case _:
            sys.exit(f"unknown piece {piece}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
