"""The other managers as Raft sees them, and connections to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc.aio

from swarmnet.core.errors import NoLeader, Unavailable
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.node import RaftNode
from swarmnet.manager.tls import node_channel


class Peers:
    """Before `attach` there is no leader and nobody is a member."""

    def __init__(self, node_id: str, credentials: Callable[[], Credentials]) -> None:
        self._node_id = node_id
        self._credentials = credentials
        self._raft: RaftNode | None = None
        self._channel: grpc.aio.Channel | None = None
        self._channel_for: tuple[Member, Credentials] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def attach(self, raft: RaftNode) -> None:
        self._raft = raft

    def raft(self) -> RaftNode:
        """Unavailable before this manager is part of Raft."""
        if self._raft is None:
            raise Unavailable("this manager is just starting", hint="Ask again in a moment.")
        return self._raft

    def dial(self, member: Member) -> grpc.aio.Channel:
        """A channel that only this very node can answer."""
        return node_channel(self._credentials(), member.address, member.node_id)

    def leads(self) -> bool:
        return self._raft is not None and self._raft.is_leader

    def leader(self) -> Member | None:
        return self._raft.leader if self._raft is not None else None

    def leader_id(self) -> str:
        leader = self.leader()
        return leader.node_id if leader is not None else ""

    def members(self) -> dict[str, Member]:
        return dict(self._raft.members) if self._raft is not None else {}

    def addresses(self) -> list[str]:
        """host:port of every manager's API, where it was last seen."""
        return [each.address for each in self.members().values()]

    def is_member(self, node_id: str) -> bool:
        return node_id in self.members()

    def reachable(self, node_id: str) -> bool:
        if node_id == self._node_id:
            return True
        return self._raft is not None and self._raft.reachable(node_id)

    async def remove(self, node_id: str) -> None:
        if self._raft is None:
            raise NoLeader
        await self._raft.remove_member(node_id)

    def leader_channel(self) -> grpc.aio.Channel | None:
        """Kept as long as the same manager leads and our certificate is the same."""
        leader = self.leader()
        if leader is None or leader.node_id == self._node_id:
            return None
        wanted = (leader, self._credentials())
        if self._channel is None or self._channel_for != wanted:
            self._drop_channel()
            self._channel, self._channel_for = self.dial(leader), wanted
        return self._channel

    def _drop_channel(self) -> None:
        if self._channel is not None:
            closing = asyncio.create_task(self._channel.close(grace=1.0))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._channel = None

    async def close(self) -> None:
        self._drop_channel()
        await asyncio.gather(*self._closing)
