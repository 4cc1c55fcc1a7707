from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import scope_epochs

from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip.seal import Kind, Refusal, Refused, Sealer, overhead

SCOPE = "gossip"


def sealer(node_id: str, boot: int = 1, keys: Epochs | None = None) -> Sealer:
    made = Sealer(node_id, boot)
    made.set_epochs(keys or scope_epochs(SCOPE, 1))
    return made


def refusal(receiver: Sealer, message: bytes) -> Refusal:
    with pytest.raises(Refused) as refused:
        receiver.open(message)
    return refused.value.why


def test_what_one_seals_another_opens() -> None:
    message = sealer("a").seal(SCOPE, Kind.DATAGRAM, b"body")
    opened = sealer("b").open(message)
    assert (opened.scope, opened.kind, opened.sender, opened.body) == (SCOPE, Kind.DATAGRAM, "a", b"body")
    assert len(message) == len(b"body") + overhead("a")
    assert b"body" not in message


@given(st.integers(0, 60), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, change: int) -> None:
    message = bytearray(sealer("a").seal(SCOPE, Kind.DATAGRAM, b"some body"))
    message[position % len(message)] ^= change
    with pytest.raises(Refused):
        sealer("b").open(bytes(message))


def test_a_forgery_uses_up_no_counter() -> None:
    message = sealer("a").seal(SCOPE, Kind.DATAGRAM, b"body")
    receiver = sealer("b")
    assert refusal(receiver, message[:-1] + bytes([message[-1] ^ 1])) is Refusal.FORGED
    assert receiver.open(message).body == b"body"


def test_a_recording_is_refused() -> None:
    message = sealer("a").seal(SCOPE, Kind.DATAGRAM, b"body")
    receiver = sealer("b")
    receiver.open(message)
    assert refusal(receiver, message) is Refusal.REPLAYED


def test_a_restarted_sender_is_heard_from_its_first_message_on() -> None:
    receiver, before, after = sealer("b"), sealer("a", boot=1), sealer("a", boot=2)
    for _ in range(3000):
        last = before.seal(SCOPE, Kind.DATAGRAM, b"before")
    receiver.open(last)
    assert receiver.open(after.seal(SCOPE, Kind.DATAGRAM, b"after")).body == b"after"
    assert refusal(receiver, last) is Refusal.REPLAYED


def test_own_messages_that_come_back_are_dropped() -> None:
    node = sealer("a")
    assert refusal(node, node.seal(SCOPE, Kind.DATAGRAM, b"body")) is Refusal.REFLECTED


def test_a_message_of_another_scope_is_not_of_this_one() -> None:
    other = sealer("a", keys=scope_epochs("net", 1))
    assert refusal(sealer("b"), other.seal("net", Kind.DATAGRAM, b"body")) is Refusal.UNKNOWN_SCOPE


def test_every_live_epoch_is_accepted_and_only_the_current_one_used() -> None:
    receiver = sealer("b", keys=scope_epochs(SCOPE, 1, 2, 3, current=2))
    for number in (1, 2, 3):
        keys = scope_epochs(SCOPE, number)
        assert receiver.open(sealer("a", number, keys).seal(SCOPE, Kind.DATAGRAM, b"x")).body == b"x"
    only_two = sealer("c", keys=scope_epochs(SCOPE, 2))
    assert only_two.open(receiver.seal(SCOPE, Kind.DATAGRAM, b"y")).body == b"y"


def test_a_dropped_epoch_is_refused_from_then_on() -> None:
    receiver, late = sealer("b"), sealer("a")
    receiver.open(late.seal(SCOPE, Kind.DATAGRAM, b"x"))
    receiver.set_epochs(scope_epochs(SCOPE, 2))
    assert refusal(receiver, late.seal(SCOPE, Kind.DATAGRAM, b"x")) is Refusal.UNKNOWN_EPOCH


def test_without_a_current_epoch_nothing_is_sealed() -> None:
    node = sealer("a", keys=scope_epochs(SCOPE, 1, current=2))
    assert not node.can_seal(SCOPE)
    with pytest.raises(KeyError):
        node.seal(SCOPE, Kind.DATAGRAM, b"x")
    node.forget(SCOPE)
    with pytest.raises(KeyError):
        node.seal(SCOPE, Kind.DATAGRAM, b"x")


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(Refused):
        sealer("b").open(junk)


@pytest.mark.parametrize("length", [0, 1, 31, 47])
def test_a_torn_message_is_malformed(length: int) -> None:
    message = sealer("a").seal(SCOPE, Kind.DATAGRAM, b"body")
    assert refusal(sealer("b"), message[:length]) is Refusal.MALFORMED
