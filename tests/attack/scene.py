"""Three workers with real data paths and a host without one at a bridge; what reaches tasks and wires.

    network   encrypted   tasks on
    a         yes         w1, w2, and another on w2 that turns hostile
    b         yes         w1, w2, w3
    p         no          w1, w2

w3 is the hostile worker: it has b's keys and none of a's. `x` is the hostile host. The victim is w1.
"""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from tests.attack.packets import ARP, IPV4, Seal, ethernet, raw_mac
from tests.kernel.hosts import TASK_PORT, Host, Lab

from swarmnet.cli.demo.wire import is_vxlan_port
from swarmnet.core.datapath.desired import (
    Desired,
    DesiredNetwork,
    DesiredTask,
    Peer,
    RemoteEndpoint,
    TaskAttachment,
)
from swarmnet.core.endpoints import mac_of
from swarmnet.core.epochs import Epoch, Role, epochs
from swarmnet.core.keys import EpochSecret, esp_key, spi
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.datapath.namespaces import Namespaces

T = TypeVar("T")
LEGIT: Final = b"said by a task of ours "
FORGED: Final = b"forged"
_SETTLED_S: Final = 0.12
"""Nothing for so long: what was sent has come, or will not. One CPU does all, in the order of sending."""
_TALK_S: Final = 10.0
_RCVBUF_FORCE: Final = 33
_ALL: Final = 3
_FRAME_BYTES: Final = 1 << 14


class Net(NamedTuple):
    letter: str
    number: int
    """Its index; 10.0.<number>.0/24 is its subnet."""
    vni: int
    port: int
    encrypted: bool
    members: tuple[int, ...]
    """Numbers of its hosts."""

    @property
    def id(self) -> str:
        return self.letter.ljust(25, "n")

    def ip(self, host: int, slot: int = 1) -> str:
        return f"10.0.{self.number}.{10 * host + slot}"

    def task_id(self, host: int, slot: int = 1) -> str:
        return f"{self.letter}{host}{slot}".ljust(25, "x")


A: Final = Net("a", 1, 4097, 20001, encrypted=True, members=(1, 2))
B: Final = Net("b", 2, 4098, 20002, encrypted=True, members=(1, 2, 3))
P: Final = Net("p", 3, 4099, 4789, encrypted=False, members=(1, 2))
NETS: Final = (A, B, P)
HOSTILE_SLOT: Final = 2
_SLOTS: Final = {(A, 2): 2}


def slots(net: Net, host: int) -> range:
    return range(1, 1 + _SLOTS.get((net, host), 1))


@dataclass(slots=True)
class Seen:
    """What came of some packets.

    `alien`: frames in tasks that none of ours sent them. `heard`: frames of ours in the task they were for.
    `leaked`: frames of encrypted networks in clear that left an honest host.
    """

    alien: int = 0
    heard: int = 0
    leaked: int = 0


class Ear:
    """Judges all frames that come in at one place, through a packet socket of that place."""

    def __init__(self, made: socket.socket, judge: Callable[[Seen, str, bytes], None]) -> None:
        made.setsockopt(socket.SOL_SOCKET, _RCVBUF_FORCE, 1 << 24)
        made.setblocking(False)
        self.socket = made
        self._judge = judge

    def read(self, seen: Seen) -> None:
        while True:
            try:
                frame, (link, _, kind, *_) = self.socket.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            if kind != socket.PACKET_OUTGOING:
                self._judge(seen, link, frame)


def at_task(ip: str) -> Callable[[Seen, str, bytes], None]:
    """How the task with that address judges what it gets: every MAC of ours is made from its IP address."""

    def judge(seen: Seen, _: str, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14])
        if kind == IPV4 and LEGIT in frame and _text(frame[26:30]) != ip == _text(frame[30:34]):
            seen.heard += 1
        elif kind != ARP or raw_mac(mac_of(_text(frame[28:32]))) != frame[22:28]:
            seen.alien += 1

    return judge


def _text(raw: bytes) -> str:
    return socket.inet_ntoa(raw)


def on_wire(honest: frozenset[str]) -> Callable[[Seen, str, bytes], None]:
    """How the underlay judges what enters it from a host: by its text, and by the ports of VXLAN in clear."""

    def judge(seen: Seen, link: str, frame: bytes) -> None:
        if link not in honest:
            return
        udp = frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP
        port = int.from_bytes(frame[36:38]) if udp else 0
        seen.leaked += LEGIT in frame or (port != P.port and is_vxlan_port(port))

    return judge


