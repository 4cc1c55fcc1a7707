"""Membership: SWIM with Lifeguard's local health, and one rule of its own.

    ALIVE --own probe failed, or a rumor--> SUSPECT --time is up, or a verdict--> DEAD | LEFT
      ^------- the member itself refutes with a higher incarnation ------|------------'

Every probe period one member is pinged, in shuffled turns; if no ack comes in time, others are asked to try;
without any by the end it is suspected, and everybody who hears of it probes it at once and confirms or not.

The rule of its own: nobody is given up on hearsay. A rumor that a member is dead or has left only makes it
suspected here, and probed; it is given up once this node's own probe has failed. So a worker that turns bad
cannot talk a live one out of the others' tables.

Sources: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.awareness import Awareness
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.events import Event, MemberDown, MemberUp
from swarmnet.core.gossip.members import Member, Members, Rumor, State
from swarmnet.core.gossip.messages import of_rumor
from swarmnet.core.gossip.randomness import Randomness, some
from swarmnet.core.gossip.suspicion import Suspicion
from swarmnet.core.gossip.timers import Timers
from swarmnet.core.gossip.timing import MAX_JUMP, MAX_MEMBERS, Timing

Send: TypeAlias = Callable[[str, pb.ClusterDatagram], None]
Emit: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """The next member's turn."""


@dataclass(frozen=True, slots=True)
class AckLate:
    """Time to ask others."""

    sequence: int


@dataclass(frozen=True, slots=True)
class ProbeOver:
    sequence: int


@dataclass(frozen=True, slots=True)
class RelayLate:
    """Time to tell the asker that the target does not answer."""

    sequence: int


@dataclass(frozen=True, slots=True)
class SuspicionOver:
    node_id: str
    incarnation: int


Timer: TypeAlias = ProbeDue | AckLate | ProbeOver | RelayLate | SuspicionOver


@dataclass(slots=True)
class _Probe:
    target: str
    nacks_expected: int = 0
    nacks: int = 0


@dataclass(frozen=True, slots=True)
class _Relay:
    """A ping sent for somebody else."""

    target: str
    asker_address: str
    asker_sequence: int


