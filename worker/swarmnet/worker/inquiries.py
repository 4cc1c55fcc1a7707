"""Answers to what operators ask of this node through the managers. They change nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import encryption_pb2 as encryption
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.epochs import Role
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.timestamps import stamp
from swarmnet.worker.datapath.probes import PeerProbes
from swarmnet.worker.datapath.tunnels import NetworkTunnels, Tunnel
from swarmnet.worker.datapath.xfrm import SaUse

_ROLES: Final = {
    Role.NEXT: types.EPOCH_ROLE_NEXT,
    Role.CURRENT: types.EPOCH_ROLE_CURRENT,
    Role.PREVIOUS: types.EPOCH_ROLE_PREVIOUS,
}


class Kernel(Protocol):
    """What is asked of the data path."""

    @property
    def firewall(self) -> str: ...
    async def counters(self) -> dict[str, int]: ...
    async def tunnels(self) -> tuple[NetworkTunnels, ...]: ...
    async def probe(self, network_id: str) -> list[PeerProbes]: ...


async def answer(question: dispatcher.Question, kernel: Kernel) -> dispatcher.Answer:
    """Whatever happens is in the answer."""
    found = dispatcher.Answer(id=question.id)
    try:
        if question.HasField("encryption"):
            wanted = frozenset(question.encryption.network_ids)
            networks = [each for each in await kernel.tunnels() if not wanted or each.network_id in wanted]
            found.encryption.CopyFrom(_encryption(networks, await kernel.counters(), kernel.firewall))
        elif question.HasField("probe"):
            probed = await kernel.probe(question.probe.network_id)
            found.probes.CopyFrom(encryption.NodeProbes(peers=[_probes(each) for each in probed]))
        else:
            found.error = "this node's swarmnet-worker does not know that question"
    except (SwarmnetError, OSError) as error:
        found.error = str(error)
    return found


def _encryption(
    networks: list[NetworkTunnels], counters: Mapping[str, int], firewall: str
) -> encryption.NodeEncryption:
    return encryption.NodeEncryption(
        networks=[
            encryption.NetworkEncryption(
                network_id=each.network_id,
                sending=each.sending,
                guarded=each.guarded,
                tunnels=[_tunnel(tunnel) for tunnel in each.tunnels],
            )
            for each in networks
        ],
        counters=counters,
        firewall=firewall,
    )


def _tunnel(tunnel: Tunnel) -> encryption.Tunnel:
    made = encryption.Tunnel(peer_node_id=tunnel.peer, epoch=tunnel.epoch, role=_ROLES[tunnel.role])
    ends = ((made.outbound, tunnel.outbound), (made.inbound, tunnel.inbound))
    for spi, (end, use) in zip(tunnel.spis, ends, strict=True):
        if use is not None:
            end.CopyFrom(_end(spi, use))
    return made


def _end(spi: int, use: SaUse) -> encryption.TunnelEnd:
    return encryption.TunnelEnd(
        spi=spi,
        packets=use.packets,
        bytes=use.octets,
        added_at=stamp(use.added_at),
        outside_window=use.replay_window,
        replayed=use.replayed,
        not_authentic=use.integrity_failed,
    )


def _probes(of: PeerProbes) -> encryption.PeerProbes:
    return encryption.PeerProbes(
        peer_node_id=of.peer,
        sent=of.sent,
        encrypted=of.encrypted,
        decrypted=of.decrypted,
        seen_out=of.seen_out,
        seen_in=of.seen_in,
        plaintext_out=of.plaintext_out,
        plaintext_in=of.plaintext_in,
    )
