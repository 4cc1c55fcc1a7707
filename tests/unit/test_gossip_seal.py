from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import scope_epochs

from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip.limits import MAX_BOOTS, MAX_CHANNELS
from swarmnet.core.gossip.seal import OVERHEAD_BYTES, Refusal, Refused, Sealer, receiver
from swarmnet.core.replay import WINDOW

SCOPE = "gossip"
CHALLENGE = bytes(16)


def sealer(node_id: str, boot: int = 1, keys: Epochs | None = None) -> Sealer:
    """It knows a, b and c at boot 1."""
    made = Sealer(node_id, boot)
    made.set_epochs(keys or scope_epochs(SCOPE, 1))
    for other in "abc":
        made.meet(other, 1)
    return made


def said(sender: Sealer, body: bytes = b"body", to: str = "b", boot: int = 1, scope: str = SCOPE) -> bytes:
    return sender.seal(scope, body, receiver(to, boot))


def refusal(opener: Sealer, message: bytes) -> Refusal:
    with pytest.raises(Refused) as refused:
        opener.open(message)
    return refused.value.why


def test_what_one_seals_another_opens() -> None:
    message = said(sealer("a"))
    opened = sealer("b").open(message)
    assert (opened.scope, opened.sender, opened.body) == (SCOPE, "a", b"body")
    assert opened.to == receiver("a", 1)
    assert len(message) == len(b"body") + OVERHEAD_BYTES
    assert b"body" not in message


@given(st.integers(0, 60), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, change: int) -> None:
    message = bytearray(said(sealer("a")))
    message[position % len(message)] ^= change
    with pytest.raises(Refused):
        sealer("b").open(bytes(message))


def test_a_forgery_uses_up_no_counter() -> None:
    message = said(sealer("a"))
    opener = sealer("b")
    assert refusal(opener, message[:-1] + bytes([message[-1] ^ 1])) is Refusal.FORGED
    assert opener.open(message).body == b"body"


def test_a_recording_is_refused() -> None:
    message, opener = said(sealer("a")), sealer("b")
    opener.open(message)
    assert refusal(opener, message) is Refusal.REPLAYED


def test_a_recording_is_refused_by_a_receiver_that_has_restarted_and_by_any_other() -> None:
    message = said(sealer("a"))
    assert refusal(sealer("b", boot=2), message) is Refusal.FORGED
    assert refusal(sealer("c"), message) is Refusal.FORGED


def test_a_restarted_sender_is_heard_as_soon_as_it_is_met_and_its_earlier_boots_never_again() -> None:
    opener, before, after = sealer("b"), sealer("a", boot=1), sealer("a", boot=2)
    for _ in range(3 * WINDOW):
        last = said(before)
    opener.open(last)
    assert refusal(opener, said(after)) is Refusal.ANOTHER_BOOT
    opener.meet("a", 2)
    assert opener.open(said(after, b"after")).body == b"after"
    assert refusal(opener, last) is Refusal.ANOTHER_BOOT
    opener.meet("a", 1)  # somebody lied about it
    assert refusal(opener, last) is Refusal.REPLAYED


def test_who_was_forgotten_and_comes_back_is_heard_from_where_it_was() -> None:
    opener, sender = sealer("b"), sealer("a")
    message = said(sender)
    opener.open(message)
    opener.part("a")
    assert refusal(opener, said(sender)) is Refusal.ANOTHER_BOOT
    opener.meet("a", 1)
    assert refusal(opener, message) is Refusal.REPLAYED
    assert opener.open(said(sender, b"new")).body == b"new"


def test_strangers_are_not_heard() -> None:
    assert refusal(sealer("b"), said(sealer("x"))) is Refusal.STRANGER


def test_own_messages_that_come_back_are_dropped() -> None:
    node = sealer("a")
    assert refusal(node, said(node)) is Refusal.REFLECTED


def test_a_message_of_another_scope_is_not_of_this_one() -> None:
    other = sealer("a", keys=scope_epochs("net", 1))
    assert refusal(sealer("b"), said(other, scope="net")) is Refusal.UNKNOWN_SCOPE


def test_every_live_epoch_is_accepted_and_only_the_current_one_used() -> None:
    opener = sealer("b", keys=scope_epochs(SCOPE, 1, 2, 3, current=2))
    for number in (1, 2, 3):
        sender = sealer("a", number, scope_epochs(SCOPE, number))
        opener.meet("a", number)
        assert opener.open(said(sender, b"x")).body == b"x"
    only_two = sealer("c", keys=scope_epochs(SCOPE, 2))
    assert only_two.open(said(opener, b"y", to="c")).body == b"y"