class Swim:
    """The membership as one node sees it. `me` is what it says of itself."""

    def __init__(self, me: Rumor, timing: Timing, randomness: Randomness, send: Send, emit: Emit) -> None:
        self.me = me
        self.members = Members()
        self.rumors: Broadcast[pb.Rumor] = Broadcast(timing)
        self.timers: Timers[Timer] = Timers()
        self.awareness = Awareness(timing.max_awareness)
        self._timing = timing
        self._randomness = randomness
        self._send = send
        self._emit = emit
        self._sequence = 0
        self._probes: dict[int, _Probe] = {}
        self._relays: dict[int, _Relay] = {}
        self._turns: list[str] = []

    def start(self, now: float) -> None:
        """Begin to probe at a random point of the period: nodes started together must not beat together."""
        self.timers.set(now + self._timing.probe_period_s * self._randomness.random(), ProbeDue())

    def tick(self, now: float) -> None:
        while (timer := self.timers.due(now)) is not None:
            match timer:
                case ProbeDue():
                    self._probe_next(now)
                case AckLate(sequence):
                    self._ask_others(sequence)
                case ProbeOver(sequence):
                    self._probe_over(sequence, now)
                case RelayLate(sequence):
                    self._relay_late(sequence)
                case SuspicionOver(node_id, incarnation):
                    self._suspicion_over(node_id, incarnation, now)

    # -- what others ask and answer ------------------------------------------------------------------------

    def on_ping(self, sender: str, source: str, ping: pb.Ping) -> None:
        """Answer where the sender is known to live; `source` can be anybody's and serves strangers only."""
        if ping.target == self.me.node_id and self.me.state is State.ALIVE:
            member = self.members.get(sender)
            address = member.address if member else source
            self._send(address, pb.ClusterDatagram(ack=pb.Ack(sequence=ping.sequence)))

    def on_ack(self, sender: str, ack: pb.Ack) -> None:
        """From the target itself, or from a member that pinged it for this node."""
        relay = self._relays.get(ack.sequence)
        if relay is not None and relay.target == sender:
            del self._relays[ack.sequence]
            self._send(relay.asker_address, pb.ClusterDatagram(ack=pb.Ack(sequence=relay.asker_sequence)))
        elif self._probes.pop(ack.sequence, None) is not None:
            self.awareness.add(-1)

    def on_nack(self, nack: pb.Nack) -> None:
        if (probe := self._probes.get(nack.sequence)) is not None:
            probe.nacks += 1

    def on_ping_request(self, sender: str, source: str, request: pb.PingRequest, now: float) -> None:
        member = self.members.get(sender)
        sequence = self._next_sequence()
        address = member.address if member else source
        self._relays[sequence] = _Relay(request.target, address, request.sequence)
        self._ping(request.target, request.address, sequence)
        self.timers.set(now + 0.8 * self._timing.probe_timeout_s, RelayLate(sequence))

    # -- rumors --------------------------------------------------------------------------------------------

    def on_rumor(self, rumor: Rumor, now: float) -> bool:
        """Take it over, refute it or leave it; False if it cannot be anybody's honest word."""
        member = self.members.get(rumor.node_id)
        known = member.rumor if member else self.me
        if rumor.incarnation > known.incarnation + MAX_JUMP:
            return False
        if rumor.node_id == self.me.node_id:
            self._about_me(rumor, now)
        elif rumor.state is State.ALIVE:
            self._alive(rumor, member, now)
        elif member is not None and member.reachable and rumor.incarnation >= member.rumor.incarnation:
            left = None if rumor.state is State.SUSPECT else rumor.state is State.LEFT
            self._suspect(member, rumor, now, verdict_left=left)
        return True

    def leave(self, now: float) -> None:
        """Say goodbye; from now on this node answers no ping."""
        self.me = self.me.said(State.LEFT)
        self._tell(self.me, now)

    def everything(self) -> list[Rumor]:
        """What a sync carries: this node and all it knows."""
        return [self.me, *(member.rumor for member in self.members)]

    def _about_me(self, rumor: Rumor, now: float) -> None:
        wrong = rumor.state is not State.ALIVE or rumor.address != self.me.address
        if self.me.state is not State.ALIVE:
            return
        if rumor.incarnation < self.me.incarnation:
            if wrong:
                self._tell(self.me, now)  # refuted before, and somebody has not heard it
            return
        if wrong or rumor.incarnation > self.me.incarnation:
            if rumor.state is State.SUSPECT:
                self.awareness.add(1)
            self.me = Rumor(self.me.node_id, self.me.address, rumor.incarnation + 1, State.ALIVE)
            self._tell(self.me, now)

    def _alive(self, rumor: Rumor, member: Member | None, now: float) -> None:
        if member is None:
            if len(self.members) >= MAX_MEMBERS:
                return
            self.members.add(rumor, now)
            self._emit(MemberUp(rumor.node_id))
        elif rumor.incarnation > member.rumor.incarnation:
            was_gone = not member.reachable
            member.rumor, member.suspicion, member.since = rumor, None, now
            if was_gone:
                self._emit(MemberUp(rumor.node_id))
        else:
            return
        self._tell(rumor, now)

    def _suspect(self, member: Member, rumor: Rumor, now: float, *, verdict_left: bool | None = None) -> None:
        """`verdict_left`: the rumor says that it is over, not that it is suspected."""
        accuser = rumor.suspected_by or rumor.node_id
        fresh = member.suspicion is None or rumor.incarnation > member.rumor.incarnation
        if fresh:
            member.suspicion = Suspicion(len(self.members.reachable()) + 1, self._timing, now)
            member.since = now
        suspicion = member.suspicion
        assert suspicion is not None
        member.rumor = Rumor(rumor.node_id, member.address, rumor.incarnation, State.SUSPECT, accuser)
        if verdict_left is not None:
            suspicion.verdict_left = verdict_left
        if suspicion.evidence and suspicion.verdict_left is not None:
            self._give_up(member, now)
            return
        if suspicion.confirm(accuser):
            self._tell(member.rumor, now)
            self.timers.set(suspicion.deadline, SuspicionOver(member.node_id, member.rumor.incarnation))
        if fresh and accuser != self.me.node_id:
            self._probe(member, now)

    def _suspicion_over(self, node_id: str, incarnation: int, now: float) -> None:
        member = self.members.get(node_id)
        if member is None or member.suspicion is None or member.rumor.incarnation != incarnation:
            return  # refuted, or already given up
        if now < member.suspicion.deadline:
            return
        member.suspicion.verdict_left = member.suspicion.verdict_left or False
        if member.suspicion.evidence:
            self._give_up(member, now)
        else:
            self._probe(member, now)

    def _give_up(self, member: Member, now: float) -> None:
        left = bool(member.suspicion and member.suspicion.verdict_left)
        member.rumor = member.rumor.said(State.LEFT if left else State.DEAD)
        member.suspicion, member.since = None, now
        self._tell(member.rumor, now)
        self._emit(MemberDown(member.node_id, left))

    def _tell(self, rumor: Rumor, now: float) -> None:
        self.rumors.put(rumor.node_id, of_rumor(rumor), now)

    # -- probes --------------------------------------------------------------------------------------------

    def _probe_next(self, now: float) -> None:
        self.timers.set(now + self.awareness.scale(self._timing.probe_period_s), ProbeDue())
        while True:
            if not self._turns:
                self._turns = [member.node_id for member in self.members.reachable()]
                self._randomness.shuffle(self._turns)
                if not self._turns:
                    return
            member = self.members.get(self._turns.pop())
            if member is not None and member.reachable:
                self._probe(member, now)
                return

    def _probe(self, member: Member, now: float) -> None:
        sequence = self._next_sequence()
        self._probes[sequence] = _Probe(member.node_id)
        self._ping(member.node_id, member.address, sequence)
        self.timers.set(now + self.awareness.scale(self._timing.probe_timeout_s), AckLate(sequence))
        self.timers.set(now + self.awareness.scale(self._timing.probe_period_s), ProbeOver(sequence))

    def _ping(self, target: str, address: str, sequence: int) -> None:
        message = pb.ClusterDatagram(ping=pb.Ping(sequence=sequence, target=target))
        member = self.members.get(target)
        if member is not None and member.state is not State.ALIVE:
            message.rumors.append(of_rumor(member.rumor))  # it is the one that can refute it
        self._send(address, message)

    def _ask_others(self, sequence: int) -> None:
        probe = self._probes.get(sequence)
        target = self.members.get(probe.target) if probe else None
        if probe is None or target is None:
            return
        others = [m for m in self.members if m.state is State.ALIVE and m.node_id != probe.target]
        chosen = some(self._randomness, others, self._timing.indirect_probes)
        probe.nacks_expected = len(chosen)
        request = pb.PingRequest(sequence=sequence, target=target.node_id, address=target.address)
        for member in chosen:
            self._send(member.address, pb.ClusterDatagram(ping_request=request))

    def _relay_late(self, sequence: int) -> None:
        if (relay := self._relays.pop(sequence, None)) is not None:
            nack = pb.Nack(sequence=relay.asker_sequence)
            self._send(relay.asker_address, pb.ClusterDatagram(nack=nack))

    def _probe_over(self, sequence: int, now: float) -> None:
        probe = self._probes.pop(sequence, None)
        member = self.members.get(probe.target) if probe else None
        if probe is None or member is None or not member.reachable:
            return
        missed = max(probe.nacks_expected - probe.nacks, 0)
        self.awareness.add(missed if probe.nacks_expected else 1)
        self._suspect(member, member.rumor.said(State.SUSPECT, by=self.me.node_id), now)
        if member.suspicion is not None:
            member.suspicion.evidence = True
            if member.suspicion.verdict_left is not None:
                self._give_up(member, now)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        return self._sequence
