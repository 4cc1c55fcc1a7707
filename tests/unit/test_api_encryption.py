"""What operators ask of the nodes' kernels: whom, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from tests.unit.control_api import NO_CONTEXT, MadeUpManagers, make_api, make_swarm
from tests.unit.local_raft import edit, put

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import encryption_pb2 as encryption
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.store import Store


class Nodes:
    """Node w1 answers, w2 has no session. `asked`: what, and whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[dispatcher.Question, list[str]]] = []

    async def ask(
        self, node_ids: Collection[str], question: dispatcher.Question
    ) -> dict[str, dispatcher.Answer]:
        self.asked.append((question, list(node_ids)))
        return {each: self._answer(each) for each in node_ids}

    @staticmethod
    def _answer(node_id: str) -> dispatcher.Answer:
        if node_id == "node-w2":
            return dispatcher.Answer(error="it has no session")
        tunnel = encryption.Tunnel(peer_node_id="node-w2", epoch=1)
        network = encryption.NetworkEncryption(network_id="net-front", tunnels=[tunnel])
        peers = [encryption.PeerProbes(peer_node_id="node-w2", sent=10)]
        return dispatcher.Answer(
            encryption=encryption.NodeEncryption(networks=[network]),
            probes=encryption.NodeProbes(peers=peers),
        )


@pytest.fixture
def swarm() -> Store:
    """Tasks of the encrypted network on both workers."""
    made = make_swarm()
    for name in ("w1", "w2"):
        task = types.Task(
            meta=types.Meta(id=f"task-{name}"),
            node_id=f"node-{name}",
            state=types.TASK_STATE_RUNNING,
            desired_state=types.TASK_STATE_RUNNING,
            spec=types.ServiceSpec(networks=["net-front"]),
        )
        put(made.state, task)
    return made


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def api(swarm: Store, nodes: Nodes) -> Control:
    return make_api(swarm, MadeUpManagers(), nodes.ask)


@pytest.mark.parametrize("networks", [[], ["front"]])
async def test_all_nodes_of_the_networks_are_asked(networks: list[str], api: Control, nodes: Nodes) -> None:
    found = await api.GetEncryption(control.GetEncryptionRequest(networks=networks), NO_CONTEXT)
    ((question, whom),) = nodes.asked
    assert (list(question.encryption.network_ids), whom) == (["net-front"], ["node-w1", "node-w2"])
    answered, silent = found.nodes
    assert (answered.node_id, answered.hostname, answered.error) == ("node-w1", "w1", "")
    assert [network.name for network in answered.networks] == ["front"]
    assert answered.networks[0].tunnels[0].peer_hostname == "w2"
    assert (silent.hostname, silent.error) == ("w2", "it has no session")


async def test_all_nodes_of_a_network_probe_each_other(api: Control, nodes: Nodes) -> None:
    found = await api.VerifyEncryption(control.VerifyEncryptionRequest(network="front"), NO_CONTEXT)
    ((question, whom),) = nodes.asked
    assert (question.probe.network_id, whom) == ("net-front", ["node-w1", "node-w2"])
    assert [(node.hostname, node.error) for node in found.nodes] == [("w1", ""), ("w2", "it has no session")]
    assert found.nodes[0].peers[0].peer_hostname == "w2"


async def test_a_plain_network_has_nothing_to_show(api: Control, nodes: Nodes) -> None:
    with pytest.raises(FailedPrecondition, match="network plain is not encrypted"):
        await api.GetEncryption(control.GetEncryptionRequest(networks=["plain"]), NO_CONTEXT)
    with pytest.raises(FailedPrecondition, match="network plain is not encrypted"):
        await api.VerifyEncryption(control.VerifyEncryptionRequest(network="plain"), NO_CONTEXT)
    assert nodes.asked == []


async def test_one_node_has_nobody_to_send_to(api: Control, swarm: Store, nodes: Nodes) -> None:
    edit(swarm.state, types.Task, "task-w2", lambda t: setattr(t, "state", types.TASK_STATE_SHUTDOWN))
    with pytest.raises(FailedPrecondition, match="tasks on 1 nodes"):
        await api.VerifyEncryption(control.VerifyEncryptionRequest(network="front"), NO_CONTEXT)
    assert nodes.asked == []
