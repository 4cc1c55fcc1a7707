"""What a hand undid in the kernel, told of the steps that mend it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from swarmnet.core.datapath.desired import DesiredNetwork, network_name
from swarmnet.core.datapath.plan import (
    BuildNetwork,
    BuildTask,
    DropForward,
    DropPolicy,
    DropSa,
    PutForward,
    PutPolicy,
    PutSa,
    RemoveNetwork,
    RemoveTask,
    ResizeNetwork,
    ResizeTask,
    Step,
)

_WORDS: Final[Mapping[type[Step], str]] = {
    PutSa: "SA put back",
    DropSa: "stray SA removed",
    PutPolicy: "policy put back",
    DropPolicy: "stray policy removed",
    PutForward: "forwarding entry put back",
    DropForward: "stray forwarding entry removed",
    BuildNetwork: "bridge or VXLAN device put back",
    ResizeNetwork: "MTU of the network set again",
    RemoveNetwork: "stray network removed",
    BuildTask: "task connected again",
    ResizeTask: "MTU of a task set again",
    RemoveTask: "stray task namespace removed",
}


def repairs(steps: Iterable[Step], of: Iterable[DesiredNetwork]) -> dict[str, str]:
    """By network id what was mended there, in words; "" has what belongs to none of these networks."""
    of = list(of)
    networks = {network_name(each.id): each.id for each in of}
    ports = {each.port: each.id for each in of if each.encrypted}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for step in steps:
        found[_network(step, networks, ports)][_WORDS[type(step)]] += 1
    return {
        network: ", ".join(f"{n} {what}" for what, n in sorted(found[network].items())) for network in found
    }


def _network(step: Step, networks: Mapping[str, str], ports: Mapping[int, str]) -> str:
    match step:
        case PutSa() | DropSa():
            return ports.get(step.sa.port, "")
        case PutPolicy() | DropPolicy():
            return ports.get(step.policy.id.port, "")
        case BuildTask() | ResizeTask() | RemoveTask():
            return ""
        case _:
            return networks.get(step.network, "")
