"""What a worker is wished to have while it is killed: keys that rotate, tasks that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.kernel.hosts import NETWORK, PORT, VNI, epoch

from swarmnet.core.datapath.desired import (
    Desired,
    DesiredNetwork,
    DesiredTask,
    Peer,
    RemoteEndpoint,
    TaskAttachment,
)
from swarmnet.core.endpoints import mac_of
from swarmnet.core.epochs import Role, epochs

NUMBERS = {"w1": 1, "w2": 2}


def underlay(name: str) -> str:
    return f"10.133.0.{NUMBERS[name]}"


def ip(name: str, slot: int) -> str:
    return f"10.0.1.{10 * NUMBERS[name] + slot}"


def task_id(name: str, slot: int) -> str:
    return f"task{NUMBERS[name]}{slot}".ljust(25, "x")


@dataclass(frozen=True, slots=True)
class Wish:
    """Live epochs of one network, and how many tasks each of two workers has on it."""

    live: tuple[tuple[int, Role], ...]
    slots: int

    @classmethod
    def of(cls, told: dict[str, Any]) -> Wish:
        return cls(tuple((number, Role(role)) for number, role in told["epochs"]), told["slots"])

    def told(self) -> dict[str, Any]:
        return {"epochs": [(number, role.value) for number, role in self.live], "slots": self.slots}

    def desired(self, name: str) -> Desired:
        (other,) = set(NUMBERS) - {name}
        slots = range(1, self.slots + 1)
        network = DesiredNetwork(
            id=NETWORK,
            index=1,
            vni=VNI,
            port=PORT,
            encrypted=True,
            subnets=("10.0.1.0/24",),
            peers=(Peer(other, NUMBERS[other], underlay(other)),),
            epochs=epochs(NETWORK, [epoch(number, role) for number, role in self.live]),
            endpoints=tuple(
                RemoteEndpoint(ip(other, slot), mac_of(ip(other, slot)), other) for slot in slots
            ),
        )
        tasks = tuple(
            DesiredTask(
                task_id(name, slot),
                (TaskAttachment(NETWORK, (f"{ip(name, slot)}/24",), mac_of(ip(name, slot))),),
            )
            for slot in slots
        )
        return Desired(name, NUMBERS[name], underlay(name), (network,), tasks)


def wishes() -> Iterator[Wish]:
    """One after the other, for ever: rotations in three steps each, a second task in every other step."""
    for number in count(1):
        steps = (
            ((number, Role.CURRENT),),
            ((number, Role.CURRENT), (number + 1, Role.NEXT)),
            ((number, Role.PREVIOUS), (number + 1, Role.CURRENT)),
        )
        for at, live in enumerate(steps):
            yield Wish(live, 1 + (number + at) % 2)
