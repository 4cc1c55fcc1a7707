"""Hosts within one process: each a network namespace with a thread in it and a real Datapath; a bridge.

A socket stays in the namespace in which it was made, so tests talk as any task or attacker without a process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

from swarmnet.cli.demo.wire import ipv4, udp
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
from swarmnet.core.keys import EpochSecret
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath.datapath import Capability, Datapath
from swarmnet.worker.datapath.namespaces import Namespaces
from swarmnet.worker.datapath.netlink import NETLINK_XFRM, Netlink
from swarmnet.worker.datapath.report import Report

T = TypeVar("T")
TIMEOUT_S = 30.0
NETWORK = "net1aaaaaaaaaaaaaaaaaaaaa"
PORT = 20001
PLAIN_PORT = 4789
VNI = 4097
TASK_PORT = 7000


def epoch(number: int, role: Role, scope: str = NETWORK) -> Epoch:
    return Epoch(EpochSecret(scope, number, SecretBytes(bytes([number]) * 32)), role)


CURRENT = (epoch(1, Role.CURRENT),)
PREPARED = (epoch(1, Role.CURRENT), epoch(2, Role.NEXT))
SWITCHED = (epoch(1, Role.PREVIOUS), epoch(2, Role.CURRENT))
RETIRED = (epoch(2, Role.CURRENT),)


class Lab:
    """A bridge in a namespace of its own, and hosts at it, on an underlay of the IP version."""

    def __init__(self, directory: Path, ip_version: int = 4) -> None:
        self.directory = directory
        self.ip_version = ip_version
        self.namespaces = Namespaces(directory / "hosts")
        self.namespaces.create("underlay")
        self.hosts: list[Host] = []
        self.netlink = self.namespaces.netlink("underlay")
        self.netlink.execute(rt.new_bridge("br0", 1500))
        self.bridge = rt.list_links(self.netlink)["br0"].index

    def host(self, name: str) -> Host:
        """A host whose Datapath is started. The n-th has the node index n, and 10.133.0.n or fd00:133::n."""
        return self.bare(name).start()

    def bare(self, name: str) -> Host:
        """A host without anything of swarmnet."""
        number = len(self.hosts) + 1
        self.namespaces.create(name)
        own = self.namespaces.netlink(name)
        descriptor = self.namespaces.open(name)
        address = f"10.133.0.{number}" if self.ip_version == 4 else f"fd00:133::{number}"
        try:
            self.netlink.execute(
                rt.new_veth(
                    name, "eth0", bridge=self.bridge, mtu=1500, mac=mac_of(address), namespace=descriptor
                )
            )
        finally:
            os.close(descriptor)
        links = rt.list_links(own)
        eth0 = links["eth0"].index
        if self.ip_version == 6:
            self.namespaces.enable_ipv6(name, ["lo", "eth0"])
        bits = {4: 24, 6: 64}[self.ip_version]
        own.execute(rt.set_up(links["lo"].index), rt.new_address(eth0, f"{address}/{bits}"), rt.set_up(eth0))
        host = Host(self, name, number, address)
        self.hosts.append(host)
        return host

    @contextmanager
    def capture(self, host: Host) -> Iterator[list[bytes]]:
        """All frames that enter or leave the host meanwhile, once the block has ended."""
        frames: list[bytes] = []
        with self.namespaces.entered("underlay"):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with tap:
            tap.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
            tap.bind((host.name, 0))
            yield frames
            tap.setblocking(False)
            while True:
                try:
                    frames.append(tap.recv(1 << 16))
                except BlockingIOError:
                    return

    def replay(self, frame: bytes, host: Host) -> None:
        """Put a frame on the host's wire."""
        with self.namespaces.entered("underlay"):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with wire:
            wire.bind((host.name, 0))
            wire.send(frame)

    def close(self) -> None:
        """Unmounts everything, whatever the test left."""
        try:
            for host in self.hosts:
                host.close()
        finally:
            left = (Namespaces(self.directory / host.name / "run" / "netns") for host in self.hosts)
            for namespaces in (*left, self.namespaces):
                for name in namespaces.names():
                    namespaces.remove(name)


