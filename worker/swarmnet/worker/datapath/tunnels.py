"""What the kernel's SAs really did, by network, peer and epoch: for operators, who want to see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swarmnet.core.datapath.desired import Desired, DesiredNetwork, Peer
from swarmnet.core.datapath.layout import Layout
from swarmnet.core.datapath.xfrm import Sa, SaId, guards, inbound_id, outbound_id
from swarmnet.core.epochs import Role
from swarmnet.worker.datapath.report import sending
from swarmnet.worker.datapath.xfrm import SaUse


@dataclass(frozen=True, slots=True)
class Tunnel:
    """With one peer, in one epoch. `outbound` and `inbound` are None where the kernel has no such SA."""

    peer: str
    epoch: int
    role: Role
    spis: tuple[int, int]
    outbound: SaUse | None
    inbound: SaUse | None


@dataclass(frozen=True, slots=True)
class NetworkTunnels:
    """`sending`: the epoch that packets leave with, 0 = none; `guarded`: both XFRM guards are there."""

    network_id: str
    sending: int
    guarded: bool
    tunnels: tuple[Tunnel, ...]


def network_tunnels(
    desired: Desired, actual: Layout, uses: Iterable[tuple[Sa, SaUse]]
) -> tuple[NetworkTunnels, ...]:
    """Of each encrypted network in `desired`."""
    by_id = {sa.id: use for sa, use in uses}
    return tuple(_network(desired, each, actual, by_id) for each in desired.networks if each.encrypted)


def _network(
    desired: Desired, network: DesiredNetwork, actual: Layout, uses: Mapping[SaId, SaUse]
) -> NetworkTunnels:
    live = network.epochs.numbers()
    return NetworkTunnels(
        network.id,
        sending(desired, network, actual, live),
        all(actual.policies.get(each.id) == each for each in guards(desired, network)),
        tuple(tunnel for peer in network.peers for tunnel in _of_peer(desired, network, peer, uses)),
    )


def _of_peer(
    desired: Desired, network: DesiredNetwork, peer: Peer, uses: Mapping[SaId, SaUse]
) -> Iterable[Tunnel]:
    for epoch in network.epochs.live:
        out = outbound_id(desired, network, peer, epoch.number)
        back = inbound_id(desired, network, peer, epoch.number)
        yield Tunnel(
            peer.node_id, epoch.number, epoch.role, (out.spi, back.spi), uses.get(out), uses.get(back)
        )
