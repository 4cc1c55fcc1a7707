"""What the kernel really has of what was wanted: the worker's acknowledgement to the managers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmnet.core.datapath.desired import Desired, DesiredNetwork, network_name
from swarmnet.core.datapath.layout import Layout
from swarmnet.core.datapath.xfrm import (
    SaId,
    guards,
    inbound_id,
    outbound_id,
    peer_policy,
)
from swarmnet.core.keys import spi


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """`installed`: epochs whose SAs are all there; `sending`: the epoch of all policies, 0 if they differ.

    `error` is empty if all is as wanted. `exhausted`: the current epoch's key should not be used any longer.
    """

    installed: tuple[int, ...] = ()
    sending: int = 0
    error: str = ""
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Of each desired network; of each task that is not connected, why; and what a hand had undone, by
    network ("": of none)."""

    networks: dict[str, NetworkReport] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)


def installed(desired: Desired, network: DesiredNetwork, wanted: Layout, actual: Layout) -> tuple[int, ...]:
    """The epochs that can be received and sent with, for each peer; all live ones on a plain network."""
    if network_name(network.id) not in actual.networks:
        return ()
    if not network.encrypted:
        return network.epochs.numbers()
    if any(actual.policies.get(guard.id) != guard for guard in guards(desired, network)):
        return ()

    def there(id_: SaId) -> bool:
        return id_ in wanted.sas and actual.sas.get(id_) == wanted.sas[id_]

    return tuple(
        number
        for number in network.epochs.numbers()
        if all(
            there(inbound_id(desired, network, peer, number))
            and there(outbound_id(desired, network, peer, number))
            for peer in network.peers
        )
    )


def sending(desired: Desired, network: DesiredNetwork, actual: Layout, received: tuple[int, ...]) -> int:
    """The epoch that packets to every peer leave with; without peers, the current one."""
    current = network.epochs.current
    if current is None or current.number not in received:
        return 0
    if not network.encrypted:
        return current.number
    used = set()
    for peer in network.peers:
        policy = peer_policy(desired, network, peer)
        used.add(actual.policies[policy.id].spi if policy and policy.id in actual.policies else 0)
    by_spi = {spi(network.index, desired.node_index, number): number for number in received}
    return by_spi.get(used.pop(), 0) if len(used) == 1 else (0 if used else current.number)


def report(
    desired: Desired,
    wanted: Layout,
    actual: Layout,
    failures: Mapping[str, str],
    exhausted: frozenset[str],
) -> dict[str, NetworkReport]:
    """By network id. `failures` and `exhausted` go by namespace names and network ids respectively."""
    found = {}
    for network in desired.networks:
        received = installed(desired, network, wanted, actual)
        found[network.id] = NetworkReport(
            received,
            sending(desired, network, actual, received),
            failures.get(network_name(network.id), ""),
            network.id in exhausted,
        )
    return found
