"""A cluster of gossip cores in memory: fake clocks, and a wire that loses, doubles, reorders and cuts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from itertools import count
from math import inf
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.core.endpoints import Endpoint, mac_of, public_key, sign
from swarmnet.core.epochs import Epoch, Epochs, Role, epochs
from swarmnet.core.gossip.events import Event, SyncRequest
from swarmnet.core.gossip.members import State
from swarmnet.core.gossip.protocol import Gossip
from swarmnet.core.gossip.seal import CHALLENGE_BYTES, gossip_cipher
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.gossip.verify import Verifier
from swarmnet.core.keys import GOSSIP_SCOPE, EpochSecret
from swarmnet.core.secret import SecretBytes

NETWORK = "net"
MANAGERS_KEY = SecretBytes(bytes(range(32)))
WALL_MS = 1_700_000_000_000
_SYN_AGAIN_S = 1.0
"""What a lost packet costs a TCP connection that is being made."""


@lru_cache(4096)
def _epoch_secret(scope: str, number: int) -> EpochSecret:
    return EpochSecret(scope, number, SecretBytes(f"{scope:.16}{number:016}".rjust(32).encode()))


def scope_epochs(scope: str, *numbers: int, current: int | None = None) -> Epochs:
    """Epochs of made-up secrets; the last one is current unless told otherwise."""
    using = numbers[-1] if current is None else current

    def role(number: int) -> Role:
        return Role.CURRENT if number == using else Role.PREVIOUS if number < using else Role.NEXT

    return epochs(scope, (Epoch(_epoch_secret(scope, n), role(n)) for n in numbers))


@lru_cache(100_000)
def _signed(endpoint: Endpoint) -> bytes:
    return sign(MANAGERS_KEY, endpoint)


def signed(node_id: str, ip: str, network_id: str = NETWORK, task_id: str = "") -> tuple[Endpoint, bytes]:
    """An endpoint as the managers would hand it to its node."""
    endpoint = Endpoint(network_id, task_id or f"task-{ip}", ip_address(ip), mac_of(ip), node_id)
    return endpoint, _signed(endpoint)


_ciphers: dict[tuple[str, int, str], AESGCM] = {}


def shared_cipher(secret: EpochSecret, sender: str) -> AESGCM:
    """All nodes of a process share what each would derive for itself."""
    key = (secret.scope, secret.epoch, sender)
    if (cipher := _ciphers.get(key)) is None:
        cipher = _ciphers[key] = gossip_cipher(secret, sender)
    return cipher


shared_verifier = Verifier()
shared_verifier.set_key(public_key(MANAGERS_KEY))


@dataclass
class Wire:
    """What happens to a message under way. Delays are seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.0002, 0.002)
    cut: Callable[[str, str], bool] | None = None


@dataclass
class Clock:
    """A node's own: it starts anywhere and goes at its own speed; the wall clock is off by so much."""

    offset_s: float = 0.0
    rate: float = 1.0
    wall_off_ms: int = 0

    def read(self, now: float) -> float:
        return self.offset_s + now * self.rate

    def when(self, reading: float) -> float:
        return (reading - self.offset_s) / self.rate


@dataclass(eq=False)
class Node:
    name: str
    core: Gossip
    address: str
    clock: Clock
    published: tuple[tuple[Endpoint, bytes], ...] = ()
    events: list[tuple[float, Event]] = field(default_factory=list)
    wake_at: float = inf


