"""What the event loop is told after a step, if it changed: whether this manager leads, and who there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from swarmnet.manager.raft.acquaintances import Acquaintances
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.library import Consensus
from swarmnet.manager.raft.measures import Measures
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.outlet import Act, Outlet


class Report:
    """On the engine's thread; `result` takes what is to be done on the loop."""

    def __init__(
        self,
        me: Member,
        raft: Consensus,
        journal: Journal,
        acquaintances: Acquaintances,
        *,
        outlet: Outlet,
        result: Callable[[Act], None],
    ) -> None:
        self._me = me
        self._raft = raft
        self._journal = journal
        self._acquaintances = acquaintances
        self._outlet = outlet
        self._result = result
        self._elected_term: int | None = None
        self._viewed: tuple[str | None, Mapping[str, Member], Mapping[str, Member]] = (None, {}, {})
        self._others: Mapping[str, Member] = {}
        self._all: Mapping[str, Member] = {me.node_id: me}

    def members(self) -> Mapping[str, Member]:
        """All members, this one among them: the same object until they change."""
        if (peers := self._raft.peers) is not self._others:
            self._others, self._all = peers, {self._me.node_id: self._me, **peers}
        return self._all

    def tell(self, now: float, measures: Measures) -> None:
        """What changed since the last time, in the order in which it happened."""
        leads = self._raft.leads
        if self._elected_term is not None and not (leads and self._elected_term == self._raft.term):
            self._elected_term = None
            self._result(partial(self._outlet.elected, False))
        if leads and self._elected_term is None and self._caught_up():
            self._elected_term = self._raft.term
            self._result(partial(self._outlet.elected, True))
        members = self.members()
        view = (self._raft.leader_id, members, self._acquaintances.beside(members, now))
        if view != self._viewed:
            measures.leader_changes += view[0] not in {None, self._viewed[0]}
            self._viewed = view
            self._result(partial(self._outlet.view, *view))

    def _caught_up(self) -> bool:
        committed = self._raft.commit_index
        return self._journal.term_at(committed) == self._raft.term and self._raft.applied_index >= committed
