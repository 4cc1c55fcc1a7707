"""What stands in the log, as bytes: never a pickle.

An entry is a byte that is pysyncobj's (its _COMMAND_TYPE) and, but for a no-op, a payload: the same byte
again, because the library takes its own off before it has the payload decoded, and then a command of the
state machine or a membership change. Anything else is refused before it gets near the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.manager.raft.member import Member, member_of, message_of

COMMAND: Final = 0
NO_OP: Final = 1
MEMBERSHIP: Final = 2
FIRST_INDEX: Final = 1
CHANGE_BYTES: Final = 1024
"""More than any membership change takes."""


class Entry(NamedTuple):
    """One entry of the log, in pysyncobj's order of fields; equal to the plain tuple."""

    command: bytes
    index: int  # type: ignore[assignment]  # Raft's word; tuple.index is of no use here
    term: int


FIRST_ENTRY: Final = Entry(bytes([NO_OP]), FIRST_INDEX, 0)
"""Every log starts with this one."""


@dataclass(frozen=True, slots=True)
class Change:
    """A member comes or goes."""

    remove: bool
    member: Member


def encode_payload(content: bytes | Change) -> bytes:
    """The payload of a command's or a change's entry."""
    if isinstance(content, bytes):
        return bytes([COMMAND]) + content
    change = raft.RaftMembership(remove=content.remove, member=message_of(content.member))
    return bytes([MEMBERSHIP]) + change.SerializeToString()


def decode_payload(payload: bytes) -> bytes | Change:
    """What encode_payload saw. ValueError for anything else."""
    if payload[:1] == bytes([COMMAND]):
        return payload[1:]
    if payload[:1] != bytes([MEMBERSHIP]):
        raise ValueError("neither a command nor a membership change")
    try:
        message = raft.RaftMembership.FromString(payload[1:])
    except DecodeError as error:
        raise ValueError("not a membership change") from error
    if not message.member.node_id:
        raise ValueError("a membership change without a node id")
    return Change(message.remove, member_of(message.member))


def command_of(entry: bytes) -> bytes:
    """The command of such an entry's bytes."""
    return entry[2:]


def change_of(entry: Entry) -> Change | None:
    """The membership change that an entry makes, if it is one."""
    if entry.command[0] != MEMBERSHIP:
        return None
    content = decode_payload(entry.command[1:])
    return content if isinstance(content, Change) else None


def check_entry(entry: Entry) -> Entry:
    """Refuse (ValueError) what would wedge or surprise every manager that applies it."""
    command, index, _ = entry
    if index < FIRST_INDEX or not command or len(command) > MAX_COMMAND_BYTES + 2:
        raise ValueError(f"entry {index} of {len(command)} bytes")
    kind = command[0]
    if kind in (COMMAND, MEMBERSHIP):
        if command[1:2] != command[:1]:
            raise ValueError(f"entry {index} says two kinds")
        if kind == MEMBERSHIP:
            decode_payload(command[1:])
    elif command != bytes([NO_OP]):
        raise ValueError(f"entry {index} of unknown kind {kind}")
    return entry


def without_command(entry: Entry) -> Entry:
    """The place alone, of an entry that is in a snapshot and only says where the log begins: what it once
    said may have been taken out of the state since."""
    return Entry(bytes([NO_OP]), entry[1], entry[2])


def to_proto(entry: Entry) -> raft.RaftEntry:
    made = raft.RaftEntry()
    fill(made, entry)
    return made


def fill(message: raft.RaftEntry, entry: Entry) -> None:
    """Put `entry` into an empty message: inside a larger one this saves a copy."""
    message.command, message.index, message.term = entry


def from_proto(message: raft.RaftEntry) -> Entry:
    """A checked entry. ValueError."""
    return check_entry(Entry(message.command, message.index, message.term))
