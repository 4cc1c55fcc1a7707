"""A cluster of gossip cores in memory: a fake clock, and a wire that loses, doubles, reorders and cuts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from random import Random

from swarmnet.core.endpoints import Endpoint, mac_of, public_key, sign
from swarmnet.core.epochs import Epoch, Epochs, Role, epochs
from swarmnet.core.gossip.events import Event, SyncRequest
from swarmnet.core.gossip.members import State
from swarmnet.core.gossip.protocol import Gossip
from swarmnet.core.keys import GOSSIP_SCOPE, EpochSecret
from swarmnet.core.secret import SecretBytes

NETWORK = "net"
MANAGERS_KEY = SecretBytes(bytes(range(32)))
_WALL_MS = 1_700_000_000_000


def scope_epochs(scope: str, *numbers: int, current: int | None = None) -> Epochs:
    """Epochs of made-up secrets; the last one is current unless told otherwise."""
    using = numbers[-1] if current is None else current

    def role(number: int) -> Role:
        return Role.CURRENT if number == using else Role.PREVIOUS if number < using else Role.NEXT

    secret = {number: SecretBytes(f"{scope:.16}{number:016}".rjust(32).encode()) for number in numbers}
    return epochs(scope, (Epoch(EpochSecret(scope, n, secret[n]), role(n)) for n in numbers))


def signed(node_id: str, ip: str, network_id: str = NETWORK, task_id: str = "") -> tuple[Endpoint, bytes]:
    """An endpoint as the managers would hand it to its node."""
    endpoint = Endpoint(network_id, task_id or f"task-{ip}", ip_address(ip), mac_of(ip), node_id)
    return endpoint, sign(MANAGERS_KEY, endpoint)


@dataclass
class Wire:
    """What happens to a message under way. Delays are seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.0002, 0.002)
    cut: Callable[[str, str], bool] = lambda source, target: False


@dataclass
class Node:
    core: Gossip
    address: str
    published: tuple[tuple[Endpoint, bytes], ...] = ()
    events: list[Event] = field(default_factory=list)


class Cluster:
    """All randomness comes from the seed: the same seed gives the same run."""

    def __init__(self, seed: int, size: int = 0) -> None:
        self.random = Random(seed)
        self.wire = Wire()
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.sent = 0
        self.on_datagram: Callable[[str, str, bytes], None] = lambda source, target, payload: None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._names: dict[str, str] = {}
        self._wakeups: dict[str, float] = {}
        self.peers = frozenset(f"n{index:03}" for index in range(size))
        for name in sorted(self.peers):
            self.start(name)

    def start(self, name: str, *, published: tuple[tuple[Endpoint, bytes], ...] = ()) -> Node:
        """Start a node, or start it again after a crash: nothing of its earlier boot is left."""
        number = int(name[1:])
        address = f"10.9.{number // 250}.{number % 250 + 1}:7946"
        core = Gossip(
            name,
            address,
            boot=self.random.getrandbits(32),
            started_ms=_WALL_MS + int(self.now * 1000),
            randomness=Random(self.random.getrandbits(32)),
        )
        node = self.nodes[name] = Node(core, address, published)
        self._names[address] = name
        core.set_endpoint_key(public_key(MANAGERS_KEY))
        core.set_epochs(scope_epochs(GOSSIP_SCOPE, 1))
        core.set_epochs(scope_epochs(NETWORK, 1))
        core.set_peers(NETWORK, self.peers)
        core.start(self.now)
        seeds = [other for other in sorted(self.nodes) if other != name][:3]
        core.join([(other, self.nodes[other].address) for other in seeds])
        core.publish(NETWORK, published, self.now)
        self.settle(name)
        return node

    def crash(self, name: str) -> None:
        del self.nodes[name]

    def publish(self, name: str, *ips: str) -> None:
        node = self.nodes[name]
        node.published = tuple(signed(name, ip) for ip in ips)
        node.core.publish(NETWORK, node.published, self.now)
        self.settle(name)

    def settle(self, name: str) -> None:
        """After an input: send what came of it, and see to it that the node is woken in time."""
        node = self.nodes[name]
        node.core.tick(self.now)
        out = node.core.take()
        node.events += out.events
        for datagram in out.datagrams:
            self._send(name, datagram.address, datagram.payload)
        for request in out.syncs:
            self._sync(name, request)
        self._wake(name, node.core.next_deadline())

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `until` holds (asked whenever something happened)."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
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
        return all(self.alive(name) == set(self.nodes) for name in self.nodes)

    def agree_on_endpoints(self) -> bool:
        published = {name: {each[0] for each in node.published} for name, node in self.nodes.items()}
        for name, node in self.nodes.items():
            others = set().union(*(published[other] for other in self.nodes if other != name))
            if set(node.core.endpoints(NETWORK)) != others:
                return False
        return True

    def agree(self) -> bool:
        return self.agree_on_members() and self.agree_on_endpoints()

    # -- the wire ------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def _wake(self, name: str, deadline: float) -> None:
        core = self.nodes[name].core

        def wake() -> None:
            if self._wakeups.get(name) == deadline:
                del self._wakeups[name]
            if name in self.nodes and self.nodes[name].core is core:
                self.settle(name)

        known = self._wakeups.get(name)
        if deadline < float("inf") and (known is None or deadline < known or known < self.now):
            self._wakeups[name] = deadline
            self.at(max(deadline, self.now), wake)

    def _send(self, source: str, address: str, payload: bytes) -> None:
        self.sent += 1
        target = self._names.get(address, "")
        self.on_datagram(source, target, payload)
        copies = 1 + (self.random.random() < self.wire.duplication)
        for _ in range(copies):
            if self.random.random() >= self.wire.loss and not self.wire.cut(source, target):
                self._deliver(source, target, payload)

    def _deliver(self, source: str, target: str, payload: bytes) -> None:
        from_address = self.nodes[source].address

        def deliver() -> None:
            if target in self.nodes:
                self.nodes[target].core.receive(payload, from_address, self.now)
                self.settle(target)

        self.at(self.now + self.random.uniform(*self.wire.delay), deliver)

    def _sync(self, source: str, request: SyncRequest) -> None:
        """TCP: whole or not at all."""
        target = self._names.get(request.address, "")
        core = self.nodes[source].core
        trip = self.random.uniform(*self.wire.delay)

        def answered(reply: bytes | None) -> None:
            if source in self.nodes and self.nodes[source].core is core:
                core.sync_answered(request.ticket, reply, self.now)
                self.settle(source)

        def arrive() -> None:
            reply = None
            if target in self.nodes and not self.wire.cut(source, target):
                reply = self.nodes[target].core.receive_sync(request.payload, self.now)
                self.settle(target)
            self.at(self.now + trip, lambda: answered(reply))

        self.at(self.now + trip, arrive)


def groups(*parts: Iterable[str]) -> Callable[[str, str], bool]:
    """A cut between the groups, for Wire.cut; who is in none of them still reaches everybody."""
    of = {name: index for index, part in enumerate(parts) for name in part}
    return lambda source, target: source in of and target in of and of[source] != of[target]
