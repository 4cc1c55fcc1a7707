"""Who has something else: digests in pings and acks show it, and one of the two tells the other.

members   a young difference: what has changed of late, in one datagram; one that lasts: a sync
tables    the vector, in one datagram, and the deltas in answer; where it does not fit, or at first: a sync
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip import messages
from swarmnet.core.gossip.members import Member
from swarmnet.core.gossip.network import Network
from swarmnet.core.gossip.swim import Swim
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.keys import GOSSIP_SCOPE


class Differences:
    """`send(scope, member, body)`; `ask(scope, node id)` begins a sync. `room`: bytes of a body."""

    def __init__(
        self,
        *,
        swim: Swim,
        networks: Mapping[str, Network],
        timing: Timing,
        send: Callable[[str, Member, bytes], None],
        ask: Callable[[str, str], None],
        room: int,
    ) -> None:
        self._swim = swim
        self._networks = networks
        self._timing = timing
        self._send = send
        self._ask = ask
        self.room = room
        self._agreed_at = 0.0
        self._started_at = 0.0
        self._told_at = 0.0

    def start(self, now: float) -> None:
        self._agreed_at = self._started_at = now

    def ping(self, target: str, sequence: int, speaks: Callable[[str], bool]) -> pb.Ping:
        """With the digests of the members, and of one network that both are on, the networks taking turns."""
        ping = pb.Ping(sequence=sequence, members=self._swim.digest)
        shared = [n for n in self._networks.values() if target in n.peers and speaks(n.id)]
        if shared:
            network = shared[sequence % len(shared)]
            ping.network, ping.table = network.tag, network.digest
        return ping

    def members(self, member: Member, digest: int, now: float) -> None:
        """A difference that lasts is settled by a sync; a young one by telling what has changed of late. Who
        has just started lacks much, and waits for less."""
        if not digest:
            return  # an ack that was passed on
        if digest == self._swim.digest:
            self._agreed_at = now
        elif now - self._agreed_at > self._patience_s(now):
            self._agreed_at = now
            self._ask(GOSSIP_SCOPE, member.node_id)
        elif now - self._told_at > self._timing.round_period_s:
            self._told_at = now
            self._send_recent(member, now)

    def _patience_s(self, now: float) -> float:
        """A quarter of the time that it has been there, within bounds."""
        age_s = now - self._started_at
        return min(max(age_s / 4, self._timing.first_sync_s), self._timing.sync_period_s)

    def _send_recent(self, member: Member, now: float) -> None:
        frames, room = [], self.room
        for rumor in self._swim.recent(now - self._timing.recent_s):
            frame = messages.rumor_frame(rumor)
            if (room := room - len(frame)) < 0:
                break
            frames.append(frame)
        self._send(GOSSIP_SCOPE, member, b"".join(frames))

    def table(self, network: Network, member: Member, digest: int, now: float) -> None:
        """The sender's table has that digest. While news is on its way they differ anyway: then this node
        asks what it lacks only now and then."""
        if member.node_id not in network.peers:
            return
        if digest == network.digest:
            network.agreed_at = now
            return
        if network.news and now - network.compared_at < self._timing.sync_period_s:
            return
        network.compared_at = now
        vector = network.vector(self.room)
        if network.agreed_at and (vector.whole or now - network.agreed_at < self._timing.sync_period_s):
            self._send(network.id, member, pb.NetworkDatagram(vector=vector).SerializeToString())
        else:
            network.agreed_at = now
            self._ask(network.id, member.node_id)

    def answer(self, network: Network, member: Member, vector: pb.Vector, now: float) -> None:
        """Tell what is lacking there; ask for what is lacking here, if it may be asked."""
        if member.node_id not in network.peers or network.disputes(vector, now):
            return
        body: list[bytes] = []
        room = self.room
        for frame in network.repairs(vector):
            if len(frame) > room:
                self._send(network.id, member, b"".join(body))
                body, room = [], self.room
            body.append(frame)
            room -= len(frame)
        if body:
            self._send(network.id, member, b"".join(body))
        if vector.answer and (lacking := network.lacking(vector)) is not None:
            self._send(network.id, member, pb.NetworkDatagram(vector=lacking).SerializeToString())
