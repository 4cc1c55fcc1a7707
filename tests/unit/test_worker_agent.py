"""The agent: from assignments and rumours to data path, gossip and tasks, and what it reports of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.unit.stand_in_manager import WORKER

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.datapath.desired import Desired
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.epochs import Epochs
from swarmnet.core.errors import Internal
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.worker import agent as agent_module
from swarmnet.worker import neighbours
from swarmnet.worker.agent import Agent
from swarmnet.worker.assignment import key_report, keys_of
from swarmnet.worker.datapath.report import NetworkReport, Report
from swarmnet.worker.executor import TaskSpec

NET, TASK, PEER = "n" * 25, "t" * 25, "p" * 25
ENDPOINT = Endpoint(NET, "u" * 25, ip_address("10.0.1.4"), "02:42:0a:00:01:04", PEER)


class Kernel:
    """Programs whatever it is asked to, but for `failures`, of which each network or task id has one."""

    def __init__(self) -> None:
        self.desired: list[Desired] = []
        self.failures: dict[str, str] = {}
        self.broken: OSError | None = None
        self.mended = 0
        self.repairs: dict[str, str] = {}

    async def apply(self, desired: Desired) -> Report:
        if self.broken is not None:
            raise self.broken
        self.desired.append(desired)
        return self._report()

    async def reconcile(self) -> Report:
        self.mended += 1
        return replace(self._report(), repairs=self.repairs)

    def task_namespace(self, task_id: str) -> Path:
        return Path("/run/netns", task_id)

    def descriptor_to_hold(self) -> int:
        return -1

    def _report(self) -> Report:
        desired = self.desired[-1]
        networks = {
            each.id: NetworkReport(
                installed=each.epochs.numbers(),
                sending=each.epochs.current.number if each.epochs.current else 0,
                error=self.failures.get(each.id, ""),
            )
            for each in desired.networks
        }
        ids = [each.task_id for each in desired.tasks]
        return Report(networks, {id_: self.failures[id_] for id_ in ids if id_ in self.failures})


@dataclass
class Gossip:
    epochs: dict[str, Epochs] = field(default_factory=dict)
    peers: dict[str, frozenset[str]] = field(default_factory=dict)
    published: dict[str, list[tuple[Endpoint, bytes]]] = field(default_factory=dict)
    heard: tuple[Endpoint, ...] = ()
    speaking: tuple[str, ...] = (PEER,)
    seeds: list[tuple[str, str]] = field(default_factory=list)
    key: bytes = b""

    def set_endpoint_key(self, public: bytes) -> None:
        self.key = public

    def set_epochs(self, epochs: Epochs) -> None:
        self.epochs[epochs.scope] = epochs

    def forget(self, scope: str) -> None:
        del self.epochs[scope]

    def set_peers(self, network_id: str, peers: frozenset[str]) -> None:
        self.peers[network_id] = peers

    def join(self, seeds: Sequence[tuple[str, str]]) -> None:
        self.seeds = list(seeds)

    def publish(self, network_id: str, endpoints: Sequence[tuple[Endpoint, bytes]]) -> None:
        self.published[network_id] = list(endpoints)

    def leave_network(self, network_id: str) -> None:
        del self.published[network_id]

    def endpoints(self, network_id: str) -> tuple[Endpoint, ...]:
        return self.heard if network_id in self.published else ()

    def members(self) -> tuple[Rumor, ...]:
        return tuple(Rumor(each, "192.0.2.2:7946", 1, State.ALIVE) for each in self.speaking)

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        held = self.epochs[scope]
        return held.numbers(), held.current.number if held.current else 0


class Tasks:
    def __init__(self) -> None:
        self.specs: dict[str, TaskSpec] = {}
        self.known: dict[str, dispatcher.TaskStatus] = {}
        self.stopped: list[str] = []

    def statuses(self) -> Mapping[str, dispatcher.TaskStatus]:
        return dict(self.known)

    def is_alive(self, task_id: str) -> bool:
        status = self.known.get(task_id)
        return status is not None and status.state <= types.TASK_STATE_RUNNING

    def start(self, spec: TaskSpec) -> None:
        self.specs[spec.task_id] = spec
        self.becomes(spec.task_id, types.TASK_STATE_RUNNING)

    def stop(self, task_id: str) -> None:
        self.stopped.append(task_id)

    def forget(self, task_id: str) -> None:
        del self.known[task_id]

    def becomes(self, task_id: str, state: types.TaskState.ValueType) -> None:
        self.known[task_id] = dispatcher.TaskStatus(task_id=task_id, state=state)


class Bench:
    def __init__(self, memory: Path) -> None:
        self.kernel, self.gossip, self.tasks = Kernel(), Gossip(), Tasks()
        self.reports: asyncio.Queue[tuple[dict[str, dispatcher.TaskStatus], dispatcher.KeyReport]] = (
            asyncio.Queue()
        )
        self.notices: list[dispatcher.NodeNotice] = []
        self.dropped: list[int] = []
        self.agent = Agent(
            "192.0.2.1",
            self.kernel,
            self.gossip,
            self.tasks,
            lambda statuses, keys: self.reports.put_nowait((dict(statuses), keys)),
            memory=memory,
            notice=self.notices.extend,
            dropped=lambda: self.dropped.append(1),
        )

    async def after(
        self, assignment: dispatcher.Assignment
    ) -> tuple[dict[str, dispatcher.TaskStatus], dispatcher.KeyReport]:
        self.agent.assign(assignment)
        return await self.next_report()

    async def next_report(self) -> tuple[dict[str, dispatcher.TaskStatus], dispatcher.KeyReport]:
        async with asyncio.timeout(5):
            return await self.reports.get()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "endpoints.json")
    job = asyncio.create_task(bench.agent.run())
    yield bench
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


def keys(scope: str, *roles: types.EpochRole.ValueType) -> dispatcher.ScopeKeys:
    """Epochs 1, 2, ... in these roles."""
    epochs = (
        dispatcher.EpochKey(number=n, role=role, secret=bytes([n]) * 32) for n, role in enumerate(roles, 1)
    )
    return dispatcher.ScopeKeys(scope=scope, epochs=epochs)


def task(*networks: str, **fields: object) -> dispatcher.AssignedTask:
    made = types.Task(
        meta=types.Meta(id=TASK),
        slot=1,
        desired_state=types.TASK_STATE_RUNNING,
        spec=types.ServiceSpec(image="host", command=["true"]),
        attachments=[
            types.Attachment(network_id=each, address="10.0.1.3/24", mac="02:42:0a:00:01:03", signature=b"s")
            for each in networks
        ],
    )
    made.MergeFrom(types.Task(**fields))  # type: ignore[arg-type]
    return dispatcher.AssignedTask(task=made, service_name="web")


def assigned(*tasks: dispatcher.AssignedTask, encrypted: bool = True) -> dispatcher.Assignment:
    """The tasks, and network NET with one peer if any of them is on it."""
    current = types.EPOCH_ROLE_CURRENT
    made = dispatcher.Assignment(
        node_id=WORKER,
        node_index=7,
        endpoint_public_key=b"k" * 32,
        gossip_peers=[dispatcher.GossipPeer(node_id=PEER, address="192.0.2.2:7946")],
        tasks=tasks,
        keys=[keys("gossip", current)],
    )
    if any(each.task.attachments for each in tasks):
        network = types.Network(meta=types.Meta(id=NET), index=1, vni=4096, port=20000, encrypted=encrypted)
        network.subnets.add(cidr="10.0.1.0/24")
        peer = dispatcher.NetworkPeer(node_id=PEER, node_index=8, data_path_address="192.0.2.2")
        made.networks.add(network=network, peers=[peer])
        made.keys.append(keys(NET, current))
    return made


async def test_a_task_gets_its_network_first_and_then_starts(bench: Bench) -> None:
    statuses, report = await bench.after(assigned(task(NET)))
    desired = bench.kernel.desired[-1]
    assert [each.id for each in desired.networks] == [NET]
    assert [each.address for each in desired.networks[0].peers] == ["192.0.2.2"]
    assert desired.tasks[0].attachments[0].addresses == ("10.0.1.3/24",)
    spec = bench.tasks.specs[TASK]
    assert (spec.name, spec.namespace) == ("web.1", Path("/run/netns", TASK))
    assert statuses[TASK].state == types.TASK_STATE_RUNNING
    assert {each.scope: each.sending for each in report.scopes} == {"gossip": 1, NET: 1}


async def test_gossip_learns_keys_peers_and_our_endpoints(bench: Bench) -> None:
    await bench.after(assigned(task(NET)))
    assert bench.gossip.key == b"k" * 32
    assert bench.gossip.seeds == [(PEER, "192.0.2.2:7946")]
    assert bench.gossip.peers == {NET: frozenset({PEER})}
    own = Endpoint(NET, TASK, ip_address("10.0.1.3"), "02:42:0a:00:01:03", WORKER)
    assert bench.gossip.published == {NET: [(own, b"s")]}
    assert set(bench.gossip.epochs) == {"gossip", NET}


async def test_what_gossip_hears_reaches_the_data_path(bench: Bench) -> None:
    await bench.after(assigned(task(NET)))
    bench.gossip.heard = (ENDPOINT,)
    bench.agent.wake()
    await bench.next_report()
    (remote,) = bench.kernel.desired[-1].networks[0].endpoints
    assert (remote.ip, remote.mac, remote.node_id) == ("10.0.1.4", "02:42:0a:00:01:04", PEER)


async def test_traffic_to_a_silent_node_goes_on_until_the_managers_give_it_up(bench: Bench) -> None:
    bench.gossip.heard = (ENDPOINT,)
    await bench.after(assigned(task(NET)))
    bench.agent.wake()
    await bench.next_report()
    bench.gossip.heard, bench.gossip.speaking = (), ()
    bench.agent.wake()
    await bench.next_report()
    assert [each.ip for each in bench.kernel.desired[-1].networks[0].endpoints] == ["10.0.1.4"]
    without_peer = assigned(task(NET))
    without_peer.networks[0].ClearField("peers")
    await bench.after(without_peer)
    assert not bench.kernel.desired[-1].networks[0].endpoints


async def test_a_restarted_agent_goes_by_what_its_predecessor_knew(bench: Bench, tmp_path: Path) -> None:
    neighbours.save(tmp_path / "endpoints.json", [ENDPOINT])
    restarted = Bench(tmp_path / "endpoints.json")
    job = asyncio.create_task(restarted.agent.run())
    await restarted.after(assigned(task(NET)))
    job.cancel()
    assert [each.ip for each in restarted.kernel.desired[-1].networks[0].endpoints] == ["10.0.1.4"]


@pytest.mark.parametrize("where", [NET, TASK])
async def test_a_task_waits_for_its_network_and_says_why(
    bench: Bench, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "_FIRST_RETRY_S", 0.01)
    bench.kernel.failures = {where: "no room in the kernel"}
    statuses, report = await bench.after(assigned(task(NET)))
    assert (statuses[TASK].state, statuses[TASK].message) == (
        types.TASK_STATE_PREPARING,
        "no room in the kernel",
    )
    assert bench.tasks.specs == {}
    if where == NET:
        assert {each.scope: each.error for each in report.scopes}[NET] == "no room in the kernel"
    bench.kernel.failures = {}
    while TASK not in bench.tasks.specs:
        await bench.next_report()


async def test_a_broken_kernel_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "_FIRST_RETRY_S", 0.01)
    bench.kernel.broken = OSError(12, "Cannot allocate memory")
    bench.agent.assign(assigned(task(NET)))
    async with asyncio.timeout(5):
        while not bench.agent.last_error:  # noqa: ASYNC110 - a failed pass reports nothing
            await asyncio.sleep(0.001)
    assert bench.tasks.specs == {}
    bench.kernel.broken = None
    await bench.next_report()
    assert TASK in bench.tasks.specs
    assert bench.agent.last_error == ""


async def test_before_any_assignment_nothing_is_touched(bench: Bench) -> None:
    """After a restart with all managers down: what the predecessor left goes on."""
    bench.tasks.becomes(TASK, types.TASK_STATE_RUNNING)
    bench.agent.wake()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.kernel.desired == []
    assert set(bench.tasks.known) == {TASK}
    assert bench.reports.empty()


async def test_a_task_of_a_predecessor_goes_on_in_its_namespace(bench: Bench) -> None:
    bench.tasks.becomes(TASK, types.TASK_STATE_RUNNING)
    await bench.after(assigned(task(NET)))
    assert bench.tasks.specs == {}
    assert [each.task_id for each in bench.kernel.desired[-1].tasks] == [TASK]


async def test_a_task_that_is_not_wanted_is_stopped_and_keeps_its_network_meanwhile(bench: Bench) -> None:
    await bench.after(assigned(task(NET)))
    unwanted = assigned(task(NET, desired_state=types.TASK_STATE_SHUTDOWN))
    await bench.after(unwanted)
    assert bench.tasks.stopped == [TASK]
    assert [each.task_id for each in bench.kernel.desired[-1].tasks] == [TASK]
    bench.tasks.becomes(TASK, types.TASK_STATE_SHUTDOWN)
    bench.agent.wake()
    statuses, _ = await bench.next_report()
    assert statuses[TASK].state == types.TASK_STATE_SHUTDOWN
    assert bench.kernel.desired[-1].tasks == ()
    assert bench.gossip.published == {NET: []}


async def test_a_task_that_was_never_started_is_reported_as_stopped(bench: Bench) -> None:
    statuses, _ = await bench.after(assigned(task(desired_state=types.TASK_STATE_REMOVE)))
    assert statuses[TASK].state == types.TASK_STATE_SHUTDOWN
    assert bench.tasks.specs == {}


async def test_what_is_no_longer_assigned_is_gone_with_its_keys(bench: Bench) -> None:
    await bench.after(assigned(task(NET)))
    assert bench.dropped == []
    statuses, report = await bench.after(assigned())
    assert bench.dropped == [1]
    assert bench.tasks.known == {}
    assert statuses == {}
    assert bench.kernel.desired[-1].networks == ()
    assert set(bench.gossip.epochs) == {"gossip"}
    assert bench.gossip.published == {}
    assert [each.scope for each in report.scopes] == ["gossip"]


async def test_an_ended_task_is_not_started_again(bench: Bench) -> None:
    await bench.after(assigned(task(NET)))
    bench.tasks.becomes(TASK, types.TASK_STATE_FAILED)
    bench.tasks.specs.clear()
    bench.agent.wake()
    statuses, _ = await bench.next_report()
    assert statuses[TASK].state == types.TASK_STATE_FAILED
    assert bench.tasks.specs == {}


async def test_the_kernel_is_mended_now_and_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "RECONCILE_PERIOD_S", 0.01)
    await bench.after(assigned(task(NET)))
    while not bench.kernel.mended:
        await bench.next_report()
    assert bench.notices == []
    bench.kernel.repairs = {NET: "1 SA put back"}
    while not bench.notices:
        await bench.next_report()
    told = dispatcher.NodeNotice(action="repair", network_id=NET, reason="1 SA put back")
    assert bench.notices[0] == told


@pytest.mark.parametrize(
    ("encrypted", "kernel", "gossip", "reported"),
    [
        (True, ((1, 2), 1), ((1, 2), 1), ((1, 2), 1)),
        (True, ((1,), 1), ((1, 2), 1), ((1,), 1)),
        (True, ((1, 2), 2), ((1, 2), 1), ((1, 2), 0)),
        (True, ((), 0), ((1,), 1), ((), 0)),
        (False, ((), 0), ((1, 2), 1), ((1, 2), 1)),
    ],
)
def test_an_epoch_is_acknowledged_once_kernel_and_gossip_have_it(
    encrypted: bool,
    kernel: tuple[tuple[int, ...], int],
    gossip: tuple[tuple[int, ...], int],
    reported: tuple[tuple[int, ...], int],
) -> None:
    scopes = {NET} if encrypted else set()
    (scope,) = key_report([NET], scopes, {NET: NetworkReport(*kernel)}, lambda _: gossip).scopes
    assert (tuple(scope.installed), scope.sending) == reported


def test_keys_that_make_no_sense_are_refused_without_being_told() -> None:
    bad = dispatcher.Assignment(keys=[keys("gossip", types.EPOCH_ROLE_CURRENT, types.EPOCH_ROLE_CURRENT)])
    with pytest.raises(Internal, match="more than one current epoch") as caught:
        keys_of(bad)
    assert "\\x01" not in repr(caught.value)
