"""What an epoch's retirement takes out of the state is soon in no file of any manager, whoever opens it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.island import Host, Island, eventually, island
from tests.e2e.secrets_of import kek_of, state_of
from tests.unit.raft_opened import files_of, keys_in, opened

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.core.secrecy import secrets_in


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Island]:
    with island(tmp_path) as made:
        yield made


def epoch_secrets(host: Host, folder: Path) -> set[bytes]:
    """Of every scope, by a backup made now."""
    scopes = state_of(host, folder).all(store.ScopeSecrets)
    return {secret for scope in scopes for secret in secrets_in(scope)}


def readable(host: Host, secrets: set[bytes]) -> set[bytes]:
    """Which of these stand in this manager's files, opened with every key that is on its disk."""
    directory = host.folder / "state/raft"
    try:
        text = opened(files_of(directory), keys_in(directory, kek_of(host)))
    except FileNotFoundError:  # the manager is at work: look again
        return secrets
    return {each for each in secrets if each in text}


def test_a_retired_epoch_can_be_read_in_no_managers_files_and_no_later_backup(
    shore: Island, tmp_path: Path
) -> None:
    first = shore.host("manager")
    first.ok("swarm", "init")
    managers = [first, *(shore.joined("manager", first) for _ in range(2))]
    first.ok("network", "create", "--driver", "overlay", "--opt", "encrypted", "front")
    old = epoch_secrets(first, tmp_path)
    assert len(old) == 2
    for each in managers:
        eventually(lambda each=each: readable(each, old) == old)  # type: ignore[misc]
    lagging = managers[2]
    lagging.kill()

    first.ok("key", "rotate")
    eventually(lambda: not old & epoch_secrets(first, tmp_path))
    new = epoch_secrets(first, tmp_path)
    assert len(new) == 2
    for each in managers[:2]:
        eventually(partial(forgot, each, old))
        assert readable(each, new) == new
    assert readable(lagging, old) == old, "a manager that is down keeps what it has"
    lagging.start()
    eventually(partial(forgot, lagging, old))
    assert readable(lagging, new) == new
    assert first.ok("network", "ls", "-q") == lagging.ok("network", "ls", "-q") != ""


def forgot(host: Host, secrets: set[bytes]) -> bool:
    return not readable(host, secrets)
