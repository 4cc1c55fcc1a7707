"""The control API on a store without Raft, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf.duration_pb2 import Duration
from tests.unit.local_raft import LocalRaft, fill, network, node, service

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.control.surroundings import Surroundings
from swarmnet.manager.store import Store

Call: TypeAlias = Callable[[Control], Awaitable[object]]
HERE = "node-m1"
NO_CONTEXT: Any = None


@dataclass
class MadeUpManagers:
    members: dict[str, bool] = field(default_factory=lambda: {HERE: True})
    """Node id -> whether it can be reached."""

    def leader_id(self) -> str:
        return HERE

    def reachable(self, node_id: str) -> bool:
        return self.members[node_id]

    def is_member(self, node_id: str) -> bool:
        return node_id in self.members

    async def remove(self, node_id: str) -> None:
        del self.members[node_id]


class WatchContext:
    """grpc's, as far as Watch needs it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def send_initial_metadata(self, metadata: object) -> None:
        self.begun.set()


def make_swarm() -> Store:
    """Two workers, two managers, the networks `front` and `plain`, and the service `web` on `front`."""
    made = Store()
    made.attach(LocalRaft(made))
    web = service("web", 2, ["net-front"])
    here = types.Node(
        meta=types.Meta(id=HERE),
        role=types.ROLE_MANAGER,
        hostname="m1",
        index=8,
        bootstrap_address="192.0.2.11:2378",
    )
    gone = types.Node(meta=types.Meta(id="node-m2"), role=types.ROLE_MANAGER, hostname="m2", index=9)
    fill(
        made.state,
        node("w1", 1),
        node("w2", 2, state=types.NODE_STATE_DOWN),
        here,
        gone,
        network("front"),
        network("plain", "10.0.2.0/24", 2, encrypted=False),
        web,
    )
    return made


def make_api(swarm: Store, managers: MadeUpManagers) -> Control:
    return Control(Surroundings(HERE, "192.0.2.11:2378", swarm, managers, lambda scope: ("node-w1",)))


def create_network(**fields: Any) -> Call:
    request = control.CreateNetworkRequest(**{"name": "new", "driver": "overlay", **fields})
    return lambda api: api.CreateNetwork(request, NO_CONTEXT)


def create_service(**fields: Any) -> Call:
    spec = types.ServiceSpec(**{"name": "new", "image": "host", "replicas": 1, **fields})
    return lambda api: api.CreateService(control.CreateServiceRequest(spec=spec), NO_CONTEXT)


def named(rpc: str, ref: str, **fields: Any) -> Call:
    kinds = {
        "AttachNetwork": control.AttachNetworkRequest,
        "ScaleService": control.ScaleServiceRequest,
        "RemoveNode": control.RemoveNodeRequest,
        "RotateKeys": control.RotateKeysRequest,
        "UpdateNode": control.UpdateNodeRequest,
    }
    request = kinds.get(rpc, control.GetRequest)(ref=ref, **fields)
    return lambda api: getattr(api, rpc)(request, NO_CONTEXT)


def update_period(seconds: int) -> Call:
    request = control.UpdateClusterRequest(key_rotation_period=Duration(seconds=seconds))
    return lambda api: api.UpdateCluster(request, NO_CONTEXT)
