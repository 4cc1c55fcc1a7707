"""The safety filter between the wire and pysyncobj: what the library gets wrong is put right here.

Each rule answers a way in which the library alone lost acknowledged writes or got stuck, seen in tests:

1. Promises (an append reply, a vote, a vote request) leave only after the journal is on disk: `is_promise`.
2. An append reply of another term is not counted; nor is a second vote of the same manager.
3. Of an append, what this log already holds is taken out. If nothing new is left although this log is longer,
   nothing is cut: the library would drop entries that it has acknowledged. What is acknowledged, and what the
   commit index may reach, is what this append verified, not the end of the log.
4. A reset ("start again from here") never asks beyond the entry after the commit index: the library's own
   choice can leave leader and follower going round in circles.
5. New entries that the disk has no room for are not taken: what was verified before them is acknowledged, and
   the leader sends them again.
6. A leader that contradicts a committed entry means that the cluster's safety is gone: stop, touch nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from swarmnet.core.errors import Internal
from swarmnet.manager.raft.entries import Entry
from swarmnet.manager.raft.journal import Journal

Message: TypeAlias = dict[str, Any]
"""A message of pysyncobj: its "type" and fields, as the library makes and takes them."""

_PROMISES: Final = frozenset(("next_node_idx", "response_vote", "request_vote"))


class Position(Protocol):
    """Where this manager's Raft stands."""

    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a message: give `message` to the library, then acknowledge up to `acknowledge`."""

    message: Message | None
    acknowledge: int | None = None


_DROP: Final = Verdict(None)


def is_promise(message: Message) -> bool:
    """Whether somebody may rely on this manager's disk because of it."""
    return message["type"] in _PROMISES


def acknowledgement(index: int) -> Message:
    """The append reply: all up to `index` is here as the leader has it."""
    return {"type": "next_node_idx", "next_node_idx": index + 1, "reset": False, "success": True}


class Guard:
    """Filters messages in both directions. Changes nothing but the messages; remembers who voted."""

    def __init__(self, journal: Journal, position: Position) -> None:
        self._journal = journal
        self._position = position
        self._voters: set[str] = set()
        self._voters_term = 0
        self._installed_index: int | None = None

    def outgoing(self, message: Message) -> Message:
        """The message as it may be sent, once the journal is on disk if it is a promise."""
        if message["type"] != "next_node_idx":
            return message
        next_index = message["next_node_idx"]
        if message["reset"]:
            next_index = min(next_index, self._position.commit_index + 1)
        elif self._installed_index is not None:
            next_index = min(next_index, self._installed_index + 1)
        return {**message, "next_node_idx": next_index}

    def incoming(self, node_id: str, sender_term: int, message: Message) -> Verdict:
        """What becomes of a member's message. Internal when going on would lose committed entries."""
        self._installed_index = None
        match message["type"]:
            case "next_node_idx":
                return Verdict(message) if sender_term == self._position.term else _DROP
            case "response_vote":
                return Verdict(message) if self._first_vote(node_id, message["term"]) else _DROP
            case "append_entries" if message["term"] < self._position.term:
                return _DROP
            case "append_entries" if "prevLogIdx" in message:
                return self._append(message)
            case "append_entries":
                # A snapshot: what the log holds after it is kept but was not compared with the leader's.
                return Verdict({**message, "commit_index": 0})
            case _:
                return Verdict(message)

    def snapshot_installed(self, index: int) -> None:
        """During `incoming`'s message a snapshot was taken over: its last entry is all that is verified."""
        self._installed_index = index

    def _first_vote(self, node_id: str, term: int) -> bool:
        if term != self._voters_term:
            self._voters_term, self._voters = term, set()
        first = node_id not in self._voters
        self._voters.add(node_id)
        return first

    def _append(self, message: Message) -> Verdict:
        previous, entries = message["prevLogIdx"], message["entries"]
        end = previous + len(entries)
        start = self._journal.first.index
        if previous < start:
            # All up to `start` is in the snapshot, hence committed, hence the same everywhere.
            if end < start:
                return self._heartbeat(message, end)
            entries = [each for each in entries if each[1] > start]
            previous, message = start, {**message, "prevLogTerm": self._journal.term_at(start)}
        if self._journal.term_at(previous) == message["prevLogTerm"]:
            held = self._held(entries)
            if held:
                previous, message = held[-1][1], {**message, "prevLogTerm": held[-1][2]}
                entries = entries[len(held) :]
            if not entries and previous < self._journal.last.index:
                return self._heartbeat(message, previous)
            self._check_conflict(entries)
            if not self._journal.has_room(sum(len(each[0]) for each in entries), len(entries)):
                return self._heartbeat(message, previous)
        return Verdict({**message, "prevLogIdx": previous, "entries": entries})

    def _held(self, entries: list[Entry]) -> list[Entry]:
        """The leading entries that this log already has."""
        count = 0
        while count < len(entries) and self._journal.term_at(entries[count][1]) == entries[count][2]:
            count += 1
        return entries[:count]

    def _check_conflict(self, entries: list[Entry]) -> None:
        committed = max(self._position.commit_index, self._position.applied_index)
        if entries and entries[0][1] <= committed:
            raise Internal(
                f"the leader's log contradicts the committed entry {entries[0][1]}",
                hint="Stop all managers, compare their state directories: one was set back to an old copy.",
            )

    def _heartbeat(self, message: Message, verified: int) -> Verdict:
        """Let the leader count as alive, and acknowledge what was verified; the log stays as it is."""
        beat = {
            "type": "append_entries",
            "term": message["term"],
            "commit_index": min(message["commit_index"], verified),
        }
        return Verdict(beat, verified)
