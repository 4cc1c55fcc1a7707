"""Managers over real mutual TLS: who may take part, what a client is told, how they come and go."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import grpc.aio
import pytest
from tests.ports import free_port
from tests.unit.raft_cluster import (
    Lines,
    Manager,
    certificate,
    cluster,
    eventually,
    name_of,
    until,
)
from tests.unit.raft_peer import Peer

from swarmnet.api.v1 import raft_pb2, raft_pb2_grpc
from swarmnet.core.errors import (
    FailedPrecondition,
    Internal,
    NoLeader,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    ResourceExhausted,
)
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.raft.member import Member, message_of
from swarmnet.manager.raft.node import RaftNode, Tuning, Wire
from swarmnet.manager.tls import node_channel


async def told(
    asking: Manager, asked: Manager, *messages: raft_pb2.RaftMessage
) -> raft_pb2.RaftWelcome | None:
    """What `asked` says to `asking`'s Raft last: refused, or nothing before it ends the connection."""
    peer = await Peer.connect(asking.credentials, asked.member)
    peer.greet(asking.member)
    last = None
    while (said := await peer.welcome()) is not None:
        last = said
        if said == raft_pb2.RaftWelcome():
            peer.send(raft_pb2.RaftBatch(messages=messages))
    return last


async def test_a_lone_manager_leads_at_once_and_answers(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        only = made.new()
        await only.start(bootstrap=True)
        await until(lambda: only.node.is_leader)
        assert await only.node.propose(b"word") == 3
        await only.node.read_barrier()
        assert only.node.leader == only.member
        with pytest.raises(FailedPrecondition, match="only manager"):
            await only.node.remove_member(only.node_id)


async def test_followers_apply_the_same_and_name_the_leader(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        await asyncio.gather(*(leader.node.propose(b"%d" % number) for number in range(50)))
        await until(lambda: all(each.machine.lines == leader.machine.lines for each in made.managers))
        assert len(leader.machine.lines) == 50
        follower = next(each for each in made.managers if each is not leader)
        assert follower.node.leader == leader.member
        assert leader.node.reachable(follower.node_id)
        for call in (follower.node.propose(b"word"), follower.node.read_barrier()):
            with pytest.raises(NotLeader) as refused:
                await call
            assert leader.member.address in refused.value.hint


async def test_what_cannot_be_applied_is_an_answer_and_blocks_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        with pytest.raises(Internal, match="could not be applied"):
            await made.put(b"poison")
        with pytest.raises(ResourceExhausted, match="above the limit"):
            await made.put(bytes(600 * 1024))
        await made.put(b"after")
        assert made.managers[0].machine.lines == [b"after"]


async def test_without_a_majority_nothing_is_promised_and_the_leader_steps_down(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        others = [each for each in made.managers if each is not leader]
        await asyncio.gather(*(each.stop() for each in others))
        with pytest.raises(OutcomeUnknown, match="may still be made"):
            await leader.node.propose(b"word", timeout_s=0.2)
        await until(lambda: not leader.node.is_leader)
        with pytest.raises(NoLeader, match="does not have a leader"):
            await leader.node.propose(b"word")
        for each in others:
            await each.start()
        await made.put(b"again")


async def test_who_is_left_of_a_lost_majority_names_no_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RaftNode, "hand_over", lambda _node: asyncio.sleep(0))  # as if it were killed
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        follower, left = (each for each in made.managers if each is not leader)
        await until(lambda: left.node.leader == leader.member)
        await asyncio.gather(leader.stop(), follower.stop())
        await until(lambda: left.node.leader is None)
        with pytest.raises(NoLeader):
            await left.node.propose(b"word")
        assert (await left.node.standing()).leader_id is None


async def test_a_stopped_leader_hands_over(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        await made.put(b"before")
        await leader.stop()
        stopped_at = time.monotonic()
        await made.put(b"after")
        assert time.monotonic() - stopped_at < 0.5


async def test_a_manager_comes_back_at_another_address(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        mover = next(each for each in made.managers if each is not made.leaders()[0])
        await mover.stop()
        await made.put(b"while away")
        mover.port, mover.raft_port = free_port(), free_port()
        await mover.start()
        leader = await made.leader()
        await until(lambda: mover.machine.lines == leader.machine.lines)
        await until(lambda: all(each.node.members[mover.node_id] == mover.member for each in made.managers))


async def test_a_manager_far_behind_gets_a_snapshot(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3, Tuning(log_entries=20)) as made:
        leader = await made.leader()
        late = next(each for each in made.managers if each is not leader)
        await late.stop()
        for number in range(100):
            await made.put(b"%d" % number)
        await late.start()
        await until(lambda: late.machine.lines == leader.machine.lines)
        assert late.machine.restored > 0
        joiner = made.new()
        await joiner.join(leader)
        await until(lambda: joiner.machine.lines == leader.machine.lines)
        assert set(joiner.node.members) == {each.node_id for each in made.managers}


async def test_a_removed_manager_has_no_part_any_more(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        gone = next(each for each in made.managers if each is not leader)
        async with gone.channel(leader.member) as channel:
            await raft_pb2_grpc.RaftStub(channel).Leave(raft_pb2.RaftLeaveRequest(node_id=gone.node_id))
        assert set(leader.node.members) == {each.node_id for each in made.managers if each is not gone}
        assert await told(gone, leader) == raft_pb2.RaftWelcome(refused=True)
        with pytest.raises(NotFound):
            await leader.node.remove_member(gone.node_id)
        with pytest.raises(NotLeader):
            await leader.node.remove_member(leader.node_id)
        await made.put(b"after")


async def test_a_removed_manager_does_not_stand_against_the_leader_that_removed_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as made:
        leader = await made.leader()
        gone = next(each for each in made.managers if each is not leader)
        await until(lambda: gone.node.reachable(leader.node_id))
        await leader.node.remove_member(gone.node_id)
        await until(lambda: not gone.node.reachable(leader.node_id))
        term, engine = leader.node._engine._raft.term, gone.node._engine
        await until(lambda: engine._election._asked_term is not None)
        await made.put(b"after")
        assert (leader.node._engine._raft.term, engine._raft.term) == (term, term)


async def test_strangers_and_workers_are_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        leader = await made.leader()
        stranger = Manager(name_of(8), certificate(made.root, name_of(8)), tmp_path)
        worker = Manager(name_of(9), certificate(made.root, name_of(9), CallerRole.WORKER), tmp_path)
        assert await told(stranger, leader) == raft_pb2.RaftWelcome(refused=True)
        assert await told(worker, leader) is None
        assert leader.refused["PERMISSION_DENIED"] == 2
        async with stranger.channel(leader.member) as channel:
            for_another = raft_pb2.RaftJoinRequest(
                member=message_of(Member(name_of(7), "127.0.0.1:1", "127.0.0.1:2"))
            )
            with pytest.raises(grpc.aio.AioRpcError, match="for itself only"):
                await raft_pb2_grpc.RaftStub(channel).Join(for_another)


async def test_a_member_that_talks_nonsense_is_cut_off(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as made:
        leader = await made.leader()
        other = next(each for each in made.managers if each is not leader)
        assert await told(other, leader, raft_pb2.RaftMessage(term=9)) == raft_pb2.RaftWelcome()
        assert leader.refused["INVALID_ARGUMENT"] == 1
        await made.put(b"after")


async def test_a_joiner_that_cannot_be_reached_is_not_added(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        leader = await made.leader()
        joiner = Manager(name_of(2), certificate(made.root, name_of(2)), tmp_path)
        with pytest.raises(FailedPrecondition, match="cannot reach"):
            await leader.node.admit(joiner.member)
        assert set(leader.node.members) == {leader.node_id}
        await made.put(b"after")


async def test_two_that_join_at_once_take_turns(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        leader = await made.leader()
        joiners = [made.new(), made.new()]
        await asyncio.gather(*(each.join(leader) for each in joiners))
        await until(lambda: all(len(each.node.members) == 3 for each in made.managers))
        await made.put(b"after")


async def test_another_key_does_not_start_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as made:
        only = made.managers[0]
        await only.stop()
        with pytest.raises(FailedPrecondition, match="does not open"):
            await RaftNode.start(
                wire=Wire(only.member, PeerSecurity(lambda: only.credentials), Counter()),
                directory=only.directory,
                kek=SecretBytes(b"w" * 32),
                machine=Lines(),
                dial=lambda member: node_channel(only.credentials, member.address),
                on_leadership=lambda _leads: None,
            )


async def test_a_state_machine_that_breaks_stops_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, 1, Tuning(log_entries=5)) as made:
        only = made.managers[0]

        def broken() -> None:
            raise MemoryError

        monkeypatch.setattr(only.machine, "freeze", broken)
        outcomes = await asyncio.gather(
            *(only.node.propose(b"%d" % number, 1.0) for number in range(20)), return_exceptions=True
        )
        assert outcomes
        with pytest.raises(MemoryError):
            await asyncio.wait_for(asyncio.shield(only.node.failed), 5.0)
        assert not only.node.is_leader


async def test_a_manager_that_was_away_follows_a_leader_that_joined_meanwhile(tmp_path: Path) -> None:
    """Its log does not name that leader, which it hears of from the members that it knows."""
    async with cluster(tmp_path, 3) as made:
        first = await made.leader()
        away = next(each for each in made.managers if each is not first)
        await away.stop()
        joined = made.new()
        await joined.join(first)
        there = [each for each in made.managers if each is not away]
        await until(lambda: all(joined.node.reachable(each.node_id) for each in there))
        await eventually(lambda: first.node.transfer(joined.node_id), FailedPrecondition)
        await until(lambda: joined.node.is_leader)
        await joined.node.propose(b"word")
        await away.start()
        await until(lambda: away.machine.lines == [b"word"])
        assert away.node.leader == joined.member
        assert set(away.node.members) == {each.node_id for each in made.managers}