class Host:
    """One host. Everything of its Datapath happens on a thread in its namespace."""

    def __init__(self, lab: Lab, name: str, number: int, address: str) -> None:
        self.lab, self.name, self.number, self.address = lab, name, number, address
        self._loop = asyncio.new_event_loop()
        self._entered = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        assert self._entered.wait(TIMEOUT_S)
        self.datapath = self.new_datapath()
        self.capability: Capability | None = None

    def _live(self) -> None:
        with self.lab.namespaces.entered(self.name):
            self._entered.set()
            self._loop.run_forever()

    def new_datapath(self) -> Datapath:
        root = self.lab.directory / self.name
        return Datapath(root / "run", root / "state")

    def start(self) -> Host:
        self.capability = self.run(self.datapath.start())
        return self

    def apply(self, wanted: Desired) -> Report:
        return self.run(self.datapath.apply(wanted))

    def restart(self) -> None:
        """Another worker after SIGKILL: nothing was taken down, nothing is remembered."""
        self.run(self.datapath.close())
        self.datapath = self.new_datapath()
        self.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    def here(self, work: Callable[[], T]) -> T:
        """Call it on the host's thread, so in the host's namespace."""

        async def call() -> T:
            return work()

        return self.run(call())

    def xfrm(self) -> Netlink:
        return self.here(lambda: Netlink(NETLINK_XFRM))

    def udp(self) -> socket.socket:
        """A UDP socket of the host itself, on the underlay."""
        return self.here(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def task_socket(
        self, task_id: str, *, kind: int = socket.SOCK_DGRAM, family: int = socket.AF_INET
    ) -> socket.socket:
        """A socket of the task, UDP over IPv4 unless said otherwise."""
        path = self.datapath.task_namespace(task_id)

        def make() -> socket.socket:
            with Namespaces(path.parent).entered(path.name):
                return socket.socket(family, kind)

        made = self.here(make)
        made.bind(("0.0.0.0" if family == socket.AF_INET else "::", TASK_PORT))
        made.settimeout(2.0)
        return made

    def close(self) -> None:
        if self.capability is not None:
            self.run(self.datapath.remove_all())
        self.run(self.datapath.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


def task_ip(host: Host, slot: int = 1) -> str:
    return f"10.0.1.{10 * host.number + slot}"


def task_id(host: Host, slot: int = 1) -> str:
    return f"task{host.number}{slot}".ljust(25, "x")


def desired(
    host: Host,
    *peers: Host,
    live: tuple[Epoch, ...] = CURRENT,
    encrypted: bool = True,
    slots: int = 1,
) -> Desired:
    """One network with `slots` tasks on the host and on each peer."""
    ends = tuple(
        RemoteEndpoint(task_ip(peer, slot), mac_of(task_ip(peer, slot)), peer.name)
        for peer in peers
        for slot in range(1, slots + 1)
    )
    network = DesiredNetwork(
        id=NETWORK,
        index=1,
        vni=VNI,
        port=PORT if encrypted else PLAIN_PORT,
        encrypted=encrypted,
        subnets=("10.0.1.0/24",),
        peers=tuple(Peer(peer.name, peer.number, peer.address) for peer in peers),
        epochs=epochs(NETWORK, live),
        endpoints=ends,
    )
    tasks = tuple(
        DesiredTask(
            task_id(host, slot),
            (TaskAttachment(NETWORK, (f"{task_ip(host, slot)}/24",), mac_of(task_ip(host, slot))),),
        )
        for slot in range(1, slots + 1)
    )
    return Desired(host.name, host.number, host.address, (network,), tasks)


def udp_ports(frames: list[bytes]) -> set[int]:
    """Destination ports of the UDP packets among the frames."""
    return {
        struct.unpack_from("!H", frame, 36)[0]
        for frame in frames
        if frame[12:14] == b"\x08\x00" and frame[23] == 17
    }


def esp_count(frames: list[bytes]) -> int:
    """Frames with ESP right behind the IP header, of either version."""
    return sum(
        (frame[12:14] == b"\x08\x00" and frame[23] == 50) or (frame[12:14] == b"\x86\xdd" and frame[20] == 50)
        for frame in frames
    )


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def vxlan_datagram(source: str, destination: str, text: bytes = b"forged", *, mac: str = "") -> bytes:
    """What a VXLAN device would send for a UDP datagram between two tasks."""
    udp = struct.pack("!HHHH", 9, TASK_PORT, 8 + len(text), 0) + text
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp),
        1,
        0,
        64,
        17,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    ethernet = rt.raw_mac(mac_of(destination)) + rt.raw_mac(mac or mac_of(source)) + b"\x08\x00"
    return struct.pack("!II", 0x08000000, VNI << 8) + ethernet + ip + udp


def spoofed(source: Host, to: Host, port: int, payload: bytes) -> bytes:
    """A frame for `Lab.replay`: a UDP datagram as if `source` had sent it, without a checksum."""
    body = udp(port, payload)
    macs = rt.raw_mac(mac_of(to.address)) + rt.raw_mac(mac_of(source.address))
    if ip_address(to.address).version == 4:
        return macs + b"\x08\x00" + ipv4(source.address, to.address, 17, body)
    ends = ip_address(source.address).packed + ip_address(to.address).packed
    return macs + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + ends + body


def exchange(one: socket.socket, other: socket.socket, ip: str) -> bytes:
    """Send from one task to the other and back; what came back."""
    one.sendto(b"hello", (ip, TASK_PORT))
    data, sender = other.recvfrom(100)
    other.sendto(data + b" back", sender)
    return one.recv(100)


def silent(receiver: socket.socket, seconds: float = 0.5) -> bool:
    """Whether nothing arrives."""
    receiver.settimeout(seconds)
    try:
        receiver.recv(100)
    except TimeoutError:
        return True
    finally:
        receiver.settimeout(2.0)
    return False
