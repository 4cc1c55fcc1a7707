"""All attacks as rows, with what docker swarm 20.10.24 did where it was attacked in the same way."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Final

from tests.attack import attacks
from tests.attack.row import NOT_MEASURED, Row, Wanted
from tests.attack.scene import B, Net, P, Scene

from swarmnet.core.datapath.desired import network_name


def flush(scene: Scene, *commands: str) -> None:
    """In the namespaces of w1 and w2."""
    for host in (scene.w1, scene.w2):
        for command in commands:
            host.here(partial(subprocess.run, command.split(), check=True, capture_output=True))


def in_network(scene: Scene, net: Net, command: str) -> None:
    """In the network's namespace on w1."""
    path = scene.w1.datapath.task_namespace("").with_name(network_name(net.id))
    subprocess.run(["nsenter", f"--net={path}", *command.split()], check=True, capture_output=True)


_FLUSHES: Final = {
    "iptables filter": ("iptables-legacy -t filter -F",),
    "iptables mangle": ("iptables-legacy -t mangle -F",),
    "iptables raw": ("iptables-legacy -t raw -F",),
    "iptables nat": ("iptables-legacy -t nat -F",),
    "all of nftables": ("nft flush ruleset",),
    "XFRM policies": ("ip xfrm policy flush",),
    "XFRM states": ("ip xfrm state flush",),
    "all of XFRM": ("ip xfrm policy flush", "ip xfrm state flush"),
}
_EVERYTHING: Final = tuple(command for commands in _FLUSHES.values() for command in commands)
_DOCKER_FLUSHES: Final = {"iptables filter": "5 of 5 delivered", "iptables mangle": "5 of 5 leaked"}


def _flushed(what: str) -> Row:
    return Row(
        f"flushed on both ends: {what}",
        attacks.in_clear_at_both,
        broken=lambda scene: flush(scene, *_FLUSHES[what]),
        renew=True,
        quiet="XFRM" in what,
        docker=_DOCKER_FLUSHES.get(what, NOT_MEASURED),
    )


def _unguarded(scene: Scene) -> None:
    flush(scene, *_EVERYTHING)


PLAINTEXT: Final = (
    Row(
        "plaintext VXLAN, every VNI and port, own address",
        partial(attacks.every_vni, spoofed=False),
        docker="0 delivered",
    ),
    Row(
        "plaintext VXLAN, every VNI and port, a worker's address",
        partial(attacks.every_vni, spoofed=True),
        docker="0 delivered",
    ),
    Row("plaintext VXLAN in fragments, a worker's address", attacks.in_fragments),
    *(_flushed(what) for what in _FLUSHES),
    Row(
        "control: both guards flushed, plaintext",
        attacks.in_clear,
        Wanted.ALL_IN,
        broken=_unguarded,
        renew=True,
    ),
    Row(
        "control: both guards flushed, plaintext in fragments",
        attacks.in_fragments,
        Wanted.ALL_IN,
        broken=_unguarded,
        renew=True,
    ),
    Row(
        "control: both guards flushed, what tasks say",
        attacks.in_clear,
        Wanted.ALL_OUT,
        broken=_unguarded,
        renew=True,
    ),
)
REPLAY: Final = (
    Row("captured ESP replayed at once", attacks.replayed, docker="5 of 5 delivered"),
    Row("captured ESP replayed while keys rotate", attacks.replayed_while_rotating, renew=True),
    Row("captured ESP replayed after a rotation", attacks.replayed_after_rotation),
    Row("captured ESP replayed to other nodes and back", attacks.replayed_elsewhere),
    Row(
        "control: replayed to a receiver that forgot",
        attacks.replayed_to_who_forgot,
        Wanted.ALL_IN,
        renew=True,
    ),
)
CHANGED: Final = (
    Row("ESP with a flipped bit, in each of its bytes", attacks.with_flipped_bits),
    Row("ESP with a wrong SPI", attacks.with_wrong_spi),
    Row("ESP truncated, to every length", attacks.truncated),
    Row("ESP with a flipped bit, in fragments", attacks.changed_in_fragments),
    Row("control: ESP unchanged", attacks.unchanged, Wanted.ALL_IN, renew=True),
    Row("control: ESP unchanged, in fragments", attacks.unchanged_in_fragments, Wanted.ALL_IN, renew=True),
)
MEMBER: Final = (
    Row("worker's own keys, another network's packets", attacks.for_another_network),
    Row("worker's own keys, another worker's source address", attacks.as_another_worker),
    Row("worker's own network, MACs of others", attacks.with_macs_of_others, renew=True),
    Row("worker's own network, forged ARP", attacks.arp_by_member, renew=True),
    Row("control: worker's own network, its own MAC", attacks.as_itself, Wanted.ALL_IN, renew=True),
    Row(
        "control: MAC of another worker's, MACs not bound",
        attacks.with_mac_of_another,
        Wanted.ALL_IN,
        broken=lambda scene: in_network(scene, B, "ip link set vx0 type vxlan nolearning"),
        renew=True,
    ),
    Row(
        "control: forged ARP, the ports' program gone",
        attacks.arp_by_member,
        Wanted.ALL_IN,
        broken=lambda scene: in_network(scene, B, "tc qdisc del dev vx0 clsact"),
        renew=True,
    ),
)
TASK: Final = (
    Row("task with raw sockets, MACs of others", attacks.macs_from_task),
    Row("task with raw sockets, forged ARP", attacks.arp_from_task),
    Row("control: task with raw sockets, its own MAC", attacks.honest_from_task, Wanted.ALL_IN),
)
IN_UDP: Final = (
    Row("UDP 4500: junk, while nobody uses it", partial(attacks.junk_in_udp, encap=False)),
    Row("UDP 4500: genuine ESP, while nobody uses it", partial(attacks.genuine_in_udp, encap=False)),
    Row("UDP 4500: junk, where ESP goes in UDP", partial(attacks.junk_in_udp, encap=True), renew=True),
    Row("ESP outside UDP, where ESP goes in UDP", attacks.genuine_not_in_udp, renew=True),
    Row(
        "control: UDP 4500: genuine ESP, where ESP goes in UDP",
        partial(attacks.genuine_in_udp, encap=True),
        Wanted.ALL_IN,
        renew=True,
    ),
)
PLAIN: Final = (
    Row(
        "plaintext VXLAN, own address",
        partial(attacks.in_clear, net=P, spoofed=False),
        Wanted.OPEN,
        network="plain",
    ),
    Row(
        "plaintext VXLAN, a worker's address",
        partial(attacks.in_clear, net=P),
        Wanted.OPEN,
        network="plain",
        docker="5 of 5 delivered",
    ),
    Row(
        "plaintext VXLAN in fragments, a worker's address",
        partial(attacks.in_fragments, net=P),
        Wanted.OPEN,
        network="plain",
    ),
    Row(
        "plaintext VXLAN, a wrong inner MAC",
        attacks.plain_wrong_mac,
        network="plain",
        docker="10 of 10 delivered",
    ),
)
GROUPS: Final = (PLAINTEXT, REPLAY, CHANGED, MEMBER, TASK, IN_UDP, PLAIN)
ROWS: Final = tuple(row for group in GROUPS for row in group)
