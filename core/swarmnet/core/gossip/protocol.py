"""The gossip protocol of one worker, whole: bytes and time in, bytes and events out. No I/O, no clock.

    receive, receive_sync, sync_begun, sync_answered     what the wire brought
    tick(now)                                            what time brought; call it after every input too
    take() -> Output                                     what is to be sent and told
    next_deadline()                                      when to call tick at the latest

All times are seconds of one monotonic clock. A message that is refused changes nothing but a counter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip import messages
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.differences import Differences
from swarmnet.core.gossip.events import (
    Datagram,
    EndpointsChanged,
    Event,
    MemberDown,
    MemberUp,
    Output,
    SyncRequest,
)
from swarmnet.core.gossip.exchange import Exchange, Takers
from swarmnet.core.gossip.fanout import Fanout
from swarmnet.core.gossip.limits import MAX_DATAGRAM_BYTES, MAX_META_BYTES, MIN_DATAGRAM_BYTES
from swarmnet.core.gossip.members import Member, Rumor, State
from swarmnet.core.gossip.names import Malformed, unpack_id
from swarmnet.core.gossip.network import Network
from swarmnet.core.gossip.pace import Pace
from swarmnet.core.gossip.randomness import Randomness, some
from swarmnet.core.gossip.seal import OVERHEAD_BYTES, Derive, Opened, Refusal, Refused, Sealer, gossip_cipher
from swarmnet.core.gossip.swim import Surroundings, Swim
from swarmnet.core.gossip.table import LamportClock
from swarmnet.core.gossip.timers import Timers
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.gossip.verify import Verifier
from swarmnet.core.keys import GOSSIP_SCOPE


class _Chore(Enum):
    """What is done again and again."""

    JOIN = auto()
    RECONNECT = auto()
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
        derive: Derive = gossip_cipher,
        verifier: Verifier | None = None,
    ) -> None:
        self.node_id = node_id
        self._timing = timing or Timing()
        self._randomness = randomness
        self._sealer = Sealer(node_id, boot, derive)
        self._verifier = verifier or Verifier()
        self._out = Output()
        self._counters: Counter[str] = Counter()
        self._chores: Timers[_Chore] = Timers()
        self._seeds: dict[str, str] = {}
        self._networks: dict[str, Network] = {}
        self._by_tag: dict[int, Network] = {}
        self._peers: dict[str, frozenset[str]] = {}
        self._clock = LamportClock(started_ms)
        self._pace = Pace(self._timing, randomness)
        self._fanout = Fanout(node_id)
        self._room = MAX_DATAGRAM_BYTES - OVERHEAD_BYTES
        around = Surroundings(
            self._send_cluster,
            lambda member: self._exchange.ask(GOSSIP_SCOPE, member.node_id),
            self._happened,
            self._sealer.meet,
            self._ping,
        )
        me = Rumor(node_id, address, started_ms, State.ALIVE, boot=boot)
        self._swim = Swim(me, self._timing, randomness, Broadcast(self._timing, self._pace), around)
        takers = Takers(self._heard_rumors, self._heard_deltas)
        self._exchange = Exchange(
            sealer=self._sealer,
            swim=self._swim,
            networks=self._networks,
            takers=takers,
            counters=self._counters,
            requests=self._request,
        )
        self._differences = Differences(
            swim=self._swim,
            networks=self._networks,
            timing=self._timing,
            send=self._send,
            ask=self._exchange.ask,
            room=self._room,
        )

    # -- the wire and the time -----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._differences.start(now)
        self._swim.start(now)
        for chore in _Chore:
            self._chores.set(now + self._timing.join_retry_s * self._randomness.random(), chore)

    def receive(self, datagram: bytes, now: float) -> None:
        self._counters["received"] += 1
        try:
            opened = self._sealer.open(datagram)
            if opened.scope == GOSSIP_SCOPE:
                self._heard_cluster(opened, now)
            else:
                self._heard_network(opened, now)
        except (Malformed, Refused) as refused:
            self._count(refused)

    def receive_sync(self, request: bytes, challenge: bytes, now: float) -> bytes | None:
        """The reply to a request by TCP, made for the challenge that this node gave; None: close the
        connection without a word."""
        try:
            sender, reply = self._exchange.answer(request, challenge, now)
        except (Malformed, Refused) as refused:
            self._count(refused)
            return None
        self._spoke(sender, now)
        return reply

    def sync_begun(self, ticket: int, challenge: bytes) -> bytes | None:
        """What to send to the listener that gave this challenge; None: nothing, close the connection."""
        return self._exchange.begun(ticket, challenge)

    def sync_answered(self, ticket: int, reply: bytes | None, now: float) -> None:
        """The reply to the SyncRequest of that ticket; None: there was none."""
        try:
            sender = self._exchange.answered(ticket, reply, now)
        except (Malformed, Refused) as refused:
            self._count(refused)
        else:
            if sender is not None:
                self._spoke(sender, now)

    def tick(self, now: float) -> None:
        while (due := self._chores.due(now)) is not None:
            self._do(due.value, now)
        self._swim.tick(now)
        if self._swim.rumors.due <= now:
            self._send_rumors(now)
        for network in self._networks.values():
            if network.news.due <= now:
                self._send_news(network, now)

    def next_deadline(self) -> float:
        news = (network.news.due for network in self._networks.values())
        timers = self._swim.timers.next_deadline()
        return min(self._chores.next_deadline(), timers, self._swim.rumors.due, *news)

    def take(self) -> Output:
        out, self._out = self._out, Output()
        self._counters["sent"] += len(out.datagrams)
        return out

    def limit_datagrams(self, most_bytes: int) -> None:
        """Some path carries no more than that in one datagram."""
        room = min(self._room, max(most_bytes, MIN_DATAGRAM_BYTES) - OVERHEAD_BYTES)
        self._room = self._differences.room = room

    # -- what the worker's agent says ----------------------------------------------------------------------

    def set_epochs(self, epochs: Epochs) -> None:
        """The keys of a scope, whole; with the first ones it begins to speak there."""
        silent = not self._sealer.can_seal(epochs.scope)
        self._sealer.set_epochs(epochs)
        if silent and epochs.scope == GOSSIP_SCOPE:
            self._ask_seeds()
        elif silent and (network := self._networks.get(epochs.scope)) is not None:
            self._ask_peer(network)

    def forget(self, scope: str) -> None:
        """Drop the scope's keys, and with them the network's table."""
        self._sealer.forget(scope)
        self._drop(scope)

    def set_endpoint_key(self, public_key: bytes) -> None:
        self._verifier.set_key(public_key)

    def set_meta(self, meta: bytes, now: float) -> None:
        """What this node says of itself, to all. ValueError beyond MAX_META_BYTES."""
        if len(meta) > MAX_META_BYTES:
            raise ValueError(f"more than {MAX_META_BYTES} bytes")
        self._swim.say(now, meta=meta)

    def join(self, seeds: Iterable[tuple[str, str]]) -> None:
        """Nodes (id, IP:port) that may be there: tried at once, and again while they are absent."""
        self._seeds = {node_id: address for node_id, address in seeds if node_id != self.node_id}
        self._ask_seeds()

    def set_peers(self, network_id: str, peers: frozenset[str]) -> None:
        """The other nodes on the network, by the managers' word: nobody else is told anything of it."""
        peers -= {self.node_id}
        self._peers[network_id] = peers
        if (network := self._networks.get(network_id)) is not None and network.set_peers(peers):
            self._out.events.append(EndpointsChanged(network_id))

    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]], now: float) -> None:
        """This node's endpoints on the network, whole, with their signatures. Joins the network's table."""
        network = self._networks.get(network_id)
        if network is None:
            network = self._join_network(network_id)
        network.publish(endpoints, now)

    def leave_network(self, network_id: str, now: float) -> None:
        """Withdraw this node's endpoints and drop the table."""
        if (network := self._networks.get(network_id)) is not None:
            network.publish((), now)
            while network.news.untold:
                self._send_news(network, now)
            self._drop(network_id)
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

    def sizes(self) -> dict[str, int]:
        """What is held at this moment: each falls back when things are quiet."""
        networks = self._networks.values()
        return {
            "members": len(self._swim.members),
            "probes": self._swim.load(),
            "syncs": len(self._exchange),
            "queued": len(self._swim.rumors) + sum(len(network.news) for network in networks),
            "entries": sum(network.size() for network in networks),
        }

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        """The epochs that are accepted, and the one that is used to send; 0 = none."""
        return self._sealer.installed(scope)

    # -- messages in ---------------------------------------------------------------------------------------

    def _count(self, refused: Malformed | Refused) -> None:
        self._counters[(refused.why if isinstance(refused, Refused) else Refusal.MALFORMED).value] += 1

    def _heard_cluster(self, opened: Opened, now: float) -> None:
        body = messages.parse(pb.ClusterDatagram, opened.body)
        if rumors := messages.rumors(body.rumors):
            self._heard_rumors(rumors, now)
        kind = body.WhichOneof("message")
        if (member := self._swim.members.get(opened.sender)) is None or kind is None:
            return
        if kind == "ping":
            ping = body.ping
            self._swim.on_ping(member, ping)
            self._differences.members(member, ping.members, now)
            if (network := self._by_tag.get(ping.network)) is not None:
                self._differences.table(network, member, ping.table, now)
        elif kind == "ack":
            self._swim.on_ack(member, body.ack, now)
            self._differences.members(member, body.ack.members, now)
        elif kind == "nack":
            self._swim.on_nack(body.nack)
        else:
            target = unpack_id(body.ping_request.target)
            self._swim.on_ping_request(member, body.ping_request, target, now)

    def _heard_rumors(self, rumors: Iterable[Rumor], now: float) -> None:
        for rumor in rumors:
            if not self._swim.on_rumor(rumor, now):
                self._counters["dropped_rumor"] += 1

    def _heard_network(self, opened: Opened, now: float) -> None:
        body = messages.parse(pb.NetworkDatagram, opened.body)
        network = self._networks.get(opened.scope)
        if network is None:
            self._counters["dropped_not_joined"] += 1
            return
        self._heard_deltas(network, body.deltas, now)
        if body.HasField("vector") and (member := self._swim.members.get(opened.sender)) is not None:
            self._differences.answer(network, member, body.vector, now)

    def _heard_deltas(self, network: Network, deltas: Iterable[bytes], now: float) -> None:
        if network.hear(deltas, now):
            self._changed(network)

    def _changed(self, network: Network) -> None:
        self._out.events.append(EndpointsChanged(network.id))

    def _spoke(self, sender: str, now: float) -> None:
        """That node has just proved to be there; and if it turns out that somebody has spoken for it, what
        was sealed for this node's boot is worth nothing any more."""
        self._swim.spoke(sender)
        if self._sealer.usurped:
            self._counters["rebound"] += 1
            boot = self._swim.me.boot + 1 & 0xFFFF_FFFF
            self._sealer.rebind(boot)
            self._swim.say(now, boot=boot)

    # -- messages out --------------------------------------------------------------------------------------

    def _ping(self, target: str, sequence: int) -> pb.Ping:
        return self._differences.ping(target, sequence, self._sealer.can_seal)

    def _send(self, scope: str, member: Member, body: bytes) -> None:
        if self._sealer.can_seal(scope):
            payload = self._sealer.seal(scope, body, member.to)
            self._out.datagrams.append(Datagram(member.rumor.address, payload))

    def _send_cluster(self, member: Member, message: pb.ClusterDatagram) -> None:
        """With as much news as there is room for."""
        body = message.SerializeToString()
        self._send(GOSSIP_SCOPE, member, body + self._swim.rumors.frames(self._room - len(body)))

    def _send_rumors(self, now: float) -> None:
        self._spread(GOSSIP_SCOPE, self._swim.rumors, self._fanout, self._swim.members.reachable(), now)

    def _send_news(self, network: Network, now: float) -> None:
        self._spread(network.id, network.news, network.fanout, network.targets(self._swim.members), now)

    def _spread(
        self, scope: str, news: Broadcast, fanout: Fanout, members: Sequence[Member], now: float
    ) -> None:
        if not members:
            news.clear()  # whoever comes compares the digest, and asks
            return
        for body in news.round(self._room, len(members), now):
            planned = body.first and fanout.of(members, body.fanout)
            for member in planned or some(self._randomness, members, body.fanout):
                self._send(scope, member, body.frames)

    def _request(self, request: SyncRequest) -> None:
        self._out.syncs.append(request)

    # -- what is done again and again ----------------------------------------------------------------------

    def _do(self, chore: _Chore, now: float) -> None:
        match chore:
            case _Chore.JOIN:
                alone = not self._swim.members.reachable()
                if alone:
                    self._ask_seeds()
                period_s = self._timing.join_retry_s if alone else self._timing.reconnect_period_s
                self._chores.set(now + period_s, chore)
            case _Chore.RECONNECT:
                for node_id, address in some(self._randomness, self._absent(), 1):
                    self._exchange.ask(GOSSIP_SCOPE, node_id, address)
                self._chores.set(now + self._timing.reconnect_period_s, chore)
            case _Chore.HOUSE:
                self._keep_house(now)
                self._chores.set(now + self._timing.house_period_s, chore)

    def _ask_seeds(self) -> None:
        for node_id, address in some(self._randomness, self._absent(), self._timing.indirect_probes):
            self._exchange.ask(GOSSIP_SCOPE, node_id, address)

    def _ask_peer(self, network: Network) -> None:
        """For the whole table."""
        for member in some(self._randomness, network.targets(self._swim.members), 1):
            self._exchange.ask(network.id, member.node_id)

    def _ask_first(self, network: Network, node_id: str) -> None:
        """For the whole table, unless somebody has been asked."""
        if not network.agreed_at and not self._exchange.asks(network.id):
            self._exchange.ask(network.id, node_id)

    def _absent(self) -> list[tuple[str, str]]:
        """Seeds that are not here yet, and members that failed."""
        dead = {m.node_id: m.address for m in self._swim.members if m.state is State.DEAD}
        known = self._swim.members
        return [
            (node_id, address)
            for node_id, address in (dead | self._seeds).items()
            if (member := known.get(node_id)) is None or not member.reachable
        ]

    def _keep_house(self, now: float) -> None:
        for node_id in self._swim.members.forget_gone(now - self._timing.dead_keep_s):
            self._sealer.part(node_id)
        for network in self._networks.values():
            if network.keep_house(self._swim.members.knows, now - self._timing.tombstone_keep_s):
                self._changed(network)

    def _join_network(self, network_id: str) -> Network:
        news = Broadcast(self._timing, self._pace)
        network = Network(
            network_id,
            self.node_id,
            news=news,
            fanout=Fanout(self.node_id),
            clock=self._clock,
            verifier=self._verifier,
            gone=self._swim.members.gone,
        )
        network.set_peers(self._peers.get(network_id, frozenset()))
        self._networks[network_id] = self._by_tag[network.tag] = network
        self._ask_peer(network)
        return network

    def _drop(self, network_id: str) -> None:
        if (network := self._networks.pop(network_id, None)) is not None:
            self._by_tag.pop(network.tag, None)

    def _happened(self, event: Event) -> None:
        """A member came or went, its endpoints with it; the first peer that comes is asked for the whole
        table."""
        self._out.events.append(event)
        if not isinstance(event, MemberUp | MemberDown):
            return
        for network in self._networks.values():
            if network.came_or_went(event.node_id):
                self._changed(network)
            if isinstance(event, MemberUp) and event.node_id in network.peers:
                self._ask_first(network, event.node_id)
