"""Membership: SWIM with Lifeguard's local health, and two rules of its own.

    ALIVE --own probe failed, or a rumor--> SUSPECT --time is up, or a verdict--> DEAD | LEFT
      ^------- the member itself refutes with a higher incarnation ------|------------'

Every probe period one member is pinged, by a plan (turns.py); if no ack comes in time, others are asked to
try, and it is asked by TCP; without any answer it is suspected, and everybody who hears of it pings it at
once and confirms or not.

The first rule of its own: nobody is given up on hearsay. A rumor that a member is dead or has left only
makes it suspected here, and pinged; it is given up once it does not answer this node either. So a worker
that turns bad cannot talk a live one out of the others' tables. The second: who was held up itself, as its
own late timers tell, concludes nothing before it has read what came meanwhile.

Sources: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.awareness import Awareness
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.digests import mark
from swarmnet.core.gossip.events import Event, MemberChanged, MemberDown, MemberUp
from swarmnet.core.gossip.limits import MAX_JUMP, MAX_MEMBERS, MAX_PROBES
from swarmnet.core.gossip.members import Member, Members, Rumor, State
from swarmnet.core.gossip.messages import of_rumor, rumor_frame
from swarmnet.core.gossip.names import handle_number, pack_id
from swarmnet.core.gossip.randomness import Randomness, some
from swarmnet.core.gossip.relays import Relays
from swarmnet.core.gossip.suspicion import Suspicion
from swarmnet.core.gossip.timers import Handle, Timers
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.gossip.turns import Turns


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the membership needs of the protocol around it. `ask`: by TCP, whether it lives; `ping` puts the
    digests that are worth comparing into a ping."""

    send: Callable[[Member, pb.ClusterDatagram], None]
    ask: Callable[[Member], None]
    happened: Callable[[Event], None]
    meet: Callable[[str, int], None]
    ping: Callable[[str, int], pb.Ping]


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
class PingSuspect:
    """Once more, and see whether it answered the one before."""

    node_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class SuspicionOver:
    node_id: str
    incarnation: int


Timer: TypeAlias = ProbeDue | AckLate | ProbeOver | RelayLate | PingSuspect | SuspicionOver


@dataclass(slots=True)
class _Probe:
    """`timer` is when something follows from there being no answer yet."""

    target: str
    at: float
    timer: Handle
    nacks_expected: int = 0
    nacks: int = 0


