"""The control API on a store without Raft, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from tests.unit.local_raft import LocalRaft, fill, network, node, service

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.control.surroundings import Ask, Surroundings
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.standing import Standing
from swarmnet.manager.raft.storage import Sizes
from swarmnet.manager.store import Store

Call: TypeAlias = Callable[[Control], Awaitable[object]]
HERE = "node-m1"
NO_CONTEXT: Any = None


@dataclass
class MadeUpRaft:
    """`asked`: whom leadership was to be handed over to."""

    now: Standing = Standing(7, True, HERE, 99, 98, 100, 6, 60, 41, {"node-m2": 90})  # noqa: RUF009  frozen
    asked: list[str | None] = field(default_factory=list)

    async def standing(self) -> Standing:
        return self.now

    async def sizes(self) -> Sizes:
        return Sizes(4096, 1234)

    def heard_ago_s(self, node_id: str) -> float | None:
        return 1.5 if node_id == "node-m2" else None

    async def transfer(self, node_id: str | None = None) -> str:
        self.asked.append(node_id)
        return node_id or "node-m2"


@dataclass
class MadeUpManagers:
    known: dict[str, bool] = field(default_factory=lambda: {HERE: True})
    """Node id -> whether it can be reached."""
    part: MadeUpRaft = field(default_factory=MadeUpRaft)
    channel: grpc.aio.Channel | None = None

    def raft(self) -> MadeUpRaft:
        return self.part

    def members(self) -> dict[str, Member]:
        return {each: Member(each, f"{each}:2377", f"{each}:2374") for each in self.known}

    def leader_channel(self) -> grpc.aio.Channel | None:
        return self.channel

    def leader_id(self) -> str:
        return HERE

    def reachable(self, node_id: str) -> bool:
        return self.known[node_id]

    def is_member(self, node_id: str) -> bool:
        return node_id in self.known

    async def remove(self, node_id: str) -> None:
        del self.known[node_id]


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


async def nobody_answers(
    node_ids: Collection[str], question: dispatcher.Question
) -> dict[str, dispatcher.Answer]:
    return dict.fromkeys(node_ids, dispatcher.Answer(error="not asked"))


def make_api(swarm: Store, managers: MadeUpManagers, ask: Ask = nobody_answers) -> Control:
    def waiting(scope: str) -> tuple[str, ...]:
        return ("node-w1",)

    return Control(Surroundings(HERE, "192.0.2.11:2378", swarm, managers, waiting, ask))


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


def update_deadline(seconds: int) -> Call:
    request = control.UpdateClusterRequest(key_rotation_deadline=Duration(seconds=seconds))
    return lambda api: api.UpdateCluster(request, NO_CONTEXT)


def update_period(seconds: int) -> Call:
    request = control.UpdateClusterRequest(key_rotation_period=Duration(seconds=seconds))
    return lambda api: api.UpdateCluster(request, NO_CONTEXT)
