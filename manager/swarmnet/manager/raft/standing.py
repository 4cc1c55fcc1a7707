"""Where a manager's Raft stands, for operators and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.library import Consensus


@dataclass(frozen=True, slots=True)
class Standing:
    """As of one step of the engine; `last` is the journal's end, whether it was agreed on or not.

    `matched`: up to which entry each other manager has the log, for all that the leader knows; empty for a
    manager that does not lead. `snapshot_index` 0: there is no snapshot.
    """

    term: int
    leads: bool
    leader_id: str | None
    commit_index: int
    applied_index: int
    last_index: int
    last_term: int
    journal_entries: int
    snapshot_index: int
    matched: Mapping[str, int]


def standing_of(raft: Consensus, journal: Journal, snapshot_index: int) -> Standing:
    """On the engine's thread, as all that it reads."""
    return Standing(
        term=raft.term,
        leads=raft.leads,
        leader_id=raft.leader_id,
        commit_index=raft.commit_index,
        applied_index=raft.applied_index,
        last_index=journal.last.index,
        last_term=journal.last.term,
        journal_entries=len(journal.entries),
        snapshot_index=snapshot_index,
        matched=raft.matched() if raft.leads else {},
    )
