"""The worker's stream: reports and heartbeats up, assignments down, another manager when one dies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.stand_in_manager import StandIn, Stream, assignment, running

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.api.v1.encryption_pb2 import ProbeQuestion
from swarmnet.core.errors import NoLeader
from swarmnet.core.key_chain import KeyOffer
from swarmnet.core.limits import MAX_QUESTIONS
from swarmnet.worker import session as session_module
from swarmnet.worker.channel import node_channel
from swarmnet.worker.identity import IdentityFiles
from swarmnet.worker.places import Managers
from swarmnet.worker.renewal import Renewal
from swarmnet.worker.session import Session

RUNNING = dispatcher.TaskStatus(task_id="t1", state=types.TASK_STATE_RUNNING)
FAILED = dispatcher.TaskStatus(task_id="t2", state=types.TASK_STATE_FAILED, exit_code=1)
KEYS = dispatcher.KeyReport(scopes=[dispatcher.ScopeReport(scope="gossip", installed=[1], sending=1)])


class Worker:
    def __init__(self, state_dir: Path, *managers: StandIn) -> None:
        identity = managers[0].worker()
        self.got: asyncio.Queue[dispatcher.Assignment] = asyncio.Queue()
        self.managers = Managers(state_dir, random.Random(1))
        self.managers.replace(assignment(*managers).managers)
        self.session = Session(
            self.managers,
            lambda address: node_channel(address, identity),
            lambda: dispatcher.Hello(hostname="w1"),
            self.got.put_nowait,
            random.Random(1),
            answer=self.answer,
        )

    async def answer(self, question: dispatcher.Question) -> dispatcher.Answer:
        return dispatcher.Answer(id=question.id, error=f"asked for {question.probe.network_id}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[dispatcher.Removed | None]]:
        job = asyncio.create_task(self.session.run())
        try:
            yield job
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)


@pytest.fixture
async def manager() -> AsyncIterator[StandIn]:
    manager = StandIn()
    async with running(manager):
        yield manager


async def test_hello_comes_first_then_reports_as_they_change(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running():
        stream = await manager.stream()
        assert (await stream.next("hello")).hostname == "w1"
        stream.assign(assignment(manager))
        await worker.got.get()
        worker.session.report({"t1": RUNNING}, KEYS)
        assert list((await stream.next("tasks")).statuses) == [RUNNING]
        assert await stream.next("keys") == KEYS
        worker.session.report({"t1": RUNNING, "t2": FAILED}, KEYS)
        assert list((await stream.next("tasks")).statuses) == [FAILED]
        assert worker.session.manager_id == "manager 0"


async def test_keys_come_sealed_for_this_session_alone(manager: StandIn, tmp_path: Path) -> None:
    scope = dispatcher.ScopeKeys(scope="gossip", epochs=[dispatcher.EpochKey(number=1, secret=b"s" * 32)])
    keys = dispatcher.Keys(scopes=[scope]).SerializeToString()
    worker = Worker(tmp_path, manager)
    async with worker.running():
        stream = await manager.stream()
        mine = KeyOffer(b"m" * 32)
        chain = mine.managers_end((await stream.next("hello")).key_offer)
        stream.assign(assignment(manager, key_offer=mine.public, sealed_keys=chain.seal(keys)))
        assert list((await worker.got.get()).keys) == [scope]
        sealed = chain.seal(keys)
        stream.assign(assignment(manager, sealed_keys=sealed))
        assert list((await worker.got.get()).keys) == [scope]
        stream.assign(assignment(manager, sealed_keys=sealed))  # told again: whoever does that is no manager
        await stream.ended()
        assert worker.got.empty()
        again = await manager.stream()
        offer = (await again.next("hello")).key_offer
        with pytest.raises(ValueError, match="not sealed by the other end"):
            KeyOffer(b"m" * 32).managers_end(offer).open(sealed)
        assert "keys of assignment 0 cannot be opened" in worker.session.last_error


async def test_what_the_manager_asks_is_answered(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running():
        stream = await manager.stream()
        await stream.next("hello")
        stream.assign(assignment(manager))
        stream.ask(dispatcher.Question(id=7, probe=ProbeQuestion(network_id="net")))
        assert await stream.next("answer") == dispatcher.Answer(id=7, error="asked for net")


async def test_what_a_node_noticed_waits_until_somebody_can_be_told(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    worker.session.notice(dispatcher.NodeNotice(action="repair", reason=f"{n}") for n in range(100))
    async with worker.running():
        stream = await manager.stream()
        await stream.next("hello")
        stream.assign(assignment(manager))
        told = (await stream.next("notices")).notices
        assert [each.reason for each in told] == [f"{n}" for n in range(36, 100)]
        worker.session.notice([dispatcher.NodeNotice(action="path", reason="last")])
        assert [each.reason for each in (await stream.next("notices")).notices] == ["last"]


async def test_more_questions_than_a_node_takes_are_refused(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    for_ever = asyncio.Event()

    async def think(question: dispatcher.Question) -> dispatcher.Answer:
        await for_ever.wait()
        return dispatcher.Answer(id=question.id)

    worker.session._inquiries._answer = think
    async with worker.running():
        stream = await manager.stream()
        await stream.next("hello")
        stream.assign(assignment(manager))
        for number in range(MAX_QUESTIONS + 1):
            stream.ask(dispatcher.Question(id=number))
        refused = await stream.next("answer")
        assert (refused.id, refused.error) == (MAX_QUESTIONS, "this node has questions enough to answer")
        for_ever.set()
        assert {(await stream.next("answer")).id for _ in range(MAX_QUESTIONS)} == set(range(MAX_QUESTIONS))


async def test_a_worker_without_news_sends_heartbeats(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running():
        stream = await manager.stream()
        await stream.next("hello")
        stream.assign(assignment(manager, heartbeat_period_ms=10))
        await worker.got.get()
        worker.session.report({}, KEYS)
        await stream.next("keys")
        await stream.next("heartbeat")
        await stream.next("heartbeat")


async def test_when_its_manager_dies_the_next_hears_everything_again(tmp_path: Path) -> None:
    first = StandIn()
    second = StandIn(first.root)
    async with running(first, second):
        worker = Worker(tmp_path, first, second)
        async with worker.running():
            stream = await _first_stream(first, second)
            stream.assign(assignment(first, second))
            await worker.got.get()
            here, there = (first, second) if stream.manager is first else (second, first)
            await stream.next("hello")
            worker.session.report({"t1": RUNNING}, KEYS)
            await stream.next("tasks")
            await here.kill()
            again = await there.stream()
            await again.next("hello")
            assert list((await again.next("tasks")).statuses) == [RUNNING]
            assert await again.next("keys") == KEYS


async def _first_stream(*managers: StandIn) -> Stream:
    """Whichever manager the worker chooses."""
    waiting = [asyncio.create_task(each.stream()) for each in managers]
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in others:
        each.cancel()
    return done.pop().result()


async def test_a_refusal_is_tried_again(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running():
        for _ in range(3):
            (await manager.stream()).close(NoLeader())
        stream = await manager.stream()
        assert worker.session.last_error == NoLeader().message
        stream.assign(assignment(manager))
        await worker.session.established.wait()
        assert worker.session.last_error == ""


async def test_a_removed_node_is_told_why(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running() as job:
        (await manager.stream()).remove("it was removed")
        removed = await job
        assert removed is not None
        assert removed.reason == "it was removed"


async def test_leave_is_said_before_the_stream_ends(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, manager)
    async with worker.running():
        stream = await manager.stream()
        await stream.next("hello")
        stream.assign(assignment(manager))
        await worker.session.established.wait()
        leaving = asyncio.create_task(worker.session.leave())
        await stream.next("leave")
        stream.close()
        assert await leaving


async def test_leaving_without_a_manager_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_LEAVE_TIMEOUT_S", 0.2)
    gone = StandIn()
    async with running(gone):
        pass
    worker = Worker(tmp_path, gone)
    async with worker.running():
        assert not await worker.session.leave()


async def test_a_manager_of_another_swarm_is_not_believed(manager: StandIn, tmp_path: Path) -> None:
    worker = Worker(tmp_path, StandIn(), manager)
    worker.managers.replace(assignment(manager).managers)
    async with worker.running():
        async with asyncio.timeout(10):
            while not worker.session.last_error:  # noqa: ASYNC110 - a refused handshake tells nobody
                await asyncio.sleep(0.01)
        assert manager.streams.empty()
        assert "certificate" in worker.session.last_error.lower()


def test_the_manager_tried_last_comes_last(tmp_path: Path) -> None:
    managers = Managers(tmp_path, random.Random(3))
    managers.replace(
        [dispatcher.ManagerAddress(node_id=each, address=f"{each}:2377") for each in ("a", "b", "c")]
    )
    assert {managers.order("a:2377")[-1].node_id for _ in range(20)} == {"a"}
    assert len({managers.order("")[0].node_id for _ in range(20)}) > 1


def test_managers_are_found_again_after_a_restart(tmp_path: Path) -> None:
    managers = Managers(tmp_path, random.Random(3))
    managers.replace([dispatcher.ManagerAddress(node_id="a", address="a:2377")])
    assert not managers.replace([])
    managers.save()
    again = Managers(tmp_path, random.Random(3))
    again.load()
    assert again.addresses == ("a:2377",)


async def test_renewal_gives_a_new_certificate_for_a_new_key(manager: StandIn, tmp_path: Path) -> None:
    identity = manager.worker()
    managers = Managers(tmp_path, random.Random(1))
    managers.replace(assignment(manager).managers)
    files = IdentityFiles(tmp_path)
    renewal = Renewal(identity, files, managers, lambda a: node_channel(a, identity), random.Random(1))
    await renewal.renew()
    assert renewal.identity.node_id == identity.node_id
    assert renewal.identity.key != identity.key
    assert files.load() == renewal.identity


def test_renewal_is_due_between_half_and_four_fifths_of_a_certificates_life() -> None:
    identity = StandIn().worker()
    now = datetime.now(UTC)
    days = [(identity.renew_at(point) - now).total_seconds() / 86400 for point in (0, 1)]
    assert days == pytest.approx([45, 72], abs=0.01)
