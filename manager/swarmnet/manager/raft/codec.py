"""pysyncobj's messages as protobuf and back: nothing on the wire is ever unpickled."""

from __future__ import annotations

from typing import Final

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import entries
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.member import from_proto, to_proto
from swarmnet.manager.raft.snapshot import Chunk

PROBE: Final = "probe"
PROBE_REPLY: Final = "probe_reply"
PRE_VOTE_REQUEST: Final = "pre_vote_request"
PRE_VOTE: Final = "pre_vote"
STALE: Final = "stale"
INTRODUCTION: Final = "introduction"
"""Messages of our own, for linearizable reads and elections; the library never sees them."""


def encode(message: Message, term: int) -> raft.RaftMessage:
    """A message as sent by a manager in `term`. ValueError for a type that has no business on the wire."""
    encoded = raft.RaftMessage(term=term)
    match message["type"]:
        case "append_entries" if "prevLogIdx" in message:
            _encode_append(message, encoded.append)
        case "append_entries":
            _encode_chunk(message, encoded.snapshot_chunk)
        case "next_node_idx":
            encoded.append_reply.next_index = message["next_node_idx"]
            encoded.append_reply.success = message["success"]
            encoded.append_reply.reset = message["reset"]
            encoded.append_reply.full = message["full"]
        case "request_vote":
            encoded.vote_request.last_index = message["last_log_index"]
            encoded.vote_request.last_term = message["last_log_term"]
            encoded.vote_request.handed_over = message["handed_over"]
        case "response_vote":
            encoded.vote.SetInParent()
        case "timeout_now":
            encoded.timeout_now.SetInParent()
        case _:
            _encode_own(message, encoded)
    return encoded


def decode(encoded: raft.RaftMessage) -> Message:
    """What `encode` saw. ValueError for anything malformed."""
    term = encoded.term
    match encoded.WhichOneof("body"):
        case "append":
            return _decode_append(encoded.append, term)
        case "append_reply":
            reply = encoded.append_reply
            if reply.next_index < entries.FIRST_INDEX:
                raise ValueError("an append reply before the first index")
            return {
                "type": "next_node_idx",
                "next_node_idx": reply.next_index,
                "reset": reply.reset,
                "success": reply.success,
                "full": reply.full,
            }
        case "snapshot_chunk":
            return _decode_chunk(encoded.snapshot_chunk, term)
        case "vote_request":
            last = encoded.vote_request
            return {
                "type": "request_vote",
                "term": term,
                "last_log_index": last.last_index,
                "last_log_term": last.last_term,
                "handed_over": last.handed_over,
            }
        case "vote":
            return {"type": "response_vote", "term": term}
        case "timeout_now":
            return {"type": "timeout_now", "term": term}
        case _:
            return _decode_own(encoded)


def _encode_own(message: Message, encoded: raft.RaftMessage) -> None:
    match message["type"]:
        case "probe":
            encoded.probe.number = message["number"]
        case "probe_reply":
            encoded.probe_reply.number = message["number"]
        case "pre_vote_request":
            encoded.pre_vote_request.last_index = message["last_log_index"]
            encoded.pre_vote_request.last_term = message["last_log_term"]
        case "pre_vote":
            encoded.pre_vote.asked_in_term = message["asked_in_term"]
        case "stale":
            encoded.stale.SetInParent()
        case "introduction":
            encoded.introduction.members.extend(to_proto(message["members"]))
            encoded.introduction.SetInParent()
        case other:
            raise ValueError(f"a message of type {other!r} cannot be sent")


def _decode_own(encoded: raft.RaftMessage) -> Message:
    match encoded.WhichOneof("body"):
        case "probe":
            return {"type": PROBE, "number": encoded.probe.number}
        case "probe_reply":
            return {"type": PROBE_REPLY, "number": encoded.probe_reply.number}
        case "pre_vote_request":
            last = encoded.pre_vote_request
            return {
                "type": PRE_VOTE_REQUEST,
                "last_log_index": last.last_index,
                "last_log_term": last.last_term,
            }
        case "pre_vote":
            return {"type": PRE_VOTE, "asked_in_term": encoded.pre_vote.asked_in_term}
        case "stale":
            return {"type": STALE}
        case "introduction":
            members = list(from_proto(encoded.introduction.members).values())
            if any(not each.node_id for each in members):
                raise ValueError("an introduction without a node id")
            return {"type": INTRODUCTION, "members": members}
        case _:
            raise ValueError("a message without a body")


def _encode_append(message: Message, append: raft.RaftAppend) -> None:
    if "transmission" in message or message["prevLogIdx"] is None:
        raise ValueError("an entry above the limit, or before the start of the log")
    append.commit_index = message["commit_index"]
    append.previous_index = message["prevLogIdx"]
    append.previous_term = message["prevLogTerm"]
    for each in message["entries"]:
        entries.fill(append.entries.add(), each)


def _decode_append(append: raft.RaftAppend, term: int) -> Message:
    found = [entries.from_proto(each) for each in append.entries]
    expected = range(append.previous_index + 1, append.previous_index + 1 + len(found))
    if append.previous_index < entries.FIRST_INDEX or [each.index for each in found] != list(expected):
        raise ValueError("entries that do not follow each other")
    if any(each.term > term for each in found):
        raise ValueError("an entry of a later term than its leader's")
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": append.commit_index,
        "entries": found,
        "prevLogIdx": append.previous_index,
        "prevLogTerm": append.previous_term,
    }


def _encode_chunk(message: Message, chunk: raft.RaftSnapshotChunk) -> None:
    chunk.commit_index = message["commit_index"]
    if message["serialized"] is not None:
        chunk.data, chunk.first, chunk.last = message["serialized"]


def _decode_chunk(chunk: raft.RaftSnapshotChunk, term: int) -> Message:
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": chunk.commit_index,
        "serialized": Chunk(chunk.data, chunk.first, chunk.last) if chunk.data else None,
    }
