"""Desired data paths for the tests of it."""

from __future__ import annotations

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

SELF = "self"
ROLES = {
    "stable": ((1, Role.CURRENT),),
    "prepared": ((1, Role.CURRENT), (2, Role.NEXT)),
    "switched": ((1, Role.PREVIOUS), (2, Role.CURRENT)),
    "retired": ((2, Role.CURRENT),),
    "none": (),
}


def live(scope: str, roles: tuple[tuple[int, Role], ...]) -> list[Epoch]:
    return [
        Epoch(EpochSecret(scope, number, SecretBytes(bytes([number]) * 32)), role) for number, role in roles
    ]


def peer(number: int) -> Peer:
    return Peer(f"node{number}", number, f"10.133.0.{number}")


def network(
    index: int = 1, *, phase: str = "stable", peers: tuple[int, ...] = (2, 3), encrypted: bool = True
) -> DesiredNetwork:
    """Each peer n has the endpoint 10.0.<index>.n."""
    id_ = f"net{index}".ljust(25, "0")
    ends = ((f"10.0.{index}.{number}", f"node{number}") for number in peers)
    return DesiredNetwork(
        id=id_,
        index=index,
        vni=4095 + index,
        port=20000 + index if encrypted else 4789,
        encrypted=encrypted,
        subnets=(f"10.0.{index}.0/24",),
        peers=tuple(peer(number) for number in peers),
        epochs=epochs(id_, live(id_, ROLES[phase])),
        endpoints=tuple(RemoteEndpoint(ip, mac_of(ip), node) for ip, node in ends),
    )


def task(slot: int, *networks: DesiredNetwork) -> DesiredTask:
    """Has the address 10.0.<index>.<100 + slot> on each network."""
    places = ((each, f"10.0.{each.index}.{100 + slot}") for each in networks)
    return DesiredTask(
        f"task{slot}".ljust(25, "0"),
        tuple(TaskAttachment(each.id, (f"{ip}/24",), mac_of(ip)) for each, ip in places),
    )


def desired(*networks: DesiredNetwork, tasks: tuple[DesiredTask, ...] = ()) -> Desired:
    return Desired(SELF, 1, "10.133.0.1", networks, tasks)
