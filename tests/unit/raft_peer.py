"""The other end of Raft's connections, by hand: to say what no manager of ours would."""

from __future__ import annotations

import asyncio
import ssl
import struct
from dataclasses import dataclass

from google.protobuf.message import Message

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.raft.member import Member, host_and_port, message_of

DEADLINE_S = 5.0


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, mine: Credentials, to: Member, context: ssl.SSLContext | None = None) -> Peer:
        """With `mine`, at `to`'s Raft address."""
        context = context or PeerSecurity(lambda: mine).client()
        host, port = host_and_port(to.raft_address)
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=to.node_id)
        return cls(reader, writer)

    def send(self, *messages: Message) -> None:
        for each in messages:
            raw = each.SerializeToString()
            self.write(struct.pack("<I", len(raw)) + raw)

    def write(self, raw: bytes) -> None:
        self.writer.write(raw)

    def greet(self, me: Member) -> None:
        self.send(raft.RaftHello(member=message_of(me)))

    async def welcome(self) -> raft.RaftWelcome | None:
        """What it is told; None when the connection ended instead."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                (length,) = struct.unpack("<I", await self.reader.readexactly(4))
                return raft.RaftWelcome.FromString(await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            self.close()
            return None

    def close(self) -> None:
        self.writer.transport.abort()
