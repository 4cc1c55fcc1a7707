"""The gossip protocol of one worker, whole: bytes and time in, bytes and events out. No I/O, no clock.

    receive, receive_sync, sync_answered     what the wire brought
    tick(now)                                what time brought; call it after every input too
    take() -> Output                         what is to be sent and told
    next_deadline()                          when to call tick at the latest

All times are seconds of one monotonic clock. A message that is refused changes nothing but a counter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip import messages, sync
from swarmnet.core.gossip.events import (
    Datagram,
    EndpointsChanged,
    Event,
    MemberDown,
    MemberUp,
    Output,
    SyncRequest,
)
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.messages import Malformed
from swarmnet.core.gossip.network import Network
from swarmnet.core.gossip.randomness import Randomness, some
from swarmnet.core.gossip.seal import Kind, Opened, Refused, Sealer, overhead
from swarmnet.core.gossip.swim import Swim
from swarmnet.core.gossip.timers import Timers
from swarmnet.core.gossip.timing import MAX_DATAGRAM_BYTES, Timing
from swarmnet.core.gossip.verify import Verifier
from swarmnet.core.keys import GOSSIP_SCOPE


class _Chore(Enum):
    """What is done again and again."""

    JOIN = auto()
    SYNC = auto()
    RECONNECT = auto()
    DIGEST = auto()
    HOUSE = auto()


class Gossip:
    """`boot`: 32 random bits, new at each start. `started_ms`: the wall clock then, in ms since 1970; it
    is to be higher than at this node's last start, and if it is not, the others tell and the node goes above.
    """

    def __init__(
        self,
        node_id: str,
        address: str,
        *,
        boot: int,
        started_ms: int,
        randomness: Randomness,
        timing: Timing | None = None,
    ) -> None:
        self.node_id = node_id
        self._timing = timing or Timing()
        self._randomness = randomness
        self._started_ms = started_ms
        self._sealer = Sealer(node_id, boot)
        self._verifier = Verifier()
        self._out = Output()
        self._counters: Counter[str] = Counter()
        self._chores: Timers[_Chore] = Timers()
        self._seeds: dict[str, str] = {}
        self._networks: dict[str, Network] = {}
        self._peers: dict[str, frozenset[str]] = {}
        self._turns: list[str] = []
        self._tickets = sync.Tickets()
        me = Rumor(node_id, address, started_ms, State.ALIVE)
        self._swim = Swim(me, self._timing, randomness, self._send_cluster, self._happened)
        self._room = MAX_DATAGRAM_BYTES - overhead(node_id)

    # -- the wire and the time -----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._swim.start(now)
        for chore, period_s in (
            (_Chore.JOIN, self._timing.join_retry_s),
            (_Chore.SYNC, self._timing.sync_period_s),
            (_Chore.RECONNECT, self._timing.reconnect_period_s),
            (_Chore.DIGEST, self._timing.digest_period_s),
            (_Chore.HOUSE, self._timing.house_period_s),
        ):
            self._chores.set(now + period_s * self._randomness.random(), chore)

    def receive(self, datagram: bytes, source: str, now: float) -> None:
        """A datagram from `source` (IP:port, which proves nothing)."""
        self._counters["received"] += 1
        try:
            opened = self._open(datagram, Kind.DATAGRAM)
            if opened.scope == GOSSIP_SCOPE:
                self._heard_cluster(opened, source, now)
            else:
                self._heard_network(opened, now)
        except Malformed:
            self._counters["dropped_malformed"] += 1
        except Refused as refused:
            self._counters[refused.why.value] += 1

    def receive_sync(self, request: bytes, now: float) -> bytes | None:
        """The reply to a request by TCP; None: close the connection without a word."""
        try:
            opened = self._open(request, Kind.SYNC_REQUEST)
            ticket = self._merge(opened, now)
        except Malformed:
            self._counters["dropped_malformed"] += 1
            return None
        except Refused as refused:
            self._counters[refused.why.value] += 1
            return None
        self._counters["syncs_answered"] += 1
        return self._seal_sync(opened.scope, Kind.SYNC_REPLY, ticket)

    def sync_answered(self, ticket: int, reply: bytes | None, now: float) -> None:
        """The reply to the SyncRequest of that ticket; None: there was none."""
        asked = self._tickets.redeem(ticket)
        if asked is None or reply is None:
            self._counters["syncs_failed"] += 1
            return
        try:
            opened = self._open(reply, Kind.SYNC_REPLY)
            if (opened.scope, opened.sender) != (asked.scope, asked.node_id):
                raise Malformed("somebody else's reply")
            self._merge(opened, now, ticket)
            self._counters["syncs_done"] += 1
        except Malformed:
            self._counters["dropped_malformed"] += 1
        except Refused as refused:
            self._counters[refused.why.value] += 1

    def tick(self, now: float) -> None:
        while (chore := self._chores.due(now)) is not None:
            self._do(chore, now)
        self._swim.tick(now)
        self._send_rumors(now)
        for network in self._networks.values():
            self._send_news(network, now)

    def next_deadline(self) -> float:
        news = (network.news.due for network in self._networks.values())
        return min(
            self._chores.next_deadline(), self._swim.timers.next_deadline(), self._swim.rumors.due, *news
        )

    def take(self) -> Output:
        out, self._out = self._out, Output()
        self._counters["sent"] += len(out.datagrams)
        return out

    # -- what the worker's agent says ----------------------------------------------------------------------

    def set_epochs(self, epochs: Epochs) -> None:
        """The keys of a scope, whole; with the first ones it begins to speak there."""
        silent = not self._sealer.can_seal(epochs.scope)
        self._sealer.set_epochs(epochs)
        if silent and epochs.scope == GOSSIP_SCOPE:
            self._ask_seeds()
        elif silent and epochs.scope in self._networks:
            self._show(self._networks[epochs.scope], self._networks[epochs.scope].peers)

    def forget(self, scope: str) -> None:
        """Drop the scope's keys, and with them the network's table."""
        self._sealer.forget(scope)
        self._networks.pop(scope, None)

    def set_endpoint_key(self, public_key: bytes) -> None:
        self._verifier.set_key(public_key)

    def join(self, seeds: Iterable[tuple[str, str]]) -> None:
        """Nodes (id, IP:port) that may be there: tried at once, and again while they are absent."""
        self._seeds = {node_id: address for node_id, address in seeds if node_id != self.node_id}
        self._ask_seeds()

    def set_peers(self, network_id: str, peers: frozenset[str]) -> None:
        """The other nodes on the network, by the managers' word: nobody else is told anything of it."""
        peers -= {self.node_id}
        fresh = peers - self._peers.get(network_id, frozenset())
        self._peers[network_id] = peers
        if (network := self._networks.get(network_id)) is not None:
            if network.set_peers(peers):
                self._out.events.append(EndpointsChanged(network_id))
            self._show(network, fresh)

    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]], now: float) -> None:
        """This node's endpoints on the network, whole, with their signatures. Joins the network's table."""
        network = self._networks.get(network_id)
        if network is None:
            network = self._networks[network_id] = self._join_network(network_id)
        network.publish(endpoints, now)

    def leave_network(self, network_id: str, now: float) -> None:
        """Withdraw this node's endpoints and drop the table."""
        if (network := self._networks.get(network_id)) is not None:
            network.publish((), now)
            self._send_all_news(network, now)
            del self._networks[network_id]
        self._peers.pop(network_id, None)

    def leave(self, now: float) -> None:
        """Say goodbye everywhere; keep ticking for a moment, so that it is heard."""
        for network in self._networks.values():
            network.publish((), now)
        self._swim.leave(now)

    # -- what the worker's agent asks ----------------------------------------------------------------------

    def endpoints(self, network_id: str) -> tuple[Endpoint, ...]:
        """The other nodes' endpoints on the network, each vouched for by the managers."""
        network = self._networks.get(network_id)
        return network.endpoints() if network else ()

    def members(self) -> tuple[Rumor, ...]:
        """This node and all others, the dead ones for a while."""
        return tuple(self._swim.everything())

    def counters(self) -> dict[str, int]:
        total = Counter(self._counters)
        for network in self._networks.values():
            total.update(network.counters)
        return dict(total)

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        """The epochs that are accepted, and the one that is used to send; 0 = none."""
        epochs = self._sealer.epochs(scope)
        if epochs is None:
            return (), 0
        return epochs.numbers(), epochs.current.number if epochs.current else 0

    # -- messages in ---------------------------------------------------------------------------------------

    def _open(self, message: bytes, kind: Kind) -> Opened:
        opened = self._sealer.open(message)
        if opened.kind is not kind:
            raise Malformed(opened.kind.name)
        return opened

    def _heard_cluster(self, opened: Opened, source: str, now: float) -> None:
        body = messages.parse(pb.ClusterDatagram, opened.body)
        self._heard_rumors(messages.rumors(body.rumors), now)
        match body.WhichOneof("message"):
            case "ping":
                self._swim.on_ping(opened.sender, source, body.ping)
            case "ack":
                self._swim.on_ack(opened.sender, body.ack)
            case "nack":
                self._swim.on_nack(body.nack)
            case "ping_request":
                messages.check_address(body.ping_request.address)
                self._swim.on_ping_request(opened.sender, source, body.ping_request, now)

    def _heard_rumors(self, rumors: Iterable[Rumor], now: float) -> None:
        for rumor in rumors:
            if not self._swim.on_rumor(rumor, now):
                self._counters["dropped_rumor"] += 1

    def _heard_network(self, opened: Opened, now: float) -> None:
        body = messages.parse(pb.NetworkDatagram, opened.body)
        entries = messages.entries(opened.scope, body.entries)
        network = self._networks.get(opened.scope)
        if network is None:
            self._counters["dropped_not_joined"] += 1
            return
        if network.hear(entries, now):
            self._out.events.append(EndpointsChanged(network.id))
        if body.HasField("digest") and body.digest != network.digest():
            self._ask_sync(network.id, opened.sender)

    def _merge(self, opened: Opened, now: float, ticket: int | None = None) -> int:
        """Take over the other's view; `ticket`: what the message has to repeat. Returns the message's own."""
        if opened.scope == GOSSIP_SCOPE:
            body = messages.parse(pb.ClusterSync, opened.body)
            rumors = messages.rumors(body.rumors)
            self._check_ticket(body.ticket, ticket)
            self._heard_rumors(rumors, now)
            return body.ticket
        table = messages.parse(pb.NetworkSync, opened.body)
        entries = messages.entries(opened.scope, table.entries)
        self._check_ticket(table.ticket, ticket)
        network = self._networks.get(opened.scope)
        if network is None:
            raise Malformed("not on that network")
        if network.hear(entries, now):
            self._out.events.append(EndpointsChanged(network.id))
        return table.ticket

    def _check_ticket(self, said: int, expected: int | None) -> None:
        if expected is not None and said != expected:
            raise Malformed("another request's reply")

    # -- messages out --------------------------------------------------------------------------------------

    def _send(self, scope: str, address: str, body: bytes) -> None:
        if self._sealer.can_seal(scope):
            self._out.datagrams.append(Datagram(address, self._sealer.seal(scope, Kind.DATAGRAM, body)))

    def _send_cluster(self, address: str, message: pb.ClusterDatagram) -> None:
        """With as much news as there is room for."""
        message.rumors.extend(self._swim.rumors.peek(self._room - message.ByteSize()))
        self._send(GOSSIP_SCOPE, address, message.SerializeToString())

    def _send_rumors(self, now: float) -> None:
        if self._swim.rumors.due > now:
            return
        members = [member.address for member in self._swim.members.reachable()]
        if not members:
            self._swim.rumors.clear()
            return
        rumors = self._swim.rumors.round(self._room, len(members), now)
        body = pb.ClusterDatagram(rumors=rumors).SerializeToString()
        for address in some(self._randomness, members, self._timing.fanout):
            self._send(GOSSIP_SCOPE, address, body)

    def _send_news(self, network: Network, now: float) -> None:
        if network.news.due <= now:
            self._send_round(network, now)

    def _send_all_news(self, network: Network, now: float) -> None:
        """There is no later round: the table is about to go. Every item is told once, due or not."""
        for _ in range(len(network.news)):
            if network.news.untold:
                self._send_round(network, now)

    def _send_round(self, network: Network, now: float) -> None:
        peers = self._addresses(network.peers)
        if not peers:
            network.news.clear()  # whoever comes is shown the digest, and asks
            return
        entries = network.news.round(self._room, len(peers), now)
        body = pb.NetworkDatagram(entries=entries).SerializeToString()
        for _, address in some(self._randomness, peers, self._timing.fanout):
            self._send(network.id, address, body)

    def _show(self, network: Network, peers: Iterable[str]) -> None:
        """The digest to some of the peers: those that have another table ask for a sync."""
        body = pb.NetworkDatagram(digest=network.digest()).SerializeToString()
        for _, address in some(self._randomness, self._addresses(peers), self._timing.fanout):
            self._send(network.id, address, body)

    def _addresses(self, node_ids: Iterable[str]) -> list[tuple[str, str]]:
        """Of those that are there. Sorted: a set's order would make a simulation differ from run to run."""
        known = (self._swim.members.get(node_id) for node_id in sorted(node_ids))
        return [(member.node_id, member.address) for member in known if member and member.reachable]

    def _ask_sync(self, scope: str, node_id: str, address: str = "") -> None:
        member = self._swim.members.get(node_id)
        address = address or (member.address if member else "")
        if not address or not self._sealer.can_seal(scope):
            return
        if (ticket := self._tickets.issue(scope, node_id)) is not None:
            payload = self._seal_sync(scope, Kind.SYNC_REQUEST, ticket.number)
            self._out.syncs.append(SyncRequest(ticket.number, address, payload))

    def _seal_sync(self, scope: str, kind: Kind, ticket: int) -> bytes:
        if scope == GOSSIP_SCOPE:
            body = sync.cluster_body(ticket, self._swim.everything())
        else:
            body = sync.network_body(ticket, self._networks[scope].everything())
        return self._sealer.seal(scope, kind, body)

    # -- what is done again and again ----------------------------------------------------------------------

    def _do(self, chore: _Chore, now: float) -> None:
        match chore:
            case _Chore.JOIN:
                if not self._swim.members.reachable():
                    self._ask_seeds()
                self._chores.set(now + self._timing.join_retry_s, chore)
            case _Chore.SYNC:
                for member in some(self._randomness, self._swim.members.reachable(), 1):
                    self._ask_sync(GOSSIP_SCOPE, member.node_id)
                self._chores.set(now + self._timing.sync_period_s, chore)
            case _Chore.RECONNECT:
                for node_id, address in some(self._randomness, self._absent(), 1):
                    self._ask_sync(GOSSIP_SCOPE, node_id, address)
                self._chores.set(now + self._timing.reconnect_period_s, chore)
            case _Chore.DIGEST:
                self._show_one()
                self._chores.set(now + self._timing.digest_period_s, chore)
            case _Chore.HOUSE:
                self._keep_house(now)
                self._chores.set(now + self._timing.house_period_s, chore)

    def _ask_seeds(self) -> None:
        for node_id, address in some(self._randomness, self._absent(), self._timing.indirect_probes):
            self._ask_sync(GOSSIP_SCOPE, node_id, address)

    def _absent(self) -> list[tuple[str, str]]:
        """Seeds that are not here yet, and members that failed."""
        dead = {m.node_id: m.address for m in self._swim.members if m.state is State.DEAD}
        reachable = {member.node_id for member in self._swim.members.reachable()}
        return [each for each in (dead | self._seeds).items() if each[0] not in reachable]

    def _show_one(self) -> None:
        """One network's digest to one of its peers, the networks taking turns."""
        while self._networks:
            if not self._turns:
                self._turns = sorted(self._networks)
            if (network := self._networks.get(self._turns.pop())) is not None:
                self._show(network, [p for p, _ in some(self._randomness, self._addresses(network.peers), 1)])
                return

    def _keep_house(self, now: float) -> None:
        self._swim.members.forget_gone(now - self._timing.dead_keep_s)

        def known(node_id: str) -> bool:
            return self._swim.members.get(node_id) is not None

        for network in self._networks.values():
            if network.keep_house(known, now - self._timing.tombstone_keep_s):
                self._out.events.append(EndpointsChanged(network.id))

    def _join_network(self, network_id: str) -> Network:
        network = Network(
            network_id,
            self.node_id,
            verifier=self._verifier,
            timing=self._timing,
            started_ms=self._started_ms,
            gone=self._swim.members.gone,
        )
        network.set_peers(self._peers.get(network_id, frozenset()))
        self._show(network, network.peers)
        return network

    def _happened(self, event: Event) -> None:
        """A member came or went, its endpoints with it; a peer that came is shown the networks' digests."""
        self._out.events.append(event)
        if not isinstance(event, MemberUp | MemberDown):
            return
        for network in self._networks.values():
            if event.node_id in network.owners():
                self._out.events.append(EndpointsChanged(network.id))
            if isinstance(event, MemberUp) and event.node_id in network.peers:
                self._show(network, [event.node_id])