class Scene:
    """Built on entering the context, with traffic that passes between all tasks but the hostile one."""

    def __init__(self, directory: Path) -> None:
        self._lab = Lab(directory)
        self._exits = ExitStack()
        self._numbers: dict[int, int] = {}
        self._epoch = 1
        self.encap = False

    def __enter__(self) -> Self:
        self._exits.callback(self._lab.close)
        try:
            self._build()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _build(self) -> None:
        self.w1, self.w2, self.w3 = (self._lab.host(name) for name in ("w1", "w2", "w3"))
        self.workers = (self.w1, self.w2, self.w3)
        self.stranger = self._lab.bare("x")
        self.apply(self._live(Role.CURRENT))
        wires = {each: each.here(_packet_socket) for each in (*self.workers, self.stranger)}
        self._wires = {host: self._exits.enter_context(wire) for host, wire in wires.items()}
        for wire in self._wires.values():
            wire.bind(("eth0", 0))
        self._ears = [self._ear(net, host, slot) for net, host, slot in self.places()]
        with self._lab.namespaces.entered("underlay"):
            tap = self._exits.enter_context(_packet_socket(_ALL))
        self._ears.append(Ear(tap, on_wire(frozenset({"w1", "w2"}))))
        self._speakers = {
            (net, host.number): self._exits.enter_context(host.task_socket(net.task_id(host.number)))
            for net in NETS
            for host in self._hosts(net)
        }
        self.hostile = self._exits.enter_context(self.in_task(A, self.w2, HOSTILE_SLOT, _packet_socket))
        self.hostile.bind(("eth0", 0))
        self._talk_once()

    def places(self) -> Iterator[tuple[Net, Host, int]]:
        for net in NETS:
            for host in self._hosts(net):
                for slot in slots(net, host.number):
                    yield net, host, slot

    def _hosts(self, net: Net) -> list[Host]:
        return [self.workers[number - 1] for number in net.members]

    def _ear(self, net: Net, host: Host, slot: int) -> Ear:
        made = self.in_task(net, host, slot, lambda: _packet_socket(_ALL))
        return Ear(self._exits.enter_context(made), at_task(net.ip(host.number, slot)))

    def in_task(self, net: Net, host: Host, slot: int, make: Callable[[], T]) -> T:
        path = host.datapath.task_namespace(net.task_id(host.number, slot))

        def enter() -> T:
            with Namespaces(path.parent).entered(path.name):
                return make()

        return host.here(enter)

    # What the managers would send

    def _live(self, *roles: Role) -> tuple[tuple[int, Role], ...]:
        first = self._epoch - (1 if roles[0] is Role.PREVIOUS else 0)
        return tuple((first + at, role) for at, role in enumerate(roles))

    def secret(self, net: Net, number: int) -> EpochSecret:
        return EpochSecret(net.id, number, SecretBytes(bytes((net.number, number)) * 16))

    def apply(self, live: tuple[tuple[int, Role], ...], *hosts: Host) -> None:
        for host in hosts or self.workers:
            told = host.apply(self.desired(host, live))
            problems = [each.error for each in told.networks.values() if each.error]
            assert (problems, told.tasks) == ([], {})

    def desired(self, host: Host, live: tuple[tuple[int, Role], ...]) -> Desired:
        nets = [net for net in NETS if host.number in net.members]
        tasks = tuple(self._task(net, host, slot) for net in nets for slot in slots(net, host.number))
        networks = tuple(self._network(net, host, live) for net in nets)
        return Desired(host.name, host.number, host.address, networks, tasks, encap=self.encap)

    @staticmethod
    def _task(net: Net, host: Host, slot: int) -> DesiredTask:
        ip = net.ip(host.number, slot)
        place = TaskAttachment(net.id, (f"{ip}/24",), mac_of(ip))
        return DesiredTask(net.task_id(host.number, slot), (place,))

    def _network(self, net: Net, host: Host, live: tuple[tuple[int, Role], ...]) -> DesiredNetwork:
        peers = [each for each in self._hosts(net) if each is not host]
        ends = [(net.ip(each.number, slot), each) for each in peers for slot in slots(net, each.number)]
        return DesiredNetwork(
            id=net.id,
            index=net.number,
            vni=net.vni,
            port=net.port,
            encrypted=net.encrypted,
            subnets=(f"10.0.{net.number}.0/24",),
            peers=tuple(Peer(each.name, each.number, each.address, encap=self.encap) for each in peers),
            epochs=epochs(net.id, [Epoch(self.secret(net, number), role) for number, role in live]),
            endpoints=tuple(RemoteEndpoint(ip, mac_of(ip), each.name) for ip, each in ends),
        )

    def prepare_rotation(self) -> None:
        """To where both epochs are live and the new one is sent with."""
        self.apply(self._live(Role.CURRENT, Role.NEXT))
        self._epoch += 1
        self.apply(self._live(Role.PREVIOUS, Role.CURRENT))

    def rotate(self) -> None:
        self.prepare_rotation()
        self.apply(self._live(Role.CURRENT))

    def renew(self) -> None:
        """Back to order after anything: what is missing is put in, and all SAs are replaced."""
        self.encap = False
        for host in self.workers:
            guard = host.datapath._guard
            assert guard is not None
            host.run(guard.install())
            host.run(host.datapath.reconcile())
        self.rotate()
        self.in_task(B, self.w1, 1, _forget_neighbours)

    # Attackers' means

    def seal(self, net: Net, source: Host, to: Host, epoch: int = 0) -> Seal:
        """The SA from one host to another in that epoch, or the current one."""
        number = epoch or self._epoch
        key = esp_key(self.secret(net, number), source.name, to.name)
        return Seal(spi(net.number, source.number, number), key)

    def next_number(self, seal: Seal) -> int:
        """A sequence number that the SA's real sender is far from, another each time."""
        self._numbers[seal.spi] = self._numbers.get(seal.spi, 1 << 20) + 1
        return self._numbers[seal.spi]

    def put(self, source: Host, to: Host, packet: bytes) -> None:
        """An IPv4 packet from a host's interface to another's, past everything of the sender's kernel."""
        self._wires[source].send(ethernet(mac_of(to.address), mac_of(source.address), IPV4, packet))

    def speak(self, net: Net, source: int, to: int, text: bytes = LEGIT) -> None:
        """A datagram from one task to another. Refused by policy it is lost, as one on the way would be."""
        try:
            self._speakers[net, source].sendto(text, (net.ip(to), TASK_PORT))
        except PermissionError:
            return

    def packet_of(self, net: Net, source: int, to: int, text: bytes = LEGIT) -> bytes:
        """What the task's host sent on the underlay for a datagram: an IPv4 packet. It is delivered, too."""
        host = self.workers[source - 1]
        with self._lab.capture(host) as frames:
            self.speak(net, source, to, text)
            self.settle(Seen())
        (packet,) = [
            each[14:] for each in frames if each[6:12] == raw_mac(mac_of(host.address)) and _ip(each)
        ]
        return packet

    # Watching

    def settle(self, seen: Seen) -> None:
        """Reads until nothing more comes."""
        sockets = [ear.socket for ear in self._ears]
        while select.select(sockets, [], [], _SETTLED_S)[0]:
            for ear in self._ears:
                ear.read(seen)

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """What comes of whatever is sent within, known once the block has ended."""
        self.settle(Seen())
        seen = Seen()
        yield seen
        self.settle(seen)

    def _talk_once(self) -> None:
        """Until every pair's neighbours are known and packets pass both ways."""
        deadline = time.monotonic() + _TALK_S
        pairs = [(net, a, b) for net in NETS for a in net.members for b in net.members if a != b]
        while True:
            with self.watched() as seen:
                for net, source, to in pairs:
                    self.speak(net, source, to)
            if (seen.heard, seen.alien) == (len(pairs), 0):
                return
            assert time.monotonic() < deadline, f"the scene's own traffic does not pass: {seen}"


def _forget_neighbours() -> None:
    """A task that believed forged ARP asks again."""
    subprocess.run(["ip", "neigh", "flush", "all"], check=True, capture_output=True)


def _packet_socket(protocol: int = 0) -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))


def _ip(frame: bytes) -> bool:
    return int.from_bytes(frame[12:14]) == IPV4
