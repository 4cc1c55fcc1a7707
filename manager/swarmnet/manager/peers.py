"""The other managers as Raft sees them, and connections to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc.aio

from swarmnet.client.pipe import Pipe
from swarmnet.core.errors import NoLeader, Unavailable
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.node import RaftNode
from swarmnet.manager.tls import node_channel

_GRACE_S: Final = 1.0
_UNTIL_ITS_CALLS_END_S: Final = 10 * 365 * 86400.0
"""A worker's session lasts for as long as both ends do."""


class Peers:
    """Before `attach` there is no leader and nobody is a member."""

    def __init__(self, node_id: str, credentials: Callable[[], Credentials]) -> None:
        self._node_id = node_id
        self._credentials = credentials
        self._raft: RaftNode | None = None
        self._channel: grpc.aio.Channel | None = None
        self._channel_for: tuple[Member, Credentials] | None = None
        self._parting: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._pipe: Pipe | None = None
        self._ending: set[asyncio.Task[None]] = set()

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
            if self._channel_for is not None and self._channel_for[0] == leader:  # renewed
                self._drop_channel(_UNTIL_ITS_CALLS_END_S)
            else:
                self._drop_all()
            self._channel, self._channel_for = self.dial(leader), wanted
        return self._channel

    def leader_pipe(self) -> Pipe:
        """For all calls that go to the leader, over its channel; NoLeader when there is none."""
        if (channel := self.leader_channel()) is None:
            raise NoLeader
        if self._pipe is None or self._pipe.ended is not None:
            self._pipe = Pipe(channel)
        return self._pipe

    def _drop_channel(self, grace_s: float) -> None:
        """It takes no new calls; those under way go on until they end, or for so long."""
        if self._channel is not None:
            self._part_with(self._channel, grace_s)
        if self._pipe is not None:
            ending = asyncio.create_task(self._pipe.close(grace_s))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._channel = self._pipe = None

    def _drop_all(self) -> None:
        for channel in list(self._parting):
            self._part_with(channel, _GRACE_S)
        self._drop_channel(_GRACE_S)

    def _part_with(self, channel: grpc.aio.Channel, grace_s: float) -> None:
        if (earlier := self._parting.pop(channel, None)) is not None:
            earlier.cancel()
        self._parting[channel] = parting = asyncio.create_task(channel.close(grace_s))
        parting.add_done_callback(lambda done: self._parted(channel, done))

    def _parted(self, channel: grpc.aio.Channel, done: asyncio.Task[None]) -> None:
        if self._parting.get(channel) is done:
            del self._parting[channel]

    async def close(self) -> None:
        self._drop_all()
        await asyncio.gather(*self._parting.values(), *self._ending)
