"""A manager's files open with one unlock key, or none, whatever moment it is killed while that changes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.control_api import HERE, NO_CONTEXT, MadeUpManagers, make_api, make_swarm
from tests.unit.local_raft import edit
from tests.unit.raft_cluster import until
from tests.unit.raft_log import ME, SMALL
from tests.unit.searched import words_in

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    BadUnlockKey,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NoLeader,
    ResourceExhausted,
    SwarmLocked,
)
from swarmnet.core.secret import SecretBytes
from swarmnet.core.unlock_key import parse_unlock_key, unlock_key_text
from swarmnet.manager import locking
from swarmnet.manager.ca import files as files_module
from swarmnet.manager.ca import keyfile as keyfile_module
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.identity import Caller, CallerRole, set_caller
from swarmnet.manager.limiter import ATTEMPT_PAUSE_S, Attempts
from swarmnet.manager.locking import Locking
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.disk import REAL_DISK, replace_file
from swarmnet.manager.raft.seal import DataKey, load_data_keys
from swarmnet.manager.raft.storage import Storage
from swarmnet.manager.store import Store

OLD, NEW = (SecretBytes(bytes([number]) * 32) for number in (1, 2))


# The key as text


def test_an_unlock_key_looks_like_dockers() -> None:
    key = SecretBytes(bytes(range(32)))
    text = "SWMKEY-1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert unlock_key_text(key) == text
    assert parse_unlock_key(f" {text}\n") == key


@pytest.mark.parametrize(
    "text", ["", "SWMKEY-1-", "SWMKEY-1-AAEC", "SWMTKN-1-" + "A" * 43, "A" * 43, "SWMKEY-1-" + "*" * 43, "é"]
)
def test_what_is_no_unlock_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_unlock_key(text)
    assert refused.value.message == "invalid unlock key"
    assert refused.value.hint.startswith("An unlock key looks like SWMKEY-1-<43 characters>.")


# A manager's files


def credentials() -> Credentials:
    root, key = Authority.create("c" * 25, datetime.now(UTC)), new_key()
    subject = Subject("n" * 25, CallerRole.MANAGER, "c" * 25)
    certificate = root.issue(signing_request(key), subject, datetime.now(UTC), 3600)
    return Credentials(certificate, private_pem(key), root.root_pem)


def manager(folder: Path, unlock_key: SecretBytes | None) -> tuple[IdentityFiles, Storage]:
    """The files of a running one, of the lock's generation 1."""
    folder.mkdir(exist_ok=True)
    files = IdentityFiles(folder)
    files.lock.make(1, unlock_key)
    files.save(credentials())
    return files, storage.create(folder / "raft", files.lock.keks()[-1], [ME], layout=SMALL)


def turn(files: IdentityFiles, stored: Storage, unlock_key: SecretBytes | None) -> None:
    """All that a change of the lock does to the files, in order."""
    files.lock.turn(2, unlock_key)
    assert stored.seal_under(files.lock.keks()[-1]) is None
    files.reseal()
    files.lock.forget_old()


def opened(folder: Path, unlock_key: SecretBytes | None) -> tuple[Credentials | None, DataKey]:
    """What a restarted manager works with. SwarmLocked, BadUnlockKey when this does not open it."""
    files = IdentityFiles(folder)
    if unlock_key is not None:
        if not files.lock.needs_unlock_key:
            raise BadUnlockKey("it needs none")
        files.lock.unlock(unlock_key)
    kek = storage.fitting(folder / "raft", files.lock.keks())
    found = storage.open_existing(folder / "raft", kek, layout=SMALL)
    found.close()
    return files.load(), found.keys.newest