class Cluster:
    """All randomness comes from the seed: the same seed gives the same run."""

    def __init__(self, seed: int, size: int = 0, timing: Timing | None = None, *, seeds: int = 3) -> None:
        self.random = Random(seed)
        self.wire = Wire()
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.clocks: dict[str, Clock] = {}
        self.sent = 0
        self.sent_bytes = 0
        self.on_datagram: Callable[[str, str, bytes], None] | None = None
        self.on_arrival: Callable[[bytes], None] | None = None
        self.on_event: Callable[[Node, Event], None] = lambda node, event: node.events.append(
            (self.now, event)
        )
        self._timing = timing
        self._seeds = seeds
        self._heap: list[tuple[float, int, Node | None, bytes | Callable[[], None] | None]] = []
        self._order = count()
        self._at: dict[str, Node] = {}
        self.peers = frozenset(f"n{index:03}" for index in range(size))
        for name in sorted(self.peers):
            self.start(name)

    def start(self, name: str, *, published: tuple[tuple[Endpoint, bytes], ...] = ()) -> Node:
        """Start a node, or start it again after a crash: nothing of its earlier boot is left."""
        number = int(name[1:])
        address = f"10.{9 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:7946"
        clock = self.clocks.get(name, Clock())
        core = Gossip(
            name,
            address,
            boot=self.random.getrandbits(32),
            started_ms=WALL_MS + int(self.now * 1000) + clock.wall_off_ms,
            randomness=Random(self.random.getrandbits(32)),
            timing=self._timing,
            derive=shared_cipher,
            verifier=shared_verifier,
        )
        self.nodes.pop(name, None)
        seeds = [(other, self.nodes[other].address) for other in self._some_names()]
        node = self.nodes[name] = self._at[address] = Node(name, core, address, clock, published)
        core.set_epochs(scope_epochs(GOSSIP_SCOPE, 1))
        core.set_epochs(scope_epochs(NETWORK, 1))
        core.set_peers(NETWORK, self.peers)
        core.start(clock.read(self.now))
        core.join(seeds)
        core.publish(NETWORK, published, clock.read(self.now))
        self.settle(node)
        return node

    def _some_names(self) -> list[str]:
        """The seeds of who starts now: the first ones, and for the first ones those that come after."""
        return sorted(self.nodes)[: self._seeds]

    def crash(self, name: str) -> None:
        node = self.nodes.pop(name)
        del self._at[node.address]

    def publish(self, name: str, *ips: str) -> None:
        node = self.nodes[name]
        node.published = tuple(signed(name, ip) for ip in ips)
        node.core.publish(NETWORK, node.published, node.clock.read(self.now))
        self.settle(node)

    def settle(self, node: Node) -> None:
        """After an input: send what came of it, and see to it that the node is woken in time."""
        core = node.core
        core.tick(node.clock.read(self.now))
        out = core.take()
        for event in out.events:
            self.on_event(node, event)
        for address, payload in out.datagrams:
            self._send(node, address, payload)
        for request in out.syncs:
            self._sync(node, request)
        wake_at = max(node.clock.when(core.next_deadline()), self.now)
        if wake_at < node.wake_at or node.wake_at <= self.now:
            node.wake_at = wake_at
            heapq.heappush(self._heap, (wake_at, next(self._order), node, None))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `until` holds (asked whenever something happened)."""
        end = self.now + seconds
        heap = self._heap
        while heap and heap[0][0] <= end:
            at, _, node, what = heapq.heappop(heap)
            self.now = max(self.now, at)
            if node is None:
                what()  # type: ignore[misc, operator]
            elif what is None:
                self._wake(node, at)
            elif self._at.get(node.address) is node:
                if self.on_arrival is not None:
                    self.on_arrival(what)  # type: ignore[arg-type]
                node.core.receive(what, node.clock.read(self.now))  # type: ignore[arg-type]
                self.settle(node)
            if until is not None and until():
                return True
        self.now = end
        return until is None or until()

    def converges(self, within_s: float) -> bool:
        """Looks every 50 ms only: in a large cluster looking is the expensive part."""
        end = self.now + within_s
        while not self.agree():
            if self.now >= end:
                return False
            self.run(0.05)
        return True

    # -- what a test asks ----------------------------------------------------------------------------------

    def alive(self, name: str) -> set[str]:
        """Who is alive as that node sees it, itself included."""
        return {rumor.node_id for rumor in self.nodes[name].core.members() if rumor.state is State.ALIVE}

    def agree_on_members(self) -> bool:
        there = set(self.nodes)
        return all(self.alive(name) == there for name in self.nodes)

    def agree_on_endpoints(self) -> bool:
        everything = {each[0] for node in self.nodes.values() for each in node.published}
        for node in self.nodes.values():
            own = {each[0] for each in node.published}
            if set(node.core.endpoints(NETWORK)) != everything - own:
                return False
        return True

    def agree(self) -> bool:
        return self.agree_on_members() and self.agree_on_endpoints()

    # -- the wire ------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), None, action))

    def deliver(self, node: Node, payload: bytes) -> None:
        """At once, whoever sent it."""
        node.core.receive(payload, node.clock.read(self.now))
        self.settle(node)

    def _wake(self, node: Node, at: float) -> None:
        if node.wake_at == at:
            node.wake_at = inf
            if self._at.get(node.address) is node:
                self.settle(node)

    def _send(self, source: Node, address: str, payload: bytes) -> None:
        self.sent += 1
        self.sent_bytes += len(payload)
        target = self._at.get(address)
        if self.on_datagram is not None:
            self.on_datagram(source.name, target.name if target else "", payload)
        if target is None:
            return
        wire, random = self.wire, self.random.random
        copies = 2 if wire.duplication and random() < wire.duplication else 1
        for _ in range(copies):
            if (wire.loss and random() < wire.loss) or (wire.cut and wire.cut(source.name, target.name)):
                continue
            least, most = wire.delay
            when = self.now + least + (most - least) * random()
            heapq.heappush(self._heap, (when, next(self._order), target, payload))

    def _sync(self, source: Node, request: SyncRequest) -> None:
        """TCP: whole or not at all; a loss on the way costs time."""
        target = self._at.get(request.address)
        challenge = self.random.randbytes(CHALLENGE_BYTES)

        def trip() -> float:
            lost = _SYN_AGAIN_S if self.wire.loss and self.random.random() < self.wire.loss else 0.0
            return self.random.uniform(*self.wire.delay) + lost

        def answered(reply: bytes | None) -> None:
            if self._at.get(source.address) is source:
                source.core.sync_answered(request.ticket, reply, source.clock.read(self.now))
                self.settle(source)

        def connected() -> bool:
            cut = self.wire.cut
            return (
                target is not None
                and self._at.get(target.address) is target
                and not (cut and (cut(source.name, target.name) or cut(target.name, source.name)))
            )

        def arrive() -> None:
            if not connected():
                self.at(self.now + trip(), lambda: answered(None))
                return
            payload = source.core.sync_begun(request.ticket, challenge)
            assert target is not None
            reply = None
            if payload is not None:
                reply = target.core.receive_sync(payload, challenge, target.clock.read(self.now))
                self.settle(target)
            self.at(self.now + 2 * trip(), lambda: answered(reply))

        self.at(self.now + 2 * trip(), arrive)


def groups(*parts: Iterable[str]) -> Callable[[str, str], bool]:
    """A cut between the groups, for Wire.cut; who is in none of them still reaches everybody."""
    of = {name: index for index, part in enumerate(parts) for name in part}
    return lambda source, target: source in of and target in of and of[source] != of[target]
