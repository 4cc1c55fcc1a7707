"""A restarted manager of an autolocked swarm has no usable secret until somebody unlocks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.e2e.island import Host, Island, Result, eventually, island
from tests.e2e.secrets_of import (
    from_stdin,
    identity_of,
    secrets_of_manager,
    secrets_of_state,
    state_of,
)
from tests.unit.searched import words_in

from swarmnet.core.errors import SwarmLocked

LOCKED = (
    "Swarm is encrypted and needs to be unlocked before it can be used. Please use "
    '"swarmnet swarm unlock" to unlock it.'
)


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Island]:
    with island(tmp_path) as made:
        yield made


def unlock_key_in(printed: str) -> str:
    found = re.search(r"^    (SWMKEY-1-[A-Za-z0-9+/]{43})$", printed, re.MULTILINE)
    assert found is not None, printed
    return found[1]


def unlock(host: Host, key: str) -> Result:
    with patch("sys.stdin", from_stdin(key)):
        return host.swarmnet("swarm", "unlock")


def swarm_word(host: Host) -> str:
    return host.ok("info").split("Swarm:")[1].split()[0]


def locks(host: Host) -> list[str]:
    return sorted(host.ok("node", "ls", "--format", "{{.Lock}}").split())


def restart(host: Host) -> None:
    host.kill()
    host.start()


def names(host: Host) -> list[str]:
    return sorted(host.ok("network", "ls", "--format", "{{.Name}}").split())


def test_a_locked_manager_has_no_usable_secret_and_serves_nothing_but_the_way_out(
    shore: Island, tmp_path: Path
) -> None:
    first = shore.host("manager")
    key = unlock_key_in(first.ok("swarm", "init", "--autolock"))
    assert first.ok("swarm", "unlock-key", "-q") == f"{key}\n"
    second = shore.joined("manager", first)
    eventually(lambda: locks(first) == ["current"] * 2)
    first.ok("network", "create", "--driver", "overlay", "--opt", "encrypted", "kept")
    eventually(lambda: turned(first, key) and turned(second, key))

    known = secrets_of_state(state_of(first, tmp_path)) | {key.encode()}
    assert len(known) >= 7
    for host in (first, second):
        host.kill()
    for host in (first, second):
        mine = known | secrets_of_manager(host, key)
        assert words_in(host.folder, mine) == []
        with pytest.raises(SwarmLocked):
            identity_of(host).load()
    first.start()
    second.start()
    assert words_in(first.folder, known | secrets_of_manager(first, key)) == []

    assert swarm_word(first) == "locked"
    for command in ("network ls", "node ls", "swarm unlock-key", "swarm init", "raft status", "swarm leave"):
        refused = first.swarmnet(*command.split())
        assert (refused.status, refused.err.splitlines()[0]) == (1, f"Error: {LOCKED}"), command
    wrong = unlock(first, "SWMKEY-1-" + "A" * 43)
    assert (wrong.status, "invalid key provided" in wrong.err) == (1, True)
    hasty = unlock(first, key)
    assert (hasty.status, "too many attempts" in hasty.err) == (1, True)
    malformed = unlock(first, "SWMKEY-1-short")
    assert (malformed.status, "invalid unlock key" in malformed.err) == (1, True)
    assert swarm_word(first) == "locked"

    eventually(lambda: unlock(first, key).status == 0)
    assert unlock(second, key).status == 0
    again = unlock(second, key)
    assert (again.status, "swarm is not locked" in again.err) == (1, True)
    eventually(lambda: names(first) == names(second) == ["kept"])
    log = (first.folder / "log").read_bytes() + (second.folder / "log").read_bytes()
    assert key.encode() not in log


def test_the_search_finds_the_secrets_of_a_swarm_that_is_not_autolocked(
    shore: Island, tmp_path: Path
) -> None:
    """Its key-encryption key is there for whoever has the disk; what that seals is not in clear either."""
    only = shore.host("manager")
    only.ok("swarm", "init")
    known = secrets_of_state(state_of(only, tmp_path))
    mine = secrets_of_manager(only)
    only.kill()
    kek = identity_of(only).lock.keks()[-1].reveal()
    assert words_in(only.folder, known | mine) == [("kek", kek)]
    restart(only)
    assert swarm_word(only) == "active"
    refused = only.swarmnet("swarm", "unlock-key")
    assert (refused.status, "no unlock key is set" in refused.err) == (1, True)


def test_the_lock_is_switched_on_turned_and_switched_off_again(shore: Island) -> None:
    first = shore.host("manager")
    first.ok("swarm", "init")
    second, third = (shore.joined("manager", first) for _ in range(2))
    managers = (first, second, third)
    before = [kek(each) for each in managers]
    key = unlock_key_in(first.ok("swarm", "update", "--autolock"))
    eventually(lambda: locks(first) == ["current"] * 3)
    for each, old in zip(managers, before, strict=True):
        eventually(partial(turned, each, key))
        assert identity_of(each, key).lock.keks()[-1].reveal() != old

    third.kill()
    newer = unlock_key_in(second.ok("swarm", "unlock-key", "--rotate"))
    assert newer != key
    eventually(lambda: locks(first) == ["behind", "current", "current"])
    assert "Not there yet: " in first.ok("swarm", "unlock-key")
    third.start()
    assert swarm_word(third) == "locked"
    assert unlock(third, newer).status == 1
    eventually(lambda: unlock(third, key).status == 0)
    eventually(lambda: locks(first) == ["current"] * 3)
    restart(third)
    assert unlock(third, key).status == 1
    eventually(lambda: unlock(third, newer).status == 0)

    first.ok("swarm", "update", "--autolock=false")
    eventually(lambda: locks(second) == ["current"] * 3)
    for each in (first, second, third):
        restart(each)
        assert swarm_word(each) == "active"
    eventually(lambda: names(third) == [])
    assert third.swarmnet("swarm", "unlock-key", "--rotate").status == 1


def turned(host: Host, key: str) -> bool:
    """Whether nothing of what was before is left."""
    return len(identity_of(host, key).lock.keks()) == 1


def kek(host: Host) -> bytes:
    return identity_of(host).lock.keks()[-1].reveal()


def test_a_locked_manager_can_be_given_up_and_a_locked_swarm_recovered(shore: Island, tmp_path: Path) -> None:
    first = shore.host("manager")
    key = unlock_key_in(first.ok("swarm", "init", "--autolock"))
    second = shore.joined("manager", first)
    eventually(lambda: locks(first) == ["current"] * 2)
    first.ok("network", "create", "--driver", "overlay", "kept")
    (tmp_path / "passphrase").write_text("a passphrase of tests")
    file, passphrase = str(tmp_path / "swarm.backup"), str(tmp_path / "passphrase")
    first.ok("swarm", "backup", file, "--passphrase-file", passphrase)

    restart(second)
    assert second.ok("swarm", "leave", "--force") == "Node left the swarm.\n"
    assert swarm_word(second) == "inactive"
    assert [each.name for each in (second.folder / "state").iterdir()] == ["lock"]
    eventually(lambda: first.swarmnet("swarm", "init", "--force-new-cluster").status == 0)
    restart(first)
    assert unlock(first, key).status == 0
    eventually(lambda: names(first) == ["kept"])

    first.kill()
    second.ok("swarm", "restore", file, "--passphrase-file", passphrase)
    assert unlock_key_in(second.ok("swarm", "unlock-key")) == key
    restart(second)
    assert swarm_word(second) == "locked"
    assert unlock(second, key).status == 0
    eventually(lambda: names(second) == ["kept"])