@pytest.mark.parametrize(("before", "after"), [(None, NEW), (OLD, NEW), (OLD, None), (None, None)])
def test_a_turn_killed_at_any_write_opens_with_one_key_and_is_finished_later(
    before: SecretBytes | None, after: SecretBytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, stored = manager(tmp_path / "m", before)
    original, data_key = files.load(), stored.keys.newest.secret
    copies: list[Path] = []

    def copying(write: Callable[..., None], *given: Any) -> None:
        """A copy of the directory is what a kill leaves: before a file is replaced, and in the middle."""
        for half in (False, True):
            copies.append(tmp_path / f"at-{len(copies)}")
            shutil.copytree(tmp_path / "m", copies[-1])
            if half:
                path, raw = given[-2].relative_to(tmp_path / "m"), given[-1]
                (copies[-1] / path).with_name(path.name + ".tmp").write_bytes(raw[: len(raw) // 2])
        write(*given)

    for module in (files_module, keyfile_module):
        monkeypatch.setattr(module, "write_file", partial(copying, module.write_file))
    monkeypatch.setattr("swarmnet.manager.raft.seal.replace_file", partial(copying, replace_file))
    turn(files, stored, after)
    stored.close()
    monkeypatch.undo()
    copies.append(tmp_path / "m")
    assert len(copies) == 2 * (1 + 1 + 3 + 1) + 1

    turned = [finished(copy, before, after) for copy in copies]
    assert turned == sorted(turned), "from some write on it is the new one"
    assert {*turned} == {False, True}
    for copy in copies:
        identity, key = opened(copy, after)
        assert (identity, key.secret) == (original, data_key)
        assert len(IdentityFiles(copy).lock.keks() if after is None else [None]) == 1
    assert opened(tmp_path / "m", after)[0] == original


def finished(copy: Path, before: SecretBytes | None, after: SecretBytes | None) -> bool:
    """Whether it had turned already; what was left to do is done, as the manager does when it is started."""
    files = IdentityFiles(copy)
    try:
        if files.lock.needs_unlock_key:
            assert (before, after) != (None, None)
            files.lock.unlock(after if after is not None else OLD)
        turned = files.lock.keks() and files.lock.generation == 2
    except BadUnlockKey:
        assert before is not None
        files.lock.unlock(before)
        turned = False
    kek = storage.fitting(copy / "raft", files.lock.keks())
    stored = storage.open_existing(copy / "raft", kek, layout=SMALL)
    if not turned:
        turn(files, stored, after)
    else:
        assert stored.seal_under(files.lock.keks()[-1]) is None
        files.reseal()
        files.lock.forget_old()
    stored.close()
    return bool(turned)


def test_a_locked_manager_gives_nothing_away_and_a_wrong_key_changes_nothing(tmp_path: Path) -> None:
    files, stored = manager(tmp_path, OLD)
    stored.close()
    identity = files.load()
    assert identity is not None
    secrets = [stored.keys.newest.secret.reveal(), files.lock.keks()[-1].reveal(), OLD.reveal()]
    assert words_in(tmp_path, [*secrets, *identity.key.reveal().splitlines()[1:-1]]) == []
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    closed = IdentityFiles(tmp_path)
    assert closed.lock.needs_unlock_key
    subject = closed.subject()
    assert subject is not None
    assert subject.node_id == "n" * 25
    for act in (closed.load, closed.lock.keks, closed.reseal, lambda: closed.save(identity)):
        with pytest.raises(SwarmLocked, match='Please use "swarmnet swarm unlock" to unlock it'):
            act()
    with pytest.raises(BadUnlockKey, match="invalid key provided"):
        closed.lock.unlock(NEW)
    with pytest.raises(SwarmLocked):
        closed.load()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    closed.lock.unlock(OLD)
    assert closed.load() == identity
    assert not closed.lock.needs_unlock_key


def test_a_key_file_of_another_generation_or_a_damaged_one_does_not_open(tmp_path: Path) -> None:
    files, stored = manager(tmp_path, OLD)
    stored.close()
    whole = (tmp_path / "kek").read_bytes()
    changed = store.KeyEncryptionFile.FromString(whole)
    changed.generation = 7
    (tmp_path / "kek").write_bytes(changed.SerializeToString())
    with pytest.raises(BadUnlockKey):
        IdentityFiles(tmp_path).lock.unlock(OLD)
    (tmp_path / "kek").write_bytes(b"\xff" + whole)
    with pytest.raises(Internal, match="is damaged"):
        IdentityFiles(tmp_path).lock.keks()
    del files


def test_what_becomes_a_worker_needs_no_unlock_key_and_has_no_state(tmp_path: Path) -> None:
    files, stored = manager(tmp_path, OLD)
    stored.close()
    identity = files.load()
    files.forget_swarm()
    files.forget_swarm()
    assert not (tmp_path / "raft").exists()
    assert IdentityFiles(tmp_path).load() == identity


def test_attempts_are_held_up_after_one_that_failed() -> None:
    now = [100.0]
    attempts = Attempts(lambda: now[0])
    attempts.check()
    attempts.check()
    attempts.failed()
    with pytest.raises(ResourceExhausted, match="too many attempts"):
        attempts.check()
    now[0] += ATTEMPT_PAUSE_S
    attempts.check()


# Following the swarm's setting


class RaftFiles:
    """Raft's part, without Raft."""

    def __init__(self, stored: Storage) -> None:
        self._stored = stored

    @property
    def data_key(self) -> DataKey:
        return self._stored.keys.newest

    def renew_data_key(self) -> None:
        self._stored.keys.renew(1)

    async def seal_under(self, kek: SecretBytes) -> None:
        assert self._stored.seal_under(kek) is None


class Identity:
    def __init__(self) -> None:
        self.replaced = 0

    async def replace_key(self) -> None:
        self.replaced += 1
        raise NoLeader


class Follower:
    """A manager's Locking beside a swarm; `reports` fail as often as `refusals` says."""

    def __init__(self, swarm: Store, folder: Path, stored: Storage, files: IdentityFiles) -> None:
        self.swarm, self.files, self.folder, self.stored = swarm, files, folder, stored
        self.identity, self.reported, self.refusals = Identity(), list[int](), 0
        self.locking = Locking(
            HERE, swarm, files, RaftFiles(stored), identity=self.identity, report=self._report
        )

    async def _report(self, generation: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise NoLeader
        self.reported.append(generation)
        set_caller(Caller(HERE, CallerRole.MANAGER))
        api = make_api(self.swarm, MadeUpManagers())
        await api.ReportLock(control.ReportLockRequest(generation=generation), NO_CONTEXT)

    async def until(self, condition: Callable[[], bool]) -> None:
        running = asyncio.create_task(self.locking.run())
        try:
            await until(condition)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture
def swarm() -> Store:
    return make_swarm()


@pytest.fixture
def follower(swarm: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follower:
    monkeypatch.setattr(locking, "_RETRY_S", 0.0)
    monkeypatch.setattr(locking, "_LOOK_S", 0.0)
    files = IdentityFiles(tmp_path)
    files.save(credentials())
    stored = storage.create(tmp_path / "raft", files.lock.keks()[-1], [ME], layout=SMALL)
    return Follower(swarm, tmp_path, stored, files)


async def update(swarm: Store, **request: Any) -> None:
    api = make_api(swarm, MadeUpManagers())
    await api.UpdateCluster(control.UpdateClusterRequest(**request), NO_CONTEXT)


async def unlock_key(swarm: Store) -> control.GetUnlockKeyResponse:
    return await make_api(swarm, MadeUpManagers()).GetUnlockKey(control.GetUnlockKeyRequest(), NO_CONTEXT)


async def lock_of(swarm: Store, node_id: str = HERE) -> str:
    request = control.GetRequest(ref=node_id)
    managers = MadeUpManagers({HERE: True, "node-m2": False})
    return (await make_api(swarm, managers).GetNode(request, NO_CONTEXT)).lock


async def test_a_manager_follows_every_change_and_says_so(follower: Follower, swarm: Store) -> None:
    assert await lock_of(swarm) == ""
    first_kek, first_data_key = follower.files.lock.keks()[-1], follower.stored.keys.newest.number
    await update(swarm, autolock=True)
    assert await lock_of(swarm) == await lock_of(swarm, "node-m2") == "behind"
    assert list((await unlock_key(swarm)).behind) == ["m1", "m2"]
    await follower.until(lambda: follower.identity.replaced == 1 and len(follower.files.lock.keks()) == 1)
    assert (await lock_of(swarm), await lock_of(swarm, "node-m2")) == ("current", "behind")
    answer = await unlock_key(swarm)
    assert list(answer.behind) == ["m2"]
    assert follower.files.lock.keks()[-1] != first_kek
    assert follower.stored.keys.newest.number > first_data_key
    opened_with(follower, answer.unlock_key)

    await update(swarm, rotate_unlock_key=True)
    rotated = (await unlock_key(swarm)).unlock_key
    assert rotated != answer.unlock_key
    await follower.until(lambda: follower.identity.replaced == 2 and len(follower.files.lock.keks()) == 1)
    opened_with(follower, rotated)
    with pytest.raises(BadUnlockKey):
        opened_with(follower, answer.unlock_key)

    await update(swarm, autolock=False)
    await follower.until(lambda: follower.identity.replaced == 3 and len(follower.files.lock.keks()) == 1)
    assert not IdentityFiles(follower.folder).lock.needs_unlock_key
    assert follower.reported == [1, 2, 3]


def opened_with(follower: Follower, text: str) -> None:
    files = IdentityFiles(follower.folder)
    files.lock.unlock(parse_unlock_key(text))
    assert files.load() is not None
    load_data_keys(REAL_DISK, follower.folder / "raft/data.keys", files.lock.keks()[-1])


async def test_what_was_interrupted_or_refused_is_gone_on_with(follower: Follower, swarm: Store) -> None:
    await update(swarm, autolock=True)
    key = parse_unlock_key((await unlock_key(swarm)).unlock_key)
    follower.files.lock.turn(1, key)
    follower.refusals = 2
    await follower.until(lambda: len(follower.files.lock.keks()) == 1)
    assert follower.reported == [1]
    opened_with(follower, unlock_key_text(key))


async def test_an_older_setting_that_a_restarted_manager_passes_through_is_not_followed(
    follower: Follower, swarm: Store
) -> None:
    follower.files.lock.turn(5, NEW)
    await update(swarm, autolock=True)
    await follower.until(lambda: len(follower.files.lock.keks()) == 1)
    assert follower.files.lock.generation == 5
    opened_with(follower, unlock_key_text(NEW))


async def test_the_lock_is_changed_only_if_that_is_a_change(swarm: Store) -> None:
    with pytest.raises(FailedPrecondition, match="no unlock key is set"):
        await unlock_key(swarm)
    with pytest.raises(FailedPrecondition, match="no unlock key is set"):
        await update(swarm, rotate_unlock_key=True)
    with pytest.raises(FailedPrecondition, match="no unlock key is set"):
        await update(swarm, autolock=False, rotate_unlock_key=True)
    await update(swarm, autolock=False)
    assert cluster(swarm).lock_generation == 0
    await update(swarm, autolock=True)
    key = (await unlock_key(swarm)).unlock_key
    await update(swarm, autolock=True)
    assert ((await unlock_key(swarm)).unlock_key, cluster(swarm).lock_generation) == (key, 1)
    await update(swarm, autolock=True, rotate_unlock_key=True)
    assert ((await unlock_key(swarm)).unlock_key != key, cluster(swarm).lock_generation) == (True, 2)
    await update(swarm, autolock=False)
    known = next(iter(swarm.state.all(store.ClusterSecrets)))
    assert (known.unlock_key, cluster(swarm).autolock, cluster(swarm).lock_generation) == (b"", False, 3)


def cluster(swarm: Store) -> types.Cluster:
    found = swarm.state.cluster()
    assert found is not None
    return found


async def test_no_report_takes_a_manager_back(swarm: Store) -> None:
    edit(swarm.state, types.Node, HERE, lambda node: setattr(node, "lock_generation", 5))
    set_caller(Caller(HERE, CallerRole.MANAGER))
    api = make_api(swarm, MadeUpManagers())
    await api.ReportLock(control.ReportLockRequest(generation=3), NO_CONTEXT)
    node = swarm.state.get(types.Node, HERE)
    assert node is not None
    assert node.lock_generation == 5