def test_epochs_are_told_apart_by_their_lowest_bits() -> None:
    opener = sealer("b", keys=scope_epochs(SCOPE, 255, 256, 257, current=256))
    for number in (255, 256, 257):
        sender = sealer("a", number, scope_epochs(SCOPE, number))
        opener.meet("a", number)
        assert opener.open(said(sender, b"x")).body == b"x"


def test_a_dropped_epoch_is_refused_from_then_on() -> None:
    opener, late = sealer("b"), sealer("a")
    opener.open(said(late))
    opener.set_epochs(scope_epochs(SCOPE, 2))
    assert refusal(opener, said(late)) is Refusal.UNKNOWN_EPOCH


def test_without_a_current_epoch_nothing_is_sealed() -> None:
    node = sealer("a", keys=scope_epochs(SCOPE, 1, current=2))
    assert not node.can_seal(SCOPE)
    with pytest.raises(KeyError):
        said(node)
    node.forget(SCOPE)
    with pytest.raises(KeyError):
        said(node)
    with pytest.raises(KeyError):
        node.seal_request(SCOPE, b"x", "b", CHALLENGE)


def test_a_request_is_for_one_listener_and_one_challenge() -> None:
    request = sealer("a").seal_request(SCOPE, b"ask", "b", CHALLENGE)
    opened = Sealer("b", 7)
    opened.set_epochs(scope_epochs(SCOPE, 1))
    assert opened.open_request(request, CHALLENGE).body == b"ask"  # a stranger's, too
    for node, challenge in (("b", b"other challenge."), ("c", CHALLENGE)):
        with pytest.raises(Refused) as refused:
            sealer(node).open_request(request, challenge)
        assert refused.value.why is Refusal.FORGED


def test_a_reply_is_for_the_boot_that_asked() -> None:
    asker, asked = sealer("a"), sealer("b")
    opened = asked.open_request(asker.seal_request(SCOPE, b"ask", "b", CHALLENGE), CHALLENGE)
    reply = asked.seal_reply(SCOPE, b"reply", opened.to, CHALLENGE)
    assert asker.open_reply(reply, "b", CHALLENGE).body == b"reply"
    for node, sender, challenge in (
        (sealer("a", boot=2), "b", CHALLENGE),
        (sealer("a"), "c", CHALLENGE),
        (sealer("a"), "b", b"other challenge."),
    ):
        with pytest.raises(Refused):
            node.open_reply(reply, sender, challenge)


def test_who_uses_up_anothers_counters_is_found_out_and_all_that_was_sealed_becomes_void() -> None:
    """Somebody who holds the key speaks as a, far ahead of its counter, so that a itself is not heard."""
    victim, opener, usurper = sealer("a"), sealer("b"), sealer("a")
    recorded = said(victim)
    opener.open(recorded)
    for _ in range(2 * WINDOW):
        forged = said(usurper)
    opener.open(forged)
    assert refusal(opener, said(victim)) is Refusal.REPLAYED
    opener.open_request(victim.seal_request(SCOPE, b"", "b", CHALLENGE), CHALLENGE)
    assert opener.usurped
    opener.rebind(5)
    assert opener.open(said(victim, b"heard", boot=5)).body == b"heard"
    for old in (recorded, forged):
        assert refusal(opener, old) in {Refusal.REPLAYED, Refusal.FORGED}


def test_an_honest_sender_is_no_usurper() -> None:
    sender, opener = sealer("a"), sealer("b")
    for _ in range(WINDOW // 2):
        opener.open(said(sender))
    opener.open_request(sender.seal_request(SCOPE, b"", "b", CHALLENGE), CHALLENGE)
    assert not opener.usurped


def test_memories_are_bounded() -> None:
    opener = sealer("b")
    for boot in range(5 * MAX_BOOTS):
        opener.meet("a", boot)
    sender = opener._channels._senders[next(iter(opener._channels._senders))]
    assert len(sender._windows) == MAX_BOOTS
    for number in range(MAX_CHANNELS + 9):
        opener._channels.make(number.to_bytes(6, "big") + receiver("a", 1)[:8], "any")
    assert len(opener._channels._channels) == MAX_CHANNELS


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    for open_it in (
        sealer("b").open,
        lambda each: sealer("b").open_request(each, CHALLENGE),
        lambda each: sealer("b").open_reply(each, "a", CHALLENGE),
    ):
        with pytest.raises(Refused):
            open_it(junk)


@pytest.mark.parametrize("length", [0, 1, 28, 43])
def test_a_torn_message_is_malformed(length: int) -> None:
    assert refusal(sealer("b"), said(sealer("a"))[:length]) is Refusal.MALFORMED
