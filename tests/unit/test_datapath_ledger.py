"""The ledger of used keys, and the reports that managers get."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.datapath_cases import desired, network

from swarmnet.core.datapath.layout import Layout, layout
from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.errors import Internal
from swarmnet.worker.datapath.ledger import Count, Ledger
from swarmnet.worker.datapath.report import NetworkReport, report

WISH = desired(network(phase="prepared"))
NET = WISH.networks[0].id
WANTED = layout(WISH, 1500)
OUTBOUND = [sa for sa in WANTED.sas.values() if sa.outbound]
INBOUND = [sa for sa in WANTED.sas.values() if not sa.outbound]


def reported(actual: Layout) -> NetworkReport:
    return report(WISH, WANTED, actual, {}, frozenset())[NET]


def begins(path: Path, *sas: Sa) -> list[int]:
    """Of a ledger that was read anew, as after a restart."""
    found = Ledger(path).begin(sas)
    return [found[sa.fingerprint] for sa in sas]


def test_a_key_begins_at_0_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.json"
    assert begins(path, *OUTBOUND, *INBOUND) == [0] * 8
    assert not any(Ledger(path).lost(sa) for sa in WANTED.sas.values())


def test_an_sa_that_was_taken_away_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Packets may have left after the kernel was asked; none was received after the SA was gone."""
    path = tmp_path / "ledger.json"
    begins(path, OUTBOUND[0], INBOUND[0])
    Ledger(path).end({OUTBOUND[0].fingerprint: Count(sent=7), INBOUND[0].fingerprint: Count(received=5)})
    assert begins(path, OUTBOUND[0], INBOUND[0]) == [7 + (1 << 20), 5]
    assert not Ledger(path).lost(OUTBOUND[0])


def test_an_sa_that_vanished_goes_on_where_none_has_been_and_its_key_is_lost(tmp_path: Path) -> None:
    """Nobody saw how far it had come: the host restarted, or somebody flushed the kernel's tables."""
    path = tmp_path / "ledger.json"
    assert [begins(path, OUTBOUND[0])[0] for _ in range(3)] == [0, 1 << 48, 2 << 48]
    assert [Ledger(path).lost(sa) for sa in OUTBOUND] == [True, False, False, False]
    begins(path, INBOUND[0])
    assert begins(path, INBOUND[0]) == [0]  # what it received is not known, but what it sends is nobody's
    assert Ledger(path).lost(INBOUND[0])
    Ledger(path).end({OUTBOUND[0].fingerprint: Count(sent=(2 << 48) + 1)})
    assert begins(path, OUTBOUND[0]) == [(2 << 48) + 1 + (1 << 20)]
    assert Ledger(path).lost(OUTBOUND[0])


def test_beyond_32_bits_a_new_receiver_cannot_follow(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    begins(path, OUTBOUND[0])
    Ledger(path).end({OUTBOUND[0].fingerprint: Count(sent=1 << 32)})
    begins(path, OUTBOUND[0])
    assert Ledger(path).lost(OUTBOUND[0])


def test_a_foreign_sa_that_goes_is_not_noted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    Ledger(path).end({"unknown": Count(sent=1)})
    assert not path.exists()


def test_epochs_that_are_over_are_forgotten_and_absent_networks_are_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    for _ in range(2):
        ledger.begin(OUTBOUND)
    ledger.forget({"another": frozenset({9})})
    assert all(ledger.lost(sa) for sa in OUTBOUND)
    ledger.forget({NET: frozenset({2})})
    found = Ledger(tmp_path / "ledger.json")
    assert {sa.epoch: found.lost(sa) for sa in OUTBOUND} == {1: False, 2: True}


def test_the_file_holds_no_key_and_is_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    Ledger(path).begin(OUTBOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for sa in OUTBOUND:
        assert sa.key is not None
        assert sa.key.reveal().hex() not in path.read_text()


def test_a_damaged_ledger_is_named_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text('{"net": [')
    with pytest.raises(Internal, match=str(path)):
        Ledger(path)
    assert path.read_text() == '{"net": ['


def test_erase_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.begin([*OUTBOUND, *OUTBOUND])
    ledger.erase()
    assert not any(ledger.lost(sa) for sa in OUTBOUND)
    assert list(tmp_path.iterdir()) == []


def test_all_as_wanted_is_reported_so() -> None:
    assert reported(WANTED) == NetworkReport((1, 2), 1)


def test_an_epoch_that_lacks_one_sa_is_not_installed() -> None:
    for missing in WANTED.sas.values():
        kept = {id_: sa for id_, sa in WANTED.sas.items() if sa != missing}
        found = reported(replace(WANTED, sas=kept))
        assert found.installed == tuple(number for number in (1, 2) if number != missing.epoch)


def test_an_sa_of_another_key_does_not_count() -> None:
    forged = {id_: replace(sa, fingerprint="") for id_, sa in WANTED.sas.items()}
    assert reported(replace(WANTED, sas=forged)) == NetworkReport((), 0)


def test_sending_is_what_every_policy_says_or_nothing() -> None:
    switched = layout(desired(network(phase="switched")), 1500).policies
    assert reported(replace(WANTED, policies=switched)).sending == 2
    one = next(policy for policy in switched.values() if not policy.guard)
    assert reported(replace(WANTED, policies=WANTED.policies | {one.id: one})).sending == 0


def test_without_a_guard_or_the_device_nothing_is_installed() -> None:
    for guard in [policy for policy in WANTED.policies.values() if policy.guard]:
        kept = {id_: policy for id_, policy in WANTED.policies.items() if policy != guard}
        assert reported(replace(WANTED, policies=kept)) == NetworkReport((), 0)
    assert reported(replace(WANTED, networks={})) == NetworkReport((), 0)


def test_a_network_without_peers_acknowledges_what_it_was_given() -> None:
    wish = desired(network(peers=(), phase="switched"))
    wanted = layout(wish, 1500)
    assert report(wish, wanted, wanted, {}, frozenset())[NET] == NetworkReport((1, 2), 2)


def test_failures_and_exhaustion_are_told() -> None:
    found = report(WISH, WANTED, WANTED, {f"sn-{NET[:12]}": "no room"}, frozenset({NET}))
    assert found[NET] == NetworkReport((1, 2), 1, error="no room", exhausted=True)
