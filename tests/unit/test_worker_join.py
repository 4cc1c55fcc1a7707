"""Joining as a worker: the root is pinned before the token is sent, and nothing else gets a node in."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.stand_in_manager import CLUSTER, WORKER, StandIn, running

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import BadToken, Internal, InvalidArgument, Unavailable
from swarmnet.manager.ca.authority import Authority
from swarmnet.worker import hostport
from swarmnet.worker.identity import IdentityFiles
from swarmnet.worker.join import enrol, prepare


@pytest.fixture
async def manager() -> AsyncIterator[StandIn]:
    manager = StandIn()
    async with running(manager):
        yield manager


async def test_a_token_becomes_an_identity(manager: StandIn) -> None:
    enrolment = await enrol(manager.token, [manager.bootstrap], "w1", prepare())
    assert (enrolment.identity.node_id, enrolment.identity.cluster_id) == (WORKER, CLUSTER)
    assert enrolment.managers == (manager.address,)
    assert manager.token.text() not in repr(enrolment)


async def test_an_address_that_does_not_answer_is_passed_over(manager: StandIn) -> None:
    enrolment = await enrol(manager.token, ["127.0.0.1:1", manager.bootstrap], "w1", prepare())
    assert enrolment.identity.fits()


async def test_no_answer_anywhere_names_the_address(manager: StandIn) -> None:
    with pytest.raises(Unavailable, match=r"cannot reach a manager at 127\.0\.0\.1:1: ") as caught:
        await enrol(manager.token, ["127.0.0.1:1"], "w1", prepare())
    assert "swarmnet-manager runs there" in caught.value.hint


async def test_the_token_is_not_sent_to_a_swarm_that_it_does_not_pin(manager: StandIn) -> None:
    other = StandIn(Authority.create("x" * 25, datetime.now(UTC)))
    with pytest.raises(BadToken, match="remote CA does not match the token's fingerprint"):
        await enrol(other.token, [manager.bootstrap], "w1", prepare())
    assert manager.tokens_seen == []


async def test_the_token_is_not_sent_to_one_who_only_shows_the_root(manager: StandIn) -> None:
    """A man in the middle can hand on the true root, but has no certificate of it."""
    real = StandIn()
    manager.shown_root = real.root.root_pem
    with pytest.raises(Unavailable):
        await enrol(real.token, [manager.bootstrap], "w1", prepare())
    assert manager.tokens_seen == []


async def test_a_rotated_token_gets_the_managers_own_words(manager: StandIn) -> None:
    with pytest.raises(BadToken, match="A valid join token is necessary to join this cluster"):
        await enrol(manager.made_token(b"x" * 16), [manager.bootstrap], "w1", prepare())


async def test_a_managers_token_is_refused(manager: StandIn) -> None:
    manager.role = types.ROLE_MANAGER
    with pytest.raises(InvalidArgument, match="token is for a manager, and this is a worker"):
        await enrol(manager.token, [manager.bootstrap], "w1", prepare())


async def test_joining_nowhere_is_refused(manager: StandIn) -> None:
    with pytest.raises(InvalidArgument, match="no manager's address"):
        await enrol(manager.token, [], "w1", prepare())


def test_an_identity_is_found_again_and_is_for_its_owner_only(tmp_path: Path) -> None:
    files, identity = IdentityFiles(tmp_path), StandIn().worker()
    assert files.load() is None
    files.save(identity)
    assert files.load() == identity
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "certificates").iterdir()}
    assert modes == {0o600}
    files.erase()
    assert files.load() is None


def test_a_crash_in_a_renewal_leaves_an_identity(tmp_path: Path) -> None:
    """The new certificate is there, its key still under the other name."""
    files, manager = IdentityFiles(tmp_path), StandIn()
    old, new = manager.worker(), manager.worker()
    files.save(old)
    folder = tmp_path / "certificates"
    (folder / "node.key.next").write_bytes(new.key.reveal())
    assert files.load() == old
    (folder / "node.pem").write_bytes(new.certificate_pem)
    assert files.load() == new


def test_an_identity_that_does_not_fit_together_is_not_used(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    files.save(StandIn().worker())
    (tmp_path / "certificates/root.pem").write_bytes(StandIn().root.root_pem)
    with pytest.raises(Internal, match="do not belong together"):
        files.load()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("m1", ("m1", 2378)),
        ("10.0.0.1:7", ("10.0.0.1", 7)),
        ("fd00::1", ("fd00::1", 2378)),
        ("[fd00::1]", ("fd00::1", 2378)),
        ("[fd00::1]:9", ("fd00::1", 9)),
    ],
)
def test_addresses_are_read_as_operators_write_them(text: str, parts: tuple[str, int]) -> None:
    assert hostport.split(text, 2378) == parts
    assert hostport.split(hostport.join(*parts), 1) == parts


@pytest.mark.parametrize("text", ["", ":1", "m1:0", "m1:70000", "m1:x", "a b", "unix:/x", "a,b"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid address"):
        hostport.split(text, 2378)


@pytest.mark.parametrize("text", ["0.0.0.0", "224.0.0.1", "w1", ""])
def test_an_address_that_others_cannot_use_names_the_flag(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        hostport.checked_host(text, "--advertise-addr")
    assert "--advertise-addr" in caught.value.hint
