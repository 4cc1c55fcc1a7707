"""What the nouns of the control API work with, and how they make ids."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc.aio

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.ids import make_id
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.standing import Standing
from swarmnet.manager.raft.storage import Sizes
from swarmnet.manager.store import Store


class RaftPart(Protocol):
    """This manager's part in Raft."""

    async def standing(self) -> Standing: ...

    async def sizes(self) -> Sizes: ...

    def heard_ago_s(self, node_id: str) -> float | None: ...

    async def transfer(self, node_id: str | None = None) -> str: ...


class Managers(Protocol):
    """The managers as Raft sees them."""

    def raft(self) -> RaftPart: ...

    def members(self) -> dict[str, Member]: ...

    def leader_channel(self) -> grpc.aio.Channel | None: ...

    def leader_id(self) -> str:
        """Empty when none is known."""

    def reachable(self, node_id: str) -> bool: ...

    def is_member(self, node_id: str) -> bool: ...

    async def remove(self, node_id: str) -> None: ...


Ask: TypeAlias = Callable[
    [Collection[str], dispatcher.Question], Coroutine[Any, Any, Mapping[str, dispatcher.Answer]]
]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`node_id` and `bootstrap_address` are this manager's; `waiting_for`: who still owes a scope's step;
    `ask` gives an answer of each node, or why it has none."""

    node_id: str
    bootstrap_address: str
    store: Store
    managers: Managers
    waiting_for: Callable[[str], tuple[str, ...]]
    ask: Ask
    refused: Callable[[SwarmnetError, types.Network], None] = lambda error, network: None
    """Tell that a call about the network was turned away."""


B = TypeVar("B", bound=Callable[..., object])


def confirms_itself(behaviour: B) -> B:
    """Marks an rpc whose answers rest on a commit or a read barrier of its own: it needs none before."""
    behaviour.confirms_itself = True  # type: ignore[attr-defined]
    return behaviour


class Noun:
    """The part of the control API about one kind of object."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._here = surroundings
        self._store = surroundings.store


def new_id(request_id: str = "") -> str:
    """A new object's id; the same one for the same request id, which is how a retry finds its object."""
    if request_id:
        return make_id(hashlib.sha256(b"swarmnet/1 request" + request_id.encode()).digest()[:16])
    return make_id(secrets.token_bytes(16))
