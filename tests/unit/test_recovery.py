"""A manager becomes the only one: all at once or not at all, with keys that no node ever used."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.unit.local_raft import NOW, commit, fill, network, node
from tests.unit.raft_cluster import KEK, cluster, until

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.core.limits import EPOCHS_SKIPPED
from swarmnet.core.state import State
from swarmnet.manager.keymanager import request_rotation
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.disk import REAL_DISK
from swarmnet.manager.raft.entries import COMMAND, Entry, encode_payload
from swarmnet.manager.raft.member import Member
from swarmnet.manager.recovery import become_only_manager, other_managers

ME = Member("me", "192.0.2.1:2377", "192.0.2.1:2374")
OTHERS = [
    Member(name, f"192.0.2.{at}:2377", f"192.0.2.{at}:2374") for at, name in enumerate(("other", "third"), 2)
]


def manager(name: str, index: int) -> types.Node:
    return types.Node(
        meta=types.Meta(id=f"node-{name}"),
        role=types.ROLE_MANAGER,
        hostname=name,
        index=index,
        address=f"{name}:2377",
    )


def swarm() -> State:
    state = State()
    fill(state, manager("m1", 1), manager("m2", 2), manager("m3", 3), node("w1", 4), network("front"))
    return state


def taken_over(state: State, me: types.Node) -> None:
    become_only_manager(state, me, NOW, state.index + 2)


def test_the_other_managers_go_and_all_else_stays() -> None:
    state = swarm()
    assert other_managers(state, "node-m2") == ("m1", "m3")
    taken_over(state, types.Node(meta=types.Meta(id="node-m2"), role=types.ROLE_MANAGER, address="new:1"))
    found = {each.meta.id: each for each in state.all(types.Node)}
    assert found.keys() == {"node-m2", "node-w1"}
    assert (found["node-m2"].address, found["node-m2"].index, found["node-m2"].hostname) == ("new:1", 2, "m2")
    assert [each.name for each in state.all(types.Network)] == ["front"]


def test_a_new_manager_gets_an_index_of_its_own() -> None:
    state = swarm()
    fresh = types.Node(meta=types.Meta(id="node-new"), role=types.ROLE_MANAGER, hostname="new")
    taken_over(state, fresh)
    found = {each.meta.id: each.index for each in state.all(types.Node)}
    assert found.keys() == {"node-new", "node-w1"}
    assert len({*found.values()}) == 2


def test_every_key_is_new_and_numbered_past_what_may_have_been() -> None:
    state = swarm()
    commit(state, lambda transaction: request_rotation(transaction, ["gossip"], "requested"))
    before = {each.meta.id: dict(each.secrets) for each in state.all(store.ScopeSecrets)}
    taken_over(state, manager("m1", 1))
    for scope in state.all(types.KeyScope):
        assert [(e.number, e.role) for e in scope.epochs] == [(1 + EPOCHS_SKIPPED, types.EPOCH_ROLE_CURRENT)]
        assert (scope.phase, scope.again) == (types.ROTATION_PHASE_STABLE, False)
    after = {each.meta.id: dict(each.secrets) for each in state.all(store.ScopeSecrets)}
    assert after.keys() == before.keys() == {"gossip", "net-front"}
    for scope_id, secrets in after.items():
        assert list(secrets) == [1 + EPOCHS_SKIPPED]
        assert not {*secrets.values()} & {*before[scope_id].values()}


def log_of_three(directory: Path) -> None:
    """A member of three, with two commands of which one is known to be agreed on."""
    stored = storage.create(directory, KEK, [ME, *OTHERS])
    stored.journal.set_vote(3, "other")
    for index, text in ((2, b"agreed on"), (3, b"not agreed on")):
        stored.journal.append(Entry(bytes([COMMAND]) + encode_payload(text), index, 3))
    stored.journal.commit_index = 2
    stored.journal.sync()
    stored.close()


def refound(directory: Path) -> None:
    stored = storage.open_existing(directory, KEK)
    storage.restart_from(stored, ME, b"the state", 5)
    stored.close()


def opened(directory: Path) -> tuple[dict[str, Member], int, int, bytes]:
    """Members, first and last index, and the snapshot's state, if any."""
    stored = storage.open_existing(directory, KEK)
    stored.close()
    state = stored.snapshot.state if stored.snapshot is not None else b""
    return stored.journal.members(), stored.journal.first.index, stored.journal.last.index, state


