"""One network as a worker on it gossips it: the table, the news on its way, and who else is on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, TypeAlias

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.fanout import Fanout
from swarmnet.core.gossip.limits import MAX_REPAIR_DATAGRAMS
from swarmnet.core.gossip.members import Member, Members
from swarmnet.core.gossip.messages import delta, delta_frame, delta_frames
from swarmnet.core.gossip.names import short_tag
from swarmnet.core.gossip.table import Delta, LamportClock, Outcome, Row, Table
from swarmnet.core.gossip.verify import Verifier

Gone: TypeAlias = Callable[[str], bool]
"""Is that node dead, left or unknown?"""
_VECTOR_BYTES: Final = 16
"""Of one owner in a vector: 8 and a time of up to 8."""


class Network:
    """Nothing of another node enters the table unless the managers signed it; what is refused is counted."""

    def __init__(
        self,
        network_id: str,
        me: str,
        *,
        news: Broadcast,
        fanout: Fanout,
        clock: LamportClock,
        verifier: Verifier,
        gone: Gone,
    ) -> None:
        self.id = network_id
        self.tag = short_tag(network_id)
        self.news = news
        self.fanout = fanout
        self.peers: frozenset[str] = frozenset()
        self._targets: tuple[object, object, list[Member]] = (None, None, [])
        self.counters: Counter[str] = Counter()
        self.agreed_at = 0.0
        """When another node last had the same."""
        self.compared_at = -inf
        """When this node last looked for what it lacks."""
        self._me = me
        self._verifier = verifier
        self._gone = gone
        self._table = Table(me, clock)

    def publish(self, endpoints: Iterable[tuple[Endpoint, bytes]], now: float) -> None:
        """These are all of this node's endpoints on the network."""
        wanted: Mapping[str, tuple[Endpoint, bytes]] = {each[0].task_id: each for each in endpoints}
        if (made := self._table.publish(wanted, now)) is not None:
            self._tell(made, now)

    def hear(self, raws: Iterable[bytes], now: float) -> bool:
        """Take over what is new and to be believed; True if other nodes' endpoints changed. Malformed if one
        is not whole: those before it hold."""
        changed = False
        for raw in raws:
            told = delta(self.id, raw)
            if told.until <= self._table.known(told.owner):
                self.news.heard((told.owner, told.until))
            elif self._take(told, raw, now):
                changed = True
        return changed

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Of the other nodes that are not gone, in a stable order."""
        seen = (e.endpoint for e in self._table.visible() if e.endpoint and e.owner != self._me)
        return tuple(sorted(seen, key=lambda each: (each.ip.version, each.ip, each.task_id)))

    @property
    def digest(self) -> int:
        return self._table.digest

    def size(self) -> int:
        """Entries, tombstones included."""
        return len(self._table)

    # -- who lacks what ------------------------------------------------------------------------------------

    def vector(self, room: int) -> pb.Vector:
        """What this node knows, the newest first; all of it if there is room. Asks for what is lacking
        here."""
        rows = sorted(self._rows(), key=lambda row: -row.changed_at)
        most = max(room // _VECTOR_BYTES, 1)
        return _vector(rows[:most], answer=True, whole=len(rows) <= most)

    def lacking(self, vector: pb.Vector) -> pb.Vector | None:
        """The vector of what the sender of this one has and this node has not."""
        mine = {row.handle: row for row in self._rows()}
        ahead = [
            (owner, mine[owner].known if owner in mine else 0)
            for owner, time in zip(vector.owners, vector.times, strict=False)
            if time > (mine[owner].known if owner in mine else 0)
        ]
        if not ahead:
            return None
        return pb.Vector(owners=[owner for owner, _ in ahead], times=[time for _, time in ahead])

    def repairs(self, vector: pb.Vector, most: int = MAX_REPAIR_DATAGRAMS) -> list[bytes]:
        """Frames of what the sender of the vector lacks: of each owner, from its time there on."""
        theirs = dict(zip(vector.owners, vector.times, strict=False))
        frames: list[bytes] = []
        for row in sorted(self._rows(), key=lambda row: -row.changed_at):
            known = theirs.get(row.handle, 0 if vector.whole else row.known)
            if known < row.known:
                frames += [frame for _, frame in delta_frames(row.since(known))]
                if len(frames) >= most:
                    break
        return frames[:most]

    def disputes(self, vector: pb.Vector, now: float) -> bool:
        """Whether others know of times of this node that it has not made; then it tells all it has, above
        them."""
        row = self._table.row(self._me)
        if row is None:
            return False
        for owner, time in zip(vector.owners, vector.times, strict=False):
            if owner == row.handle and time > row.known:
                return self._refute(Delta(self._me, 0, time, ()), now)
        return False

    def _rows(self) -> list[Row]:
        return [row for row in self._table.rows() if not row.hidden and row.known]

    # -- who is there --------------------------------------------------------------------------------------

    def set_peers(self, peers: frozenset[str]) -> bool:
        """The managers' word on who else is on the network; True if that dropped endpoints."""
        lost, self.peers = self.peers - peers, peers
        return self._table.forget(lost)

    def targets(self, members: Members) -> list[Member]:
        """The peers that are there. Not to be changed."""
        there = members.reachable()
        if self._targets[0] is not there or self._targets[1] is not self.peers:
            self._targets = (there, self.peers, [each for each in there if each.node_id in self.peers])
        return self._targets[2]

    def came_or_went(self, node_id: str) -> bool:
        """That node is there again, or gone; True if its endpoints are, too."""
        return self._table.hide(node_id, hidden=self._gone(node_id))

    def keep_house(self, known: Gone, tombstones_before: float) -> bool:
        """Forget old tombstones and the entries of nodes that nobody knows or that are not on the network."""
        self._table.reap(tombstones_before)
        owners = {row.owner for row in self._table.rows()} - {self._me}
        return self._table.forget({each for each in owners if not known(each) or each not in self.peers})

    # -- what is believed ----------------------------------------------------------------------------------

    def _take(self, told: Delta, raw: bytes, now: float) -> bool:
        if not self._credible(told):
            return False
        size = len(self._table)
        match self._table.apply(told, now):
            case Outcome.NEWS:
                self.news.put((told.owner, told.until), delta_frame(raw), now)
                return bool(told.entries) or len(self._table) != size
            case Outcome.DISPUTED:
                self._refute(told, now)
            case Outcome.STALE:
                pass
        return False

    def _refute(self, told: Delta, now: float) -> bool:
        if self._table.apply(told, now) is not Outcome.DISPUTED:
            return False  # a time that nobody can have
        self.counters["entries_refuted"] += 1
        self._tell(self._table.anew(now), now)
        return True

    def _credible(self, told: Delta) -> bool:
        if told.owner == self._me:
            return True
        if self._gone(told.owner):
            return False
        live = [entry for entry in told.entries if entry.endpoint is not None]
        if not live and told.owner not in self.peers:
            self.counters["dropped_not_a_peer"] += 1
            return False
        for entry in live:
            if entry.endpoint is None or not self._verifier.believes(entry.endpoint, entry.signature):
                self.counters["dropped_unsigned_endpoint"] += 1
                return False
        return True

    def _tell(self, made: Delta, now: float) -> None:
        """A whole takes the place of the whole before it, however often somebody makes this node tell it."""
        for index, (piece, frame) in enumerate(delta_frames(made)):
            self.news.put((piece.owner, piece.until if made.since else -index), frame, now)


def _vector(rows: Sequence[Row], *, answer: bool, whole: bool) -> pb.Vector:
    return pb.Vector(
        owners=[row.handle for row in rows], times=[row.known for row in rows], answer=answer, whole=whole
    )
