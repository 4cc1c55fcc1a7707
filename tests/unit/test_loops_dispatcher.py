"""Sessions: what a worker is told, what is believed of what it says, and how a session ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.unit import local_raft as local
from tests.unit.dispatcher_bench import MANAGERS, Bench, assigned, new_worker, running
from tests.unit.obedient_worker import ObedientWorker

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, InvalidArgument, NotLeader, SwarmnetError, Unavailable
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import State, Transaction
from swarmnet.core.timestamps import duration, stamp
from swarmnet.manager import dispatcher_inquiries, dispatcher_pusher
from swarmnet.manager.dispatcher import _register
from swarmnet.manager.dispatcher_assignment import Picture
from swarmnet.manager.dispatcher_liveness import Liveness
from swarmnet.manager.dispatcher_status import Statuses
from swarmnet.manager.identity import Caller, CallerRole, set_caller


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running() as made:
        yield made


async def fails(awaitable: Awaitable[object], kind: type[SwarmnetError]) -> str:
    with pytest.raises(kind) as raised:
        await awaitable
    return raised.value.message


async def test_a_hello_makes_a_node_ready_as_it_describes_itself(bench: Bench) -> None:
    worker = bench.worker(1)
    first = await worker.until(lambda a: True)
    node = bench.node(1)
    assert (node.state, node.hostname, node.address) == (types.NODE_STATE_READY, "w1", "192.0.2.1:7946")
    assert node.capabilities.esp
    assert (first.sequence, first.node_id, first.node_index) == (1, "node-w1", 1)
    assert list(first.managers) == list(MANAGERS)
    assert first.heartbeat_period_ms == 5000
    assert [keys.scope for keys in first.keys] == [GOSSIP_SCOPE]
    assert list(first.tasks) == list(first.networks) == []


async def test_an_assignment_has_all_of_the_nodes_own_and_nothing_of_others(bench: Bench) -> None:
    workers = [bench.worker(n) for n in (1, 2, 3)]
    for worker in workers:
        await worker.until(lambda a: len(a.gossip_peers) == 2)
    await bench.put(assigned("t1", "node-w1", "net-net"), assigned("t2", "node-w2", "net-net"))
    mine = await workers[0].until(lambda a: len(a.networks) == 1)
    assert [(t.task.meta.id, t.service_name) for t in mine.tasks] == [("t1", "web")]
    assert [(p.node_id, p.node_index, p.data_path_address) for p in mine.networks[0].peers] == [
        ("node-w2", 2, "192.0.2.2")
    ]
    assert {k.scope: len(k.epochs[0].secret) for k in mine.keys} == {GOSSIP_SCOPE: 32, "net-net": 32}
    assert [keys.scope for keys in workers[2].latest.keys] == [GOSSIP_SCOPE]


async def test_a_report_moves_a_task_on_and_causes_no_new_assignment(bench: Bench) -> None:
    worker, other = bench.worker(1), bench.worker(2)
    await bench.put(assigned("t1", "node-w1"))
    await worker.until(lambda a: len(a.tasks) == 1 and len(a.gossip_peers) == 1)
    told = len(worker.received)
    worker.report("t1", types.TASK_STATE_PREPARING)
    worker.report("t1", types.TASK_STATE_RUNNING, "ready")
    await bench.until(lambda: bench.task("t1").message == "ready")
    await bench.put(assigned("t2", "node-w2"))
    await other.until(lambda a: len(a.tasks) == 1)
    assert len(worker.received) == told


async def test_changes_close_together_are_one_assignment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_pusher, "COALESCE_S", 1.0)  # a busy machine takes its time to make 20
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    told = len(worker.received)
    for number in range(20):
        await bench.put(assigned(f"t{number}", "node-w1"))
        await asyncio.sleep(0)
    await worker.until(lambda a: len(a.tasks) == 20)
    assert len(worker.received) <= told + 2


async def test_a_second_session_ends_the_first(bench: Bench) -> None:
    first = bench.worker(1)
    await first.until(lambda a: True)
    second = bench.worker(1)
    await second.until(lambda a: True)
    assert "another session" in await fails(first.ended(), Unavailable)
    await bench.put(assigned("t1", "node-w1"))
    await second.until(lambda a: len(a.tasks) == 1)


async def test_leaving_is_down_at_once_and_rekeys_gossip(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    worker.say(leave=dispatcher.Leave())
    await worker.ended()
    assert (bench.node(1).state, bench.node(1).message) == (types.NODE_STATE_DOWN, "it left the swarm")
    scope = bench.store.state.get(types.KeyScope, GOSSIP_SCOPE)
    assert scope is not None
    assert (scope.again, scope.reason) == (True, "node left")


async def test_a_removed_node_is_told_so_during_its_session_and_after(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    await bench.change(lambda t: t.remove(bench.node(1)))
    await worker.ended()
    assert "removed" in worker.removed
    again = bench.worker(1)
    await again.ended()
    assert "removed" in again.removed
    assert again.received == []


async def test_a_fenced_node_loses_its_session_and_may_register_again(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "fenced", True))
    assert "marked down" in await fails(worker.ended(), Unavailable)
    again = bench.worker(1)
    await again.until(lambda a: True)
    assert not bench.node(1).fenced


async def test_a_silent_node_is_down_after_three_heartbeats(bench: Bench) -> None:
    silent, talking = bench.worker(1), bench.worker(2)
    await silent.until(lambda a: True)
    await talking.until(lambda a: True)
    bench.now += 14
    heard = asyncio.Event()
    bench.service.acks.on_change = heard.set
    talking.acknowledge()
    await heard.wait()
    bench.now += 2
    await bench.edit(types.Node, "node-w3", lambda n: n.labels.update(wake="loop"))
    await bench.until(lambda: bench.node(1).state == types.NODE_STATE_DOWN)
    assert bench.node(1).message == "no heartbeat for 15 s"
    assert bench.node(2).state == types.NODE_STATE_READY
    assert "marked down" in await fails(silent.ended(), Unavailable)


async def test_when_another_manager_leads_sessions_end_with_the_reason(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    bench.service.close_sessions(NotLeader("m2 leads"))
    assert await fails(worker.ended(), NotLeader) == "m2 leads"
    assert await fails(bench.worker(1).ended(), NotLeader) == "m2 leads"


async def test_two_live_nodes_cannot_have_one_data_path_address(bench: Bench) -> None:
    await bench.worker(1).until(lambda a: True)
    impostor = ObedientWorker(bench.service, "w2", 1)
    impostor.node_id = "node-w2"
    assert "is that of node w1" in await fails(impostor.ended(), AlreadyExists)


async def test_data_path_addresses_are_of_one_ip_version(bench: Bench) -> None:
    await bench.worker(1).until(lambda a: True)
    other = bench.worker(2, data_path_address="fd00::2")
    assert "is of another IP version than 192.0.2.1 of node w1" in await fails(other.ended(), InvalidArgument)


async def test_peers_know_whose_esp_goes_in_udp(bench: Bench) -> None:
    mine = bench.worker(1)
    await bench.worker(2, data_path_udp=True).until(lambda a: True)
    await bench.put(assigned("t1", "node-w1", "net-net"), assigned("t2", "node-w2", "net-net"))
    found = await mine.until(lambda a: any(p.data_path_udp for n in a.networks for p in n.peers))
    assert [peer.node_id for peer in found.networks[0].peers] == ["node-w2"]


async def test_questions_reach_their_nodes_and_answers_whoever_asked(bench: Bench) -> None:
    one, two = bench.worker(1), bench.worker(2)
    for worker in (one, two):
        await worker.until(lambda a: True)
    asked = asyncio.create_task(
        bench.service.inquiries.ask(["node-w1", "node-w2", "node-w3"], dispatcher.Question())
    )
    for worker, text in ((two, "second"), (one, "first")):
        question = await worker.question()
        worker.say(answer=dispatcher.Answer(id=question.id + 1000, error="to nobody"))
        worker.say(answer=dispatcher.Answer(id=question.id, error=text))
    found = await asked
    assert {node: each.error for node, each in found.items()} == {
        "node-w1": "first",
        "node-w2": "second",
        "node-w3": "it has no session with the managers",
    }


async def test_a_node_that_does_not_answer_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_inquiries, "QUESTION_TIMEOUT_S", 0.05)
    await bench.worker(1).until(lambda a: True)
    found = await bench.service.inquiries.ask(["node-w1"], dispatcher.Question())
    assert found["node-w1"].error == "no answer within 8 s"


def hello(**changed: object) -> dispatcher.WorkerMessage:
    fields: dict[str, object] = {
        "hostname": "w1",
        "gossip_address": "192.0.2.1:7946",
        "data_path_address": "192.0.2.1",
    }
    return dispatcher.WorkerMessage(hello=dispatcher.Hello(**{**fields, **changed}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [dispatcher.WorkerMessage(heartbeat=dispatcher.Heartbeat())],
        [dispatcher.WorkerMessage()],
        [hello(hostname="a b")],
        [hello(data_path_address="everywhere")],
        [hello(gossip_address="192.0.2.1")],
        [hello(gossip_address="192.0.2.1:70000")],
        [hello(capabilities=types.NodeCapabilities(images=["x" * 1000] * 70))],
        [hello(key_offer=b"short")],
        [hello(key_offer=bytes(32))],
        [hello(), hello()],
        [hello(), dispatcher.WorkerMessage()],
    ],
)
async def test_a_session_that_makes_no_sense_is_refused(
    bench: Bench, messages: list[dispatcher.WorkerMessage]
) -> None:
    async def said() -> AsyncIterator[dispatcher.WorkerMessage]:
        for message in messages:
            yield message

    set_caller(Caller("node-w1", CallerRole.WORKER))
    with pytest.raises(InvalidArgument):
        async for _ in bench.service.Session(said(), None):
            pass


def test_a_session_that_opens_while_a_new_leader_takes_stock_ends_ready() -> None:
    """It finds its node ready and changes nothing; the stock-taking that did not hear of it commits after."""
    hello = dispatcher.Hello(hostname="w1", gossip_address="192.0.2.1:7946", data_path_address="192.0.2.1")
    state, liveness = State(), Liveness()
    local.fill(state, new_worker("w1", 1))
    _commit(state, lambda transaction: _register(transaction, "node-w1", hello))
    stock = Transaction(state)
    liveness.plan(stock, 0.0)
    assert _commit(state, lambda transaction: _register(transaction, "node-w1", hello)) is None
    liveness.heard("node-w1", 0.0)
    state.apply(state.index + 1, _encoded(stock))
    assert [node.state for node in state.all(types.Node)] == [types.NODE_STATE_UNKNOWN]
    _commit(state, lambda transaction: liveness.plan(transaction, 0.0))
    assert [(node.state, node.message) for node in state.all(types.Node)] == [(types.NODE_STATE_READY, "")]


def _encoded(transaction: Transaction) -> bytes:
    command = transaction.command(stamp(local.NOW))
    return command.SerializeToString() if command is not None else b""


def _commit(state: State, decide: Callable[[Transaction], object]) -> object:
    """What applying it said; None when it changes nothing."""
    transaction = Transaction(state)
    decide(transaction)
    raw = _encoded(transaction)
    return state.apply(state.index + 1, raw) if raw else None


def test_gossip_seeds_are_the_next_few_ready_nodes_around() -> None:
    state = State()
    local.fill(state, *(local.node(f"w{n}", n) for n in range(8, 0, -1)))
    local.edit(state, types.Node, "node-w8", lambda n: setattr(n, "state", types.NODE_STATE_DOWN))
    sixth = state.get(types.Node, "node-w6")
    assert sixth is not None
    seeds = Picture(state, ()).assignment(sixth).gossip_peers
    assert [each.node_id for each in seeds] == [f"node-w{n}" for n in (7, 1, 2, 3, 4)]


def status(task_id: str, state: types.TaskState.ValueType, message: str = "") -> dispatcher.TaskStatus:
    return dispatcher.TaskStatus(task_id=task_id, state=state, message=message, exit_code=3)


def test_a_status_is_believed_of_the_tasks_own_node_and_only_forward() -> None:
    state = State()
    local.fill(state, assigned("t", "node-w1"))
    statuses = Statuses(state)
    assert not statuses.offer("node-w2", [status("t", types.TASK_STATE_RUNNING)])
    assert not statuses.offer("node-w1", [status("unknown", types.TASK_STATE_RUNNING)])
    assert not statuses.offer("node-w1", [status("t", types.TASK_STATE_ORPHANED)])
    assert not statuses.offer("node-w1", [status("t", types.TASK_STATE_REMOVE)])
    assert statuses.offer("node-w1", [status("t", types.TASK_STATE_FAILED, "exit status 3")])
    assert statuses.offer("node-w1", [status("t", types.TASK_STATE_RUNNING)])
    local.settle(state, statuses.plan)
    (task,) = state.all(types.Task)
    assert (task.state, task.message, task.exit_code) == (types.TASK_STATE_FAILED, "exit status 3", 3)
    assert not statuses.offer("node-w1", [status("t", types.TASK_STATE_REJECTED)])


def test_a_long_message_is_cut() -> None:
    state = State()
    local.fill(state, assigned("t", "node-w1"))
    statuses = Statuses(state)
    statuses.offer("node-w1", [status("t", types.TASK_STATE_FAILED, "x" * 1_000_000)])
    local.settle(state, statuses.plan)
    (task,) = state.all(types.Task)
    assert len(task.message) == 1000


def test_a_new_leader_takes_nodes_for_unknown_and_gives_them_three_heartbeats() -> None:
    state = State()
    local.fill(state, local.node("w1", 1), local.node("w2", 2))
    local.edit(state, types.Cluster, "cluster", lambda c: c.heartbeat_period.CopyFrom(duration(1)))
    liveness = Liveness()
    liveness.heard("node-w1", 99)
    liveness.begin()
    assert local.settle(state, liveness.plan, now=100) == 103
    assert {n.state for n in state.all(types.Node)} == {types.NODE_STATE_UNKNOWN}
    liveness.heard("node-w2", 102)
    local.settle(state, liveness.plan, now=103)
    states = {n.hostname: n.state for n in state.all(types.Node)}
    assert states == {"w1": types.NODE_STATE_DOWN, "w2": types.NODE_STATE_READY}


async def test_a_node_is_told_to_become_a_manager_when_its_last_task_has_ended(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    await bench.put(assigned("t1", "node-w1"))
    await worker.until(lambda a: bool(a.tasks))
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "desired_role", types.ROLE_MANAGER))
    assert not Picture(bench.store.state, MANAGERS).assignment(bench.node(1)).become_manager
    worker.report("t1", types.TASK_STATE_SHUTDOWN)
    await worker.until(lambda a: a.become_manager)


async def test_a_node_that_has_become_a_manager_is_told_so_during_its_session_and_after(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "role", types.ROLE_MANAGER))
    await worker.ended()
    assert worker.removed == "this node is a manager now"
    again = bench.worker(1)
    await again.ended()
    assert again.removed == "this node is a manager now"


async def test_what_a_node_can_do_may_change_during_its_session(bench: Bench) -> None:
    worker = bench.worker(1)
    await worker.until(lambda a: True)
    fresh = types.NodeCapabilities(esp=True, images=["host"], manager=True)
    worker.say(capabilities=fresh)
    await bench.until(lambda: bench.node(1).capabilities == fresh)
    worker.say(capabilities=types.NodeCapabilities(images=["x" * 65536]))
    with pytest.raises(InvalidArgument, match="above the limit"):
        await worker.ended()


async def test_a_demoted_manager_is_done_with_it_when_its_worker_registers(bench: Bench) -> None:
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "demoted", True))
    await bench.edit(types.Node, "node-w1", lambda n: setattr(n, "state", types.NODE_STATE_DOWN))
    await bench.worker(1).until(lambda a: True)
    assert (bench.node(1).demoted, bench.node(1).state) == (False, types.NODE_STATE_READY)
