from __future__ import annotations

import pytest
from tests.sim.cluster import MANAGERS_KEY, signed

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import public_key
from swarmnet.core.gossip import messages
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.messages import Malformed
from swarmnet.core.gossip.table import Entry
from swarmnet.core.gossip.verify import Verifier

RUMOR = Rumor("a", "10.0.0.1:7946", 5, State.SUSPECT, "b")
ENDPOINT, SIGNATURE = signed("a", "10.0.1.3")
ENTRY = Entry("a", ENDPOINT.task_id, 7, ENDPOINT, SIGNATURE)


def test_rumors_and_entries_come_back_as_they_went() -> None:
    assert messages.rumor(messages.of_rumor(RUMOR)) == RUMOR
    assert messages.entry("net", messages.of_entry(ENTRY)) == ENTRY
    tombstone = Entry("a", "t", 8)
    assert messages.entry("net", messages.of_entry(tombstone)) == tombstone


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"node_id": "x" * 65},
        {"node_id": "a\nb"},
        {"node_id": "ä"},
        {"address": "host.example:7946"},
        {"address": "10.0.0.1"},
        {"address": "10.0.0.1:0"},
        {"address": "10.0.0.1:65536"},
        {"address": "10.0.0.1:+7"},
        {"incarnation": 1 << 63},
        {"state": 0},
        {"state": 9},
        {"suspected_by": "\x00"},
    ],
)
def test_a_rumor_of_no_possible_member_is_malformed(change: dict[str, object]) -> None:
    message = messages.of_rumor(RUMOR)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(Malformed):
        messages.rumor(message)


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"task_id": "../x"},
        {"time": 0},
        {"time": 1 << 63},
        {"ip": b"123"},
        {"mac": b"12345"},
        {"signature": b""},
    ],
)
def test_an_entry_that_cannot_be_is_malformed(change: dict[str, object]) -> None:
    message = messages.of_entry(ENTRY)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(Malformed):
        messages.entry("net", message)


def test_an_ipv6_address_is_one() -> None:
    assert messages.check_address("[fd00::1]:7946") == "[fd00::1]:7946"


def test_bytes_that_are_no_message_are_malformed() -> None:
    with pytest.raises(Malformed):
        messages.parse(pb.ClusterDatagram, b"\xff\xff\xff")


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
