"""Messages and entries survive the wire unchanged; what is malformed, or could run code, does not get in."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pysyncobj.syncobj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import codec, library
from swarmnet.manager.raft.entries import (
    COMMAND,
    MEMBERSHIP,
    NO_OP,
    Change,
    Entry,
    check_entry,
    decode_payload,
    encode_payload,
    from_proto,
    to_proto,
)
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.snapshot import CHUNK_BYTES, Chunk, Incoming, Outgoing

SYNCOBJ_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

NUMBERS = st.integers(1, 2**40)
MEMBERS = st.builds(Member, st.text("abc123", min_size=1), st.text())
MANAGERS = st.dictionaries(st.text("abc123", min_size=1), st.text()).map(
    lambda addresses: [Member(node_id, address, address) for node_id, address in addresses.items()]
)
CONTENTS = st.one_of(st.binary(max_size=100), st.builds(Change, st.booleans(), MEMBERS))


def entry_of(content: bytes | Change, index: int, term: int) -> Entry:
    kind = COMMAND if isinstance(content, bytes) else MEMBERSHIP
    return Entry(bytes([kind]) + encode_payload(content), index, term)


@st.composite
def appends(draw: st.DrawFn) -> Message:
    previous, term = draw(NUMBERS), draw(NUMBERS)
    contents = draw(st.lists(CONTENTS, max_size=4))
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": draw(NUMBERS),
        "prevLogIdx": previous,
        "prevLogTerm": draw(st.integers(0, term)),
        "entries": [entry_of(each, previous + at, term) for at, each in enumerate(contents, 1)],
    }


CHUNKS = st.builds(Chunk, st.binary(min_size=1), st.booleans(), st.booleans())
MESSAGES = st.one_of(
    appends(),
    st.fixed_dictionaries(
        {"type": st.just("append_entries"), "commit_index": NUMBERS, "serialized": st.none() | CHUNKS}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("next_node_idx"),
            "next_node_idx": NUMBERS,
            "reset": st.booleans(),
            "success": st.booleans(),
            "full": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("request_vote"),
            "last_log_index": NUMBERS,
            "last_log_term": NUMBERS,
            "handed_over": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just(codec.PRE_VOTE_REQUEST), "last_log_index": NUMBERS, "last_log_term": NUMBERS}
    ),
    st.fixed_dictionaries({"type": st.just(codec.PRE_VOTE), "asked_in_term": NUMBERS}),
    st.just({"type": codec.STALE}),
    st.fixed_dictionaries({"type": st.just(codec.INTRODUCTION), "members": MANAGERS}),
    st.fixed_dictionaries({"type": st.sampled_from(("response_vote", "timeout_now"))}),
    st.fixed_dictionaries({"type": st.sampled_from((codec.PROBE, codec.PROBE_REPLY)), "number": NUMBERS}),
)
TERMLESS = (
    "next_node_idx",
    codec.PROBE,
    codec.PROBE_REPLY,
    codec.PRE_VOTE_REQUEST,
    codec.PRE_VOTE,
    codec.STALE,
    codec.INTRODUCTION,
)


@given(MESSAGES, NUMBERS)
def test_every_message_survives_the_wire(message: Message, term: int) -> None:
    term = message.get("term", term)
    if message["type"] not in TERMLESS:
        message = {**message, "term": term}
    raw = codec.encode(message, term).SerializeToString()
    assert codec.decode(raft.RaftMessage.FromString(raw)) == message


@given(CONTENTS, NUMBERS, NUMBERS)
def test_every_entry_survives_the_log(content: bytes | Change, index: int, term: int) -> None:
    entry = entry_of(content, index, term)
    assert from_proto(to_proto(entry)) == entry
    assert decode_payload(entry.command[1:]) == content


VERSION_ENTRY = bytes([3]) + pickle.dumps(9)
PICKLED_COMMAND = bytes([COMMAND]) + pickle.dumps((0, (b"x",)))
PICKLED_CHANGE = bytes([MEMBERSHIP]) + pickle.dumps(["add", "x"])


@pytest.mark.parametrize(
    "raw",
    [b"", VERSION_ENTRY, PICKLED_COMMAND, PICKLED_CHANGE, bytes([NO_OP, 0]), bytes([MEMBERSHIP, MEMBERSHIP])],
)
def test_an_entry_of_no_known_kind_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        check_entry(Entry(raw, 2, 1))


def test_an_entry_above_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        check_entry(entry_of(bytes(600 * 1024), 2, 1))


@given(st.binary(max_size=200))
def test_junk_from_a_member_is_an_error_and_nothing_else(junk: bytes) -> None:
    message = raft.RaftMessage(term=1)
    message.append.previous_index = 1
    message.append.entries.add(index=2, term=1, command=junk)
    try:
        codec.decode(message)
    except ValueError:
        return
    assert check_entry(Entry(junk, 2, 1))


@pytest.mark.parametrize(
    "message",
    [
        raft.RaftMessage(term=1),
        raft.RaftMessage(term=1, append=raft.RaftAppend(previous_index=0)),
        raft.RaftMessage(term=1, append_reply=raft.RaftAppendReply(next_index=0)),
        raft.RaftMessage(
            term=1,
            append=raft.RaftAppend(previous_index=4, entries=[to_proto(Entry(bytes([NO_OP]), 6, 1))]),
        ),
        raft.RaftMessage(
            term=1,
            append=raft.RaftAppend(previous_index=4, entries=[to_proto(Entry(bytes([NO_OP]), 5, 2))]),
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(message: raft.RaftMessage) -> None:
    with pytest.raises(ValueError):
        codec.decode(message)


def test_what_the_library_would_forward_or_cut_in_pieces_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="apply_command"):
        codec.encode({"type": "apply_command", "command": b"x"}, 1)
    with pytest.raises(ValueError, match="above the limit"):
        codec.encode({"type": "append_entries", "prevLogIdx": 1, "transmission": "start"}, 1)


def test_a_snapshot_arrives_whole_or_not_at_all() -> None:
    snapshot = raft.RaftSnapshot(
        previous=to_proto(Entry(bytes([NO_OP]), 8, 1)),
        last=to_proto(Entry(bytes([NO_OP]), 9, 1)),
        state=bytes(range(256)) * (3 * CHUNK_BYTES // 256),
    )
    outgoing = Outgoing(snapshot)
    chunks = [outgoing.next_chunk()]
    while not chunks[-1].last:
        chunks.append(outgoing.next_chunk())
    incoming = Incoming()
    assert [incoming.add(chunk) for chunk in chunks] == [None] * (len(chunks) - 1) + [snapshot]
    assert [incoming.add(chunk) for chunk in chunks if chunk is not chunks[1]] == [None] * (len(chunks) - 1)
    assert [incoming.add(chunk) for chunk in chunks][-1] == snapshot


def test_the_library_is_the_one_that_all_this_was_written_for() -> None:
    source = Path(pysyncobj.syncobj.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest() == SYNCOBJ_SHA256, "read the changes, then library.py again"


def test_the_library_pickles_nothing() -> None:
    assert pysyncobj.syncobj.pickle is library._EntryCodec
    with pytest.raises(TypeError):
        library._EntryCodec.dumps({"any": "object"})
    with pytest.raises(ValueError):
        library._EntryCodec.loads(pickle.dumps("anything"))