class Swim:
    """The membership as one node sees it. `me` is what it says of itself."""

    def __init__(
        self, me: Rumor, timing: Timing, randomness: Randomness, rumors: Broadcast, around: Surroundings
    ) -> None:
        self.me = me
        self.members = Members()
        self.rumors = rumors
        self.timers: Timers[Timer] = Timers()
        self.awareness = Awareness(timing.max_awareness)
        self._timing = timing
        self._randomness = randomness
        self._around = around
        self._sequence = 0
        self._probes: dict[int, _Probe] = {}
        self._relays = Relays()
        self._turns = Turns(me.node_id, timing.probe_period_s, me.incarnation)
        self._accused = False
        self._marked: Rumor | None = None
        self._mark = 0

    def start(self, now: float) -> None:
        """Begin to probe at a random point of the period: nodes started together must not beat together."""
        self._turns.start(now)
        self.timers.set(now + self._timing.probe_period_s * self._randomness.random(), ProbeDue())

    def tick(self, now: float) -> None:
        while (due := self.timers.due(now)) is not None:
            if now - due.at > self._timing.late_s and not due.postponed:
                self.awareness.add(1)
                self.timers.set(now + self._timing.late_s, due.value, postponed=True)
            else:
                self._do(due.value, now)

    def _do(self, timer: Timer, now: float) -> None:
        match timer:
            case ProbeDue():
                self._probe_next(now)
            case AckLate(sequence):
                self._ask_others(sequence, now)
            case ProbeOver(sequence):
                self._probe_over(sequence, now)
            case RelayLate(sequence):
                self._relay_late(sequence)
            case PingSuspect(node_id, incarnation):
                self._ping_suspect(node_id, incarnation, now)
            case SuspicionOver(node_id, incarnation):
                self._suspicion_over(node_id, incarnation, now)

    @property
    def digest(self) -> int:
        """Of all that are there, this node included."""
        if self.me.state is not State.ALIVE:
            return self.members.digest
        if self._marked is not self.me:
            self._marked = self.me
            self._mark = mark(handle_number(self.me.node_id), self.me.incarnation)
        return self.members.digest ^ self._mark

    def load(self) -> int:
        """Probes and relays under way."""
        return len(self._probes) + len(self._relays)

    # -- what others ask and answer ------------------------------------------------------------------------

    def on_ping(self, member: Member, ping: pb.Ping) -> None:
        if self.me.state is State.ALIVE:
            message = pb.ClusterDatagram()
            message.ack.sequence, message.ack.members = ping.sequence, self.digest
            if self._accused:
                message.rumors.append(of_rumor(self.me))
                self._accused = False
            self._around.send(member, message)

    def on_ack(self, member: Member, ack: pb.Ack, now: float) -> None:
        """From the target itself, or from a member that pinged it for this node."""
        if (relay := self._relays.answered(ack.sequence, member.node_id)) is not None:
            if (asker := self.members.get(relay.asker)) is not None:
                self._around.send(asker, pb.ClusterDatagram(ack=pb.Ack(sequence=relay.asker_sequence)))
        elif (probe := self._probes.pop(ack.sequence, None)) is not None:
            self.timers.drop(probe.timer)
            self.awareness.add(-1)
            self.awareness.answered(now - probe.at)
            if (target := self.members.get(probe.target)) is not None and target.suspicion is not None:
                target.suspicion.answered()

    def on_nack(self, nack: pb.Nack) -> None:
        if (probe := self._probes.get(nack.sequence)) is not None:
            probe.nacks += 1

    def on_ping_request(self, member: Member, request: pb.PingRequest, target_id: str, now: float) -> None:
        target = self.members.get(target_id)
        sequence = self._next_sequence()
        if target is not None and self._relays.add(sequence, target_id, member.node_id, request.sequence):
            self._send_ping(target, sequence)
            self.timers.set(now + 0.8 * self._timing.probe_timeout_s, RelayLate(sequence))

    def spoke(self, node_id: str) -> None:
        """That node has just proved to be there, by TCP."""
        for sequence in [s for s, probe in self._probes.items() if probe.target == node_id]:
            self.timers.drop(self._probes.pop(sequence).timer)
        member = self.members.get(node_id)
        if member is not None and member.suspicion is not None:
            member.suspicion.answered()

    # -- rumors --------------------------------------------------------------------------------------------

    def on_rumor(self, rumor: Rumor, now: float) -> bool:
        """Take it over, refute it or leave it; False if it cannot be anybody's honest word."""
        member = self.members.get(rumor.node_id)
        known = member.rumor if member else self.me
        if rumor is known:
            return True  # most are: every sync has all of them, and each is decoded once
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

    def say(self, now: float, *, boot: int | None = None, meta: bytes | None = None) -> None:
        """This node has another boot from now on, or says something else of itself, and everybody is to
        know."""
        said = replace(self.me, incarnation=self.me.incarnation + 1)
        said = said if boot is None else replace(said, boot=boot)
        self.me = said if meta is None else replace(said, meta=meta)
        self._tell(self.me, now)

    def everything(self) -> list[Rumor]:
        """What a sync carries: this node and all it knows."""
        return [self.me, *(member.rumor for member in self.members)]

    def recent(self, since: float) -> list[Rumor]:
        """What has changed since then, the newest first."""
        changed = sorted((m for m in self.members if m.since >= since), key=lambda m: -m.since)
        return [self.me, *(member.rumor for member in changed)]

    def _about_me(self, rumor: Rumor, now: float) -> None:
        wrong = rumor.state is not State.ALIVE or about(rumor) != about(self.me)
        if self.me.state is not State.ALIVE:
            return
        if rumor.incarnation < self.me.incarnation:
            self._accused = self._accused or wrong  # refuted before, and somebody has not heard it
            return
        if wrong or rumor.incarnation > self.me.incarnation:
            if rumor.state is State.SUSPECT:
                self.awareness.add(1)
            self.me = replace(self.me, incarnation=rumor.incarnation + 1)
            self._accused = True
            self._tell(self.me, now)

    def _alive(self, rumor: Rumor, member: Member | None, now: float) -> None:
        if member is None:
            if len(self.members) >= MAX_MEMBERS:
                return
        elif rumor.incarnation <= member.rumor.incarnation:
            return
        came = member is None or not member.reachable
        changed = member is not None and about(member.rumor) != about(rumor)
        self.members.put(replace(rumor, suspected_by="") if rumor.suspected_by else rumor, now)
        self._around.meet(rumor.node_id, rumor.boot)
        if came:
            self._around.happened(MemberUp(rumor.node_id))
        elif changed:
            self._around.happened(MemberChanged(rumor.node_id))
        self._tell(rumor, now)

    def _suspect(self, member: Member, rumor: Rumor, now: float, *, verdict_left: bool | None = None) -> None:
        """`verdict_left`: the rumor says that it is over, not that it is suspected. What a rumor of this
        kind says of address and boot is not believed: only its own word counts for that."""
        accuser = rumor.suspected_by or rumor.node_id
        said = replace(member.rumor, incarnation=rumor.incarnation, state=State.SUSPECT, suspected_by=accuser)
        member = self.members.put(said, now)
        fresh = member.suspicion is None
        if member.suspicion is None:
            member.suspicion = Suspicion(len(self.members.reachable()) + 1, self._timing, now)
        suspicion = member.suspicion
        if verdict_left is not None:
            suspicion.verdict_left = verdict_left
        if suspicion.evidence and suspicion.verdict_left is not None:
            self._give_up(member, now)
            return
        if suspicion.confirm(accuser):
            self._tell(member.rumor, now)
            self.timers.set(suspicion.deadline, SuspicionOver(member.node_id, member.rumor.incarnation))
        if fresh:
            self._ping_again(member, now)

    def _ping_suspect(self, node_id: str, incarnation: int, now: float) -> None:
        member = self.members.get(node_id)
        if member is None or member.suspicion is None or member.rumor.incarnation != incarnation:
            return  # refuted, or already given up
        suspicion = member.suspicion
        suspicion.silent += 1
        if suspicion.silent >= self._timing.silent_pings and not suspicion.evidence:
            suspicion.evidence = True
            self._suspect(member, member.rumor.said(State.SUSPECT, by=self.me.node_id), now)
        if member.suspicion is not None:
            self._ping_again(member, now)

    def _ping_again(self, member: Member, now: float) -> None:
        wait_s = self.awareness.patience(self._timing.probe_timeout_s)
        self._probe(member, 3 * wait_s, ProbeOver, now)
        self.timers.set(now + wait_s, PingSuspect(member.node_id, member.rumor.incarnation))

    def _suspicion_over(self, node_id: str, incarnation: int, now: float) -> None:
        member = self.members.get(node_id)
        if member is None or member.suspicion is None or member.rumor.incarnation != incarnation:
            return
        if now < member.suspicion.deadline:
            return
        member.suspicion.verdict_left = member.suspicion.verdict_left or False
        if member.suspicion.evidence:
            self._give_up(member, now)

    def _give_up(self, member: Member, now: float) -> None:
        left = bool(member.suspicion and member.suspicion.verdict_left)
        self.members.put(member.rumor.said(State.LEFT if left else State.DEAD), now)
        self._tell(member.rumor, now)
        self._around.happened(MemberDown(member.node_id, left))

    def _tell(self, rumor: Rumor, now: float) -> None:
        self.rumors.put(rumor.node_id, rumor_frame(rumor), now)

    # -- probes --------------------------------------------------------------------------------------------

    def _probe_next(self, now: float) -> None:
        self.timers.set(now + self.awareness.scale(self._timing.probe_period_s), ProbeDue())
        there = self.members.reachable()
        target = self._turns.next((member.node_id for member in there), there, now)
        member = self.members.get(target) if target is not None else None
        if member is not None and member.suspicion is None:
            self._probe(member, self.awareness.patience(self._timing.probe_timeout_s), AckLate, now)

    def _probe(self, member: Member, wait_s: float, then: type[AckLate | ProbeOver], now: float) -> None:
        """Ping it; `then` is due if there is no answer in that time. Nothing if too many are under way."""
        if len(self._probes) < MAX_PROBES:
            sequence = self._next_sequence()
            timer = self.timers.set(now + wait_s, then(sequence))
            self._probes[sequence] = _Probe(member.node_id, now, timer)
            self._send_ping(member, sequence)

    def _send_ping(self, member: Member, sequence: int) -> None:
        message = pb.ClusterDatagram(ping=self._around.ping(member.node_id, sequence))
        if member.state is not State.ALIVE:
            message.rumors.append(of_rumor(member.rumor))  # it is the one that can refute it
        self._around.send(member, message)

    def _ask_others(self, sequence: int, now: float) -> None:
        probe = self._probes.get(sequence)
        target = self.members.get(probe.target) if probe else None
        if probe is None or target is None:
            return
        others = [m for m in self.members.reachable() if m.state is State.ALIVE and m is not target]
        chosen = some(self._randomness, others, self._timing.indirect_probes)
        probe.nacks_expected = len(chosen)
        request = pb.PingRequest(sequence=sequence, target=pack_id(target.node_id))
        for member in chosen:
            self._around.send(member, pb.ClusterDatagram(ping_request=request))
        self._around.ask(target)
        over = now + self.awareness.patience(self._timing.probe_timeout_s)
        probe.timer = self.timers.set(over, ProbeOver(sequence))

    def _relay_late(self, sequence: int) -> None:
        relay = self._relays.late(sequence)
        if relay is not None and (asker := self.members.get(relay.asker)) is not None:
            self._around.send(asker, pb.ClusterDatagram(nack=pb.Nack(sequence=relay.asker_sequence)))

    def _probe_over(self, sequence: int, now: float) -> None:
        probe = self._probes.pop(sequence, None)
        member = self.members.get(probe.target) if probe else None
        if probe is None or member is None or not member.reachable or member.suspicion is not None:
            return
        missed = max(probe.nacks_expected - probe.nacks, 0)
        self.awareness.add(missed if probe.nacks_expected else 1)
        self._suspect(member, member.rumor.said(State.SUSPECT, by=self.me.node_id), now)
        if (suspicion := self.members.suspicion(member.node_id)) is not None:
            suspicion.evidence = True

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        return self._sequence


def about(rumor: Rumor) -> tuple[str, int, bytes]:
    """What only the member itself can know."""
    return rumor.address, rumor.boot, rumor.meta
