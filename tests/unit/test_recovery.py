"""A manager becomes the only one: all at once or not at all, with keys that no node ever used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.local_raft import NOW, commit, fill, network, node
from tests.unit.raft_cluster import KEK, cluster, until

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.core.limits import EPOCHS_SKIPPED, MAX_COMMAND_BYTES
from swarmnet.core.state import Applied, State
from swarmnet.manager.keymanager import create_scope, request_rotation
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.entries import COMMAND, Entry, decode_payload, encode_payload
from swarmnet.manager.raft.member import Member
from swarmnet.manager.recovery import become_only_manager, other_managers

ME = Member("me", "192.0.2.1:2377")
OTHERS = [Member("other", "192.0.2.2:2377"), Member("third", "192.0.2.3:2377")]


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


def taken_over(state: State, me: types.Node) -> list[bytes]:
    return list(become_only_manager(state, me, NOW, state.index + 1))


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


def test_the_commands_replay_to_the_same_state_and_fit_the_log() -> None:
    state, replica = swarm(), State()
    for number in range(1200):
        commit(state, lambda t, number=number: create_scope(t, f"net-{number}", NOW, 60))  # type: ignore[misc]
    replica.restore(state.freeze()())
    commands = taken_over(state, manager("m1", 1))
    assert len(commands) == 4
    for raw in commands:
        assert len(raw) <= MAX_COMMAND_BYTES
        assert isinstance(replica.apply(replica.index + 1, raw), Applied)
    assert replica.freeze()() == state.freeze()()


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
    storage.refound(stored, ME, lambda first: [f"first at {first}".encode(), b"second"])
    stored.close()


def files(folder: Path) -> dict[Path, bytes]:
    return {each.relative_to(folder): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_refounding_keeps_the_log_and_leaves_one_member(tmp_path: Path) -> None:
    log_of_three(tmp_path)
    refound(tmp_path)
    stored = storage.open_existing(tmp_path, KEK)
    journal = stored.journal
    stored.close()
    texts = [decode_payload(each.command[1:]) for each in journal.entries if each.command[0] == COMMAND]
    assert texts == [b"agreed on", b"not agreed on", b"first at 6", b"second"]
    assert journal.members() == {"me": ME}
    assert (journal.term, journal.vote, journal.commit_index) == (4, "me", journal.last.index)
    assert journal.last.index == 7


def test_refounding_killed_at_any_byte_is_done_or_not_begun(tmp_path: Path) -> None:
    log_of_three(tmp_path / "raft")
    before = files(tmp_path / "raft")
    refound(tmp_path / "raft")
    after = files(tmp_path / "raft")
    (changed,) = [each for each in after if after[each] != before.get(each)]
    old, new = before[changed], after[changed]
    outcomes = []
    for cut in [*range(0, len(new), 5), len(new)]:
        (tmp_path / "raft" / changed).write_bytes(new[:cut] + old[cut:])
        stored = storage.open_existing(tmp_path / "raft", KEK)
        outcomes.append((len(stored.journal.members()), stored.journal.last.index))
        stored.close()
    done = (1, 7)
    assert outcomes == [(3, 3)] * outcomes.index(done) + [done] * outcomes.count(done)


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
        storage.refound(stored, leader.member, lambda _first: [b"taken over"])
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
