"""The chain under which a session's keys are sealed: used once, in order, and not to be gone back on."""

from __future__ import annotations

import pytest

from swarmnet.core.key_chain import KeyChain, KeyOffer


def ends() -> tuple[KeyChain, KeyChain]:
    worker, manager = KeyOffer(b"w" * 32), KeyOffer(b"m" * 32)
    return manager.managers_end(worker.public), worker.workers_end(manager.public)


def test_what_one_end_seals_the_other_opens_in_order() -> None:
    manager, worker = ends()
    sealed = [manager.seal(b"keys"), manager.seal(b"keys"), manager.seal(b"")]
    assert len(set(sealed)) == 3
    assert [worker.open(each) for each in sealed] == [b"keys", b"keys", b""]


def test_a_message_opens_once() -> None:
    manager, worker = ends()
    sealed = manager.seal(b"keys")
    worker.open(sealed)
    with pytest.raises(ValueError, match="out of order"):
        worker.open(sealed)


def test_nothing_opens_with_another_pair_or_another_partners() -> None:
    manager, _ = ends()
    stranger = KeyOffer(b"x" * 32).workers_end(KeyOffer(b"m" * 32).public)
    with pytest.raises(ValueError, match="not sealed by the other end"):
        stranger.open(manager.seal(b"keys"))


def test_the_link_of_a_message_is_overwritten_by_the_next() -> None:
    manager, _ = ends()
    link = manager._link
    before = link.reveal()
    manager.seal(b"keys")
    assert link.reveal() == bytes(len(before))
    assert manager._link.reveal() != before
    assert any(manager._link.reveal())


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32)])
def test_what_is_no_public_key_is_refused(public: bytes) -> None:
    """Zeros would make a secret that everybody knows (RFC 7748, section 6.1)."""
    with pytest.raises(ValueError):
        KeyOffer(b"m" * 32).managers_end(public)
