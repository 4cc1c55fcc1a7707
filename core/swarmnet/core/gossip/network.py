"""One network as a worker on it gossips it: the table, the news on its way, and who else is on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.messages import of_entry
from swarmnet.core.gossip.table import Entry, LamportClock, Outcome, Table, digest
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.gossip.verify import Verifier

Gone: TypeAlias = Callable[[str], bool]
"""Is that node known to be dead or to have left?"""


class Network:
    """Nothing of another node enters the table unless the managers signed it; what is refused is counted."""

    def __init__(
        self,
        network_id: str,
        me: str,
        *,
        verifier: Verifier,
        timing: Timing,
        started_ms: int,
        gone: Gone,
    ) -> None:
        self.id = network_id
        self.news: Broadcast[pb.TableEntry] = Broadcast(timing)
        self.peers: frozenset[str] = frozenset()
        self.counters: Counter[str] = Counter()
        self._me = me
        self._verifier = verifier
        self._gone = gone
        self._table = Table(me, LamportClock(started_ms))

    def publish(self, endpoints: Iterable[tuple[Endpoint, bytes]], now: float) -> None:
        """These are all of this node's endpoints on the network."""
        wanted: Mapping[str, tuple[Endpoint, bytes]] = {each[0].task_id: each for each in endpoints}
        for entry in self._table.publish(wanted, now):
            self._tell(entry, now)

    def hear(self, entries: Iterable[Entry], now: float) -> bool:
        """Take over what is new and to be believed; True if other nodes' endpoints changed."""
        changed = False
        for entry in entries:
            if not self._credible(entry):
                continue
            match self._table.apply(entry, now):
                case Outcome.NEWS:
                    self._tell(entry, now)
                    changed = True
                case Outcome.DISPUTED:
                    self.counters["entries_refuted"] += 1
                    self._tell(self._table.refuted(entry, now), now)
        return changed

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Of the other nodes that are not gone, in a stable order."""
        seen = (e.endpoint for e in self._table.visible(self._gone) if e.endpoint and e.owner != self._me)
        return tuple(sorted(seen, key=lambda each: (each.ip.version, each.ip, each.task_id)))

    def digest(self) -> int:
        return digest(self._table.visible(self._gone))

    def everything(self) -> list[pb.TableEntry]:
        """What a sync carries: this node's own entries first, then others', tombstones last."""
        told = [entry for entry in self._table if entry.deleted or not self._gone(entry.owner)]
        return [of_entry(entry) for entry in sorted(told, key=lambda e: (e.owner != self._me, e.deleted))]

    def owners(self) -> set[str]:
        return self._table.owners()

    def set_peers(self, peers: frozenset[str]) -> bool:
        """The managers' word on who else is on the network; True if that dropped endpoints."""
        lost, self.peers = self.peers - peers, peers
        return self._forget(lost)

    def keep_house(self, known: Gone, tombstones_before: float) -> bool:
        """Forget old tombstones and the entries of nodes that nobody knows or that are not on the network."""
        self._table.forget_buried(tombstones_before)
        owners = self.owners() - {self._me}
        return self._forget({each for each in owners if not known(each) or each not in self.peers})

    def forget_owners(self, owners: Sequence[str]) -> bool:
        return self._forget(owners)

    def _forget(self, owners: Iterable[str]) -> bool:
        lost = self.owners() & set(owners)
        self._table.forget_owners(owners)
        return bool(lost)

    def _credible(self, entry: Entry) -> bool:
        if entry.owner != self._me and self._gone(entry.owner):
            return False
        if entry.endpoint is None or self._verifier.believes(entry.endpoint, entry.signature):
            return True
        self.counters["dropped_unsigned_endpoint"] += 1
        return False

    def _tell(self, entry: Entry, now: float) -> None:
        self.news.put(entry.key, of_entry(entry), now)
