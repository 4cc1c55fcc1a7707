from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import MANAGERS_KEY, NETWORK, signed

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import public_key
from swarmnet.core.gossip import messages, names
from swarmnet.core.gossip.limits import MAX_DELTA_BYTES, MAX_META_BYTES
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.messages import delta_frames
from swarmnet.core.gossip.names import Malformed, pack_id, unpack_id
from swarmnet.core.gossip.table import Delta, Entry
from swarmnet.core.gossip.verify import Verifier
from swarmnet.core.ids import make_id

RUMOR = Rumor("a", "10.0.0.1:7946", 5, State.SUSPECT, "b", 77, b"meta")
ENDPOINT, SIGNATURE = signed("a", "10.0.1.3")
DELTA = Delta("a", 40, 55, (Entry("a", ENDPOINT.task_id, 50, ENDPOINT, SIGNATURE), Entry("a", "gone", 55)))


def raw(frame: bytes) -> bytes:
    (only,) = pb.NetworkDatagram.FromString(frame).deltas
    return only


def test_what_is_written_is_read() -> None:
    assert messages.rumor(messages.of_rumor(RUMOR)) == RUMOR
    ((_, frame),) = delta_frames(DELTA)
    assert messages.delta(NETWORK, raw(frame)) == DELTA


def test_frames_one_behind_the_other_are_one_message() -> None:
    other = replace(RUMOR, node_id="c")
    body = pb.ClusterDatagram(ack=pb.Ack(sequence=3)).SerializeToString()
    together = body + messages.rumor_frame(RUMOR) + messages.rumor_frame(other)
    read = pb.ClusterDatagram.FromString(together)
    assert (messages.rumors(read.rumors), read.ack.sequence) == ([RUMOR, other], 3)


def test_a_long_delta_goes_in_pieces_that_fit_and_follow_each_other() -> None:
    entries = [
        Entry("a", each.task_id, 41 + number, each, signature)
        for number, (each, signature) in enumerate(signed("a", f"10.0.2.{last}") for last in range(1, 60))
    ]
    pieces = delta_frames(Delta("a", 40, 200, tuple(entries)))
    assert all(len(frame) <= MAX_DELTA_BYTES for _, frame in pieces)
    assert [piece.since for piece, _ in pieces] == [40, *(piece.until for piece, _ in pieces[:-1])]
    assert pieces[-1][0].until == 200
    assert [
        e for piece, _ in pieces for e in messages.delta(NETWORK, raw(dict(pieces)[piece])).entries
    ] == entries


@given(st.binary(min_size=16, max_size=16))
def test_an_id_of_ours_takes_seventeen_bytes(random: bytes) -> None:
    node_id = make_id(random)
    assert len(pack_id(node_id)) == 17
    assert unpack_id(pack_id(node_id)) == node_id


@pytest.mark.parametrize("node_id", ["n001", "x" * 64, "z" * 25, "a.b-c_d"])
def test_other_ids_stay_as_they_are(node_id: str) -> None:
    assert unpack_id(pack_id(node_id)) == node_id


@pytest.mark.parametrize("packed", [b"", b"x" * 65, b"a\nb", "ä".encode(), b"\0" * 16, b"\0" * 18])
def test_what_is_no_id_is_malformed(packed: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_id(packed)


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": b""},
        {"address": "host.example:7946"},
        {"address": "10.0.0.1"},
        {"address": "10.0.0.1:0"},
        {"address": "10.0.0.1:65536"},
        {"address": "10.0.0.1:+7"},
        {"incarnation": 1 << 63},
        {"state": 0},
        {"state": 9},
        {"suspected_by": b"\x00"},
        {"meta": bytes(MAX_META_BYTES + 1)},
    ],
)
def test_a_rumor_of_no_possible_member_is_malformed(change: dict[str, object]) -> None:
    message = pb.Rumor.FromString(messages.of_rumor(RUMOR))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(Malformed):
        messages.rumor(message.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        {"owner": b""},
        {"until": 0},
        {"until": 1 << 63},
        {"span": 0},
        {"span": 56},
    ],
)
def test_a_delta_that_cannot_be_is_malformed(change: dict[str, object]) -> None:
    ((_, frame),) = delta_frames(DELTA)
    message = pb.TableDelta.FromString(raw(frame))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(Malformed):
        messages.delta(NETWORK, message.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": b"../x"},
        {"before": 15},
        {"ip": b"123"},
        {"mac": b"12345"},
        {"signature": b""},
        {"signature": bytes(9999)},
    ],
)
def test_an_entry_that_cannot_be_is_malformed(change: dict[str, object]) -> None:
    ((_, frame),) = delta_frames(DELTA)
    message = pb.TableDelta.FromString(raw(frame))
    for name, value in change.items():
        setattr(message.entries[0], name, value)
    with pytest.raises(Malformed):
        messages.delta(NETWORK, message.SerializeToString())


def test_an_ipv6_address_is_one() -> None:
    assert names.check_address("[fd00::1]:7946") == "[fd00::1]:7946"


def test_bytes_that_are_no_message_are_malformed() -> None:
    for read in (messages.rumor, lambda junk: messages.delta(NETWORK, junk)):
        with pytest.raises(Malformed):
            read(b"\xff\xff\xff")


def test_only_what_the_managers_signed_is_believed() -> None:
    verifier = Verifier()
    assert not verifier.believes(ENDPOINT, SIGNATURE)
    verifier.set_key(public_key(MANAGERS_KEY))
    other, _ = signed("b", "10.0.1.3")
    for _ in range(2):  # the second time from memory
        assert verifier.believes(ENDPOINT, SIGNATURE)
        assert not verifier.believes(other, SIGNATURE)
    verifier.set_key(bytes(32))
    assert not verifier.believes(ENDPOINT, SIGNATURE)