BEFORE = ({each.node_id: each for each in (ME, *OTHERS)}, 1, 3, b"")
DONE = ({"me": ME}, 4, 5, b"the state")


def test_a_restarted_log_is_the_state_and_one_member(tmp_path: Path) -> None:
    log_of_three(tmp_path)
    assert opened(tmp_path) == BEFORE
    refound(tmp_path)
    assert opened(tmp_path) == opened(tmp_path) == DONE
    stored = storage.open_existing(tmp_path, KEK)
    stored.close()
    assert (stored.journal.term, stored.journal.commit_index) == (3, 5)


def test_restarting_a_log_killed_at_any_step_is_done_or_not_begun(tmp_path: Path) -> None:
    """A copy of the directory is what a kill before each system call leaves."""
    log_of_three(tmp_path / "raft")
    seen: list[Path] = []

    class Copying:
        """RealDisk, with a copy of the directory kept before each call."""

        def __getattr__(self, name: str) -> object:
            act = getattr(REAL_DISK, name)
            shutil.copytree(tmp_path / "raft", tmp_path / f"at-{len(seen)}")
            seen.append(tmp_path / f"at-{len(seen)}")
            return act

    stored = storage.open_existing(tmp_path / "raft", KEK, Copying())  # type: ignore[arg-type]
    storage.restart_from(stored, ME, b"the state", 5)
    stored.close()
    outcomes = [opened(each) for each in seen]
    assert (outcomes[0], opened(tmp_path / "raft")) == (BEFORE, DONE)
    done = [each == DONE for each in outcomes]
    assert done == sorted(done)
    assert all(each in (BEFORE, DONE) for each in outcomes)


async def test_a_survivor_goes_on_with_all_that_it_has_and_the_others_are_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        await made.put(b"agreed on")
        others = [each for each in made.managers if each is not leader]
        await asyncio.gather(*(each.stop() for each in others))
        with pytest.raises(SwarmnetError):
            await leader.node.propose(b"not agreed on", timeout_s=0.3)
        await leader.stop()
        stored = await asyncio.to_thread(storage.open_existing, leader.directory, KEK)
        end = stored.journal.last.index
        storage.restart_from(stored, leader.member, b"agreed on\nnot agreed on\ntaken over", end + 2)
        stored.close()

        await leader.start()
        await until(lambda: leader.node.is_leader)
        await leader.node.propose(b"alone")
        assert leader.machine.lines == [b"agreed on", b"not agreed on", b"taken over", b"alone"]
        assert leader.node.members.keys() == {leader.node_id}

        await asyncio.gather(*(each.start() for each in others))
        await until(lambda: any(each.node.is_leader for each in others))
        await leader.node.propose(b"undisturbed")
        assert leader.node.members.keys() == {leader.node_id}
        assert not any(leader.node.reachable(each.node_id) for each in others)
        assert all(b"undisturbed" not in each.machine.lines for each in others)


async def test_a_log_starts_from_a_state(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        only = made.new()
        storage.create_from(only.directory, KEK, only.member, b"one\ntwo", 7)
        with pytest.raises(FailedPrecondition, match="already holds"):
            storage.create_from(only.directory, KEK, only.member, b"", 7)
        await only.start()
        await until(lambda: only.node.is_leader)
        assert await only.node.propose(b"three") == 9  # 7 is in the state, 8 is the new leader's own
        assert only.machine.lines == [b"one", b"two", b"three"]
        await made.new().join(only)
        await until(lambda: made.managers[1].machine.lines == only.machine.lines)
        await only.stop()
        await only.start()
        await until(lambda: only.machine.lines == [b"one", b"two", b"three"])
