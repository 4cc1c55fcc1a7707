"""What the nodes' kernels really do to the packets of encrypted networks, asked of the nodes themselves."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import encryption_pb2 as encryption
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.entitlement import entitled
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun


class EncryptionNoun(Noun):
    async def GetEncryption(
        self, request: control.GetEncryptionRequest, context: object
    ) -> control.GetEncryptionResponse:
        networks = [self._encrypted(ref) for ref in request.networks] or self._all_encrypted()
        nodes = sorted({node for network in networks for node in self._holders(network)})
        ids = [network.meta.id for network in networks]
        question = dispatcher.Question(encryption=encryption.EncryptionQuestion(network_ids=ids))
        answers = await self._here.ask(nodes, question)
        return control.GetEncryptionResponse(
            nodes=[self._node_encryption(node, answers[node]) for node in nodes]
        )

    async def VerifyEncryption(
        self, request: control.VerifyEncryptionRequest, context: object
    ) -> control.VerifyEncryptionResponse:
        network = self._encrypted(request.network)
        nodes = sorted(self._holders(network))
        if len(nodes) < 2:
            raise FailedPrecondition(
                f"network {network.name} has tasks on {len(nodes)} nodes: there are no packets between nodes",
                hint="Give it tasks on two nodes at least, for example `swarmnet service scale SERVICE=2`.",
            )
        question = dispatcher.Question(probe=encryption.ProbeQuestion(network_id=network.meta.id))
        answers = await self._here.ask(nodes, question)
        return control.VerifyEncryptionResponse(
            nodes=[self._node_probes(node, answers[node]) for node in nodes]
        )

    def _encrypted(self, ref: str) -> types.Network:
        network = lookup.network(self._store.state, ref)
        if not network.encrypted:
            raise FailedPrecondition(
                f"network {network.name} is not encrypted",
                hint="Networks are encrypted from the start: `swarmnet network create --opt encrypted NAME`.",
            )
        return network

    def _all_encrypted(self) -> list[types.Network]:
        return [each for each in self._store.state.all(types.Network) if each.encrypted]

    def _holders(self, network: types.Network) -> frozenset[str]:
        return entitled(self._store.state, network.meta.id)

    def _node_encryption(self, node_id: str, answer: dispatcher.Answer) -> encryption.NodeEncryption:
        found = answer.encryption
        found.node_id, found.hostname, found.error = node_id, self._hostname(node_id), answer.error
        for network in found.networks:
            known = self._store.state.get(types.Network, network.network_id)
            network.name = known.name if known is not None else ""
            for tunnel in network.tunnels:
                tunnel.peer_hostname = self._hostname(tunnel.peer_node_id)
        return found

    def _node_probes(self, node_id: str, answer: dispatcher.Answer) -> encryption.NodeProbes:
        found = answer.probes
        found.node_id, found.hostname, found.error = node_id, self._hostname(node_id), answer.error
        for peer in found.peers:
            peer.peer_hostname = self._hostname(peer.peer_node_id)
        return found

    def _hostname(self, node_id: str) -> str:
        node = self._store.state.get(types.Node, node_id)
        return node.hostname if node is not None else ""
