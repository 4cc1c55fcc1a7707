"""The control API on a store without Raft: what it makes and shows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.unit.control_api import NO_CONTEXT, MadeUpManagers, WatchContext, make_api, make_swarm
from tests.unit.local_raft import PERIOD_S, put

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.backup import unseal
from swarmnet.core.errors import FailedPrecondition, InUse, InvalidArgument, Unavailable
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.limits import RETIRE_GRACE_S
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.dispatcher_assignment import heartbeat_period_s
from swarmnet.manager.entitlement import entitled
from swarmnet.manager.keymanager import terms_of
from swarmnet.manager.store import Store


@pytest.fixture
def managers() -> MadeUpManagers:
    return MadeUpManagers()


@pytest.fixture
def swarm() -> Store:
    return make_swarm()


@pytest.fixture
def api(swarm: Store, managers: MadeUpManagers) -> Control:
    return make_api(swarm, managers)


async def test_a_new_network_is_complete(api: Control, swarm: Store) -> None:
    request = control.CreateNetworkRequest(name="new", options={"encrypted": ""})
    created = await api.CreateNetwork(request, NO_CONTEXT)
    found = await api.GetNetwork(control.GetRequest(ref="new"), NO_CONTEXT)
    assert len(created.id) == 25
    assert (found.meta.id, found.encrypted, found.driver, found.scope) == (
        created.id,
        True,
        "overlay",
        "swarm",
    )
    assert found.index not in {0, 1, 2}
    assert found.vni
    assert found.port
    assert [each.cidr for each in found.subnets] == ["10.0.0.0/24"]
    scope = swarm.state.get(types.KeyScope, created.id)
    secret = swarm.state.get(store.ScopeSecrets, created.id)
    assert scope is not None
    assert secret is not None
    assert [(epoch.number, epoch.role) for epoch in scope.epochs] == [(1, types.EPOCH_ROLE_CURRENT)]
    assert len(secret.secrets[1]) == 32


@pytest.mark.parametrize(
    ("options", "encrypted"), [({}, False), ({"encrypted": "false"}, False), ({"encrypted": "true"}, True)]
)
async def test_encryption_is_an_option(options: dict[str, str], encrypted: bool, api: Control) -> None:
    await api.CreateNetwork(control.CreateNetworkRequest(name="new", options=options), NO_CONTEXT)
    found = await api.GetNetwork(control.GetRequest(ref="new"), NO_CONTEXT)
    assert found.encrypted is encrypted


@pytest.mark.parametrize(("options", "encrypted"), [({}, True), ({"encrypted": "false"}, False)])
async def test_encryption_can_be_the_default(options: dict[str, str], encrypted: bool, api: Control) -> None:
    answer = await api.UpdateCluster(control.UpdateClusterRequest(encrypt_by_default=True), NO_CONTEXT)
    assert answer.cluster.encrypt_by_default
    await api.CreateNetwork(control.CreateNetworkRequest(name="new", options=options), NO_CONTEXT)
    assert (await api.GetNetwork(control.GetRequest(ref="new"), NO_CONTEXT)).encrypted is encrypted


@pytest.mark.parametrize("option", ["mtu", "com.docker.network.driver.mtu"])
async def test_a_network_may_have_an_mtu_of_its_own(option: str, api: Control) -> None:
    await api.CreateNetwork(control.CreateNetworkRequest(name="new", options={option: "1300"}), NO_CONTEXT)
    assert (await api.GetNetwork(control.GetRequest(ref="new"), NO_CONTEXT)).mtu == 1300


async def test_a_retried_create_makes_one_object(api: Control, swarm: Store) -> None:
    request = control.CreateNetworkRequest(name="new", request_id="r1")
    first = await api.CreateNetwork(request, NO_CONTEXT)
    assert await api.CreateNetwork(request, NO_CONTEXT) == first
    spec = types.ServiceSpec(name="new", image="host", networks=["new"])
    wanted = control.CreateServiceRequest(spec=spec, request_id="r2")
    made = await api.CreateService(wanted, NO_CONTEXT)
    assert (await api.CreateService(wanted, NO_CONTEXT)).id == made.id
    assert len(list(swarm.state.all(types.Service))) == 2


async def test_an_unused_network_goes_with_its_keys(api: Control, swarm: Store) -> None:
    removed = await api.RemoveNetwork(control.GetRequest(ref="plain"), NO_CONTEXT)
    assert removed.id == "net-plain"
    for kind in (types.Network, types.KeyScope, store.ScopeSecrets):
        assert swarm.state.get(kind, "net-plain") is None


async def test_a_network_stays_while_a_task_of_it_is_being_stopped(api: Control, swarm: Store) -> None:
    spec = types.ServiceSpec(name="gone", networks=["net-plain"])
    task = types.Task(meta=types.Meta(id="t1"), spec=spec, node_id="node-w1", state=types.TASK_STATE_RUNNING)
    put(swarm.state, task)
    with pytest.raises(InUse, match="in use by task t1"):
        await api.RemoveNetwork(control.GetRequest(ref="plain"), NO_CONTEXT)


async def test_a_service_is_stored_with_ids_and_defaults(api: Control) -> None:
    spec = types.ServiceSpec(name="new", image="host", replicas=3, networks=["front", "net-front"])
    await api.CreateService(control.CreateServiceRequest(spec=spec), NO_CONTEXT)
    view = await api.GetService(control.GetRequest(ref="new"), NO_CONTEXT)
    kept = view.service.spec
    assert list(kept.networks) == ["net-front"]
    assert (kept.restart.delay.seconds, kept.stop_grace_period.seconds) == (5, 10)
    assert (view.desired, view.running, view.service.spec_version) == (3, 0, 1)


async def test_scaling_changes_the_replicas_only(api: Control) -> None:
    view = await api.ScaleService(control.ScaleServiceRequest(ref="web", replicas=5), NO_CONTEXT)
    assert (view.desired, view.service.spec_version) == (5, 1)


async def test_without_esp_a_service_on_an_encrypted_network_comes_with_a_warning(
    api: Control, swarm: Store
) -> None:
    for each in list(swarm.state.all(types.Node)):
        changed = types.Node()
        changed.CopyFrom(each)
        changed.capabilities.esp = False
        put(swarm.state, changed)
    spec = types.ServiceSpec(name="new", image="host", networks=["front"])
    created = await api.CreateService(control.CreateServiceRequest(spec=spec), NO_CONTEXT)
    assert "no node's kernel can do ESP" in created.warnings[0]


async def test_managers_are_as_raft_sees_them(api: Control, managers: MadeUpManagers) -> None:
    managers.known["node-m2"] = False
    nodes = (await api.ListNodes(control.ListNodesRequest(names=["m1", "m2", "w1"]), NO_CONTEXT)).nodes
    assert [(each.manager_status, each.node.state, each.self) for each in nodes] == [
        ("Leader", types.NODE_STATE_READY, True),
        ("Unreachable", types.NODE_STATE_DOWN, False),
        ("", types.NODE_STATE_READY, False),
    ]


async def test_a_dead_manager_is_taken_out_of_raft_by_force(
    api: Control, swarm: Store, managers: MadeUpManagers
) -> None:
    managers.known["node-m2"] = False
    with pytest.raises(FailedPrecondition):
        await api.RemoveNode(control.RemoveNodeRequest(ref="m2"), NO_CONTEXT)
    await api.RemoveNode(control.RemoveNodeRequest(ref="m2", force=True), NO_CONTEXT)
    assert not managers.is_member("node-m2")
    assert swarm.state.get(types.Node, "node-m2") is None


async def test_the_leader_tells_how_far_each_manager_is(api: Control, managers: MadeUpManagers) -> None:
    managers.known["node-m2"] = False
    status = await api.GetRaftStatus(control.GetRaftStatusRequest(), NO_CONTEXT)
    assert (status.node_id, status.leader_id, status.term) == ("node-m1", "node-m1", 7)
    assert (status.journal_bytes, status.snapshot_bytes, status.snapshot_index) == (4096, 1234, 41)
    mine, other = status.members
    assert (mine.hostname, mine.reachable, mine.match_index) == ("m1", True, 100)
    assert (other.hostname, other.reachable, other.match_index) == ("m2", False, 90)
    assert (mine.HasField("last_heard"), other.last_heard.ToMilliseconds()) == (False, 1500)


async def test_without_a_leader_a_manager_tells_what_it_knows(api: Control, managers: MadeUpManagers) -> None:
    managers.part.now = replace(managers.part.now, leads=False, leader_id=None, matched={})
    status = await api.GetRaftStatus(control.GetRaftStatusRequest(), NO_CONTEXT)
    assert (status.leader_id, status.applied_index) == ("", 98)
    assert not any(each.HasField("match_index") for each in status.members)


async def test_leadership_is_handed_over_by_name(api: Control, managers: MadeUpManagers) -> None:
    managers.known["node-m2"] = True
    answer = await api.TransferLeadership(control.TransferLeadershipRequest(ref="m2"), NO_CONTEXT)
    assert answer.leader_id == "node-m2"
    await api.TransferLeadership(control.TransferLeadershipRequest(), NO_CONTEXT)
    assert managers.part.asked == ["node-m2", None]
    with pytest.raises(FailedPrecondition, match="node w1 is not a manager"):
        await api.TransferLeadership(control.TransferLeadershipRequest(ref="w1"), NO_CONTEXT)


async def test_a_backup_is_the_state_sealed(api: Control, swarm: Store) -> None:
    request = control.BackupRequest(key=b"k" * 32, salt=b"s" * 32)
    pieces = [piece async for piece in api.Backup(request, NO_CONTEXT)]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    raw = b"".join(piece.data for piece in pieces)
    opened = unseal(raw, SecretBytes(b"k" * 32))
    assert opened.state == swarm.freeze()()
    assert (opened.header.index, opened.header.salt) == (swarm.state.index, b"s" * 32)
    with pytest.raises(InvalidArgument, match="a key of 32 bytes"):
        await anext(api.Backup(control.BackupRequest(key=b"short", salt=b"s" * 32), NO_CONTEXT))


async def test_what_a_removed_node_knew_is_rekeyed(api: Control, swarm: Store) -> None:
    await api.RemoveNode(control.RemoveNodeRequest(ref="w2"), NO_CONTEXT)
    gossip = swarm.state.get(types.KeyScope, GOSSIP_SCOPE)
    assert gossip is not None
    assert (gossip.again, gossip.reason) == (True, "node removed")
    front = swarm.state.get(types.KeyScope, "net-front")
    assert front is not None
    assert not front.again


async def test_a_node_drained_by_force_loses_its_networks_at_once(api: Control, swarm: Store) -> None:
    """Its task has not ended, and may never say so; gossip it keeps, as it stays a worker."""
    running = types.Task(
        meta=types.Meta(id="t"),
        node_id="node-w1",
        state=types.TASK_STATE_RUNNING,
        spec=types.ServiceSpec(networks=["net-front"]),
    )
    put(swarm.state, running)
    request = control.UpdateNodeRequest(ref="w1", availability=types.AVAILABILITY_DRAIN, force=True)
    for _ in range(2):  # told twice, it happens once
        await api.UpdateNode(request, NO_CONTEXT)
        assert entitled(swarm.state, "net-front") == frozenset()
        assert entitled(swarm.state, GOSSIP_SCOPE) == {"node-w1", "node-w2"}
    scopes = {scope.meta.id: (scope.again, scope.reason) for scope in swarm.state.all(types.KeyScope)}
    assert scopes["net-front"] == (True, "node drained by force")
    assert scopes["net-plain"] == scopes[GOSSIP_SCOPE] == (False, "")
    drain = control.UpdateNodeRequest(ref="w1", availability=types.AVAILABILITY_DRAIN)
    assert (await api.UpdateNode(drain, NO_CONTEXT)).node.drained_by_force
    active = control.UpdateNodeRequest(ref="w1", availability=types.AVAILABILITY_ACTIVE)
    assert not (await api.UpdateNode(active, NO_CONTEXT)).node.drained_by_force


@pytest.mark.parametrize(
    ("ref", "scopes"),
    [("", {"gossip", "net-front", "net-plain"}), ("gossip", {"gossip"}), ("front", {"net-front"})],
)
async def test_keys_rotate_on_request(ref: str, scopes: set[str], api: Control, swarm: Store) -> None:
    answer = await api.RotateKeys(control.RotateKeysRequest(ref=ref), NO_CONTEXT)
    assert set(answer.scopes) == scopes
    assert {each.meta.id for each in swarm.state.all(types.KeyScope) if each.again} == scopes


async def test_keys_are_listed_with_names_and_holders(api: Control) -> None:
    views = {view.name: view for view in (await api.ListKeys(control.ListKeysRequest(), NO_CONTEXT)).keys}
    assert views.keys() == {"gossip", "front", "plain"}
    assert list(views["gossip"].entitled) == ["node-w1", "node-w2"]
    assert list(views["front"].entitled) == []
    assert list(views["front"].waiting_for) == ["node-w1"]


async def test_rotating_one_join_token_leaves_the_other(api: Control) -> None:
    before = await api.GetJoinTokens(control.GetJoinTokensRequest(), NO_CONTEXT)
    request = control.RotateJoinTokenRequest(role=types.ROLE_WORKER)
    after = await api.RotateJoinToken(request, NO_CONTEXT)
    assert after.worker != before.worker
    assert after.manager == before.manager
    assert after.manager_address == "192.0.2.11:2378"
    with pytest.raises(InvalidArgument, match="no role"):
        await api.RotateJoinToken(control.RotateJoinTokenRequest(), NO_CONTEXT)


async def test_a_shorter_period_brings_rotations_forward(api: Control, swarm: Store) -> None:
    request = control.UpdateClusterRequest(key_rotation_period=Duration(seconds=60))
    answer = await api.UpdateCluster(request, NO_CONTEXT)
    assert answer.cluster.key_rotation_period.seconds == 60
    latest = swarm.now().ToNanoseconds() + 60 * 10**9
    assert all(each.due_at.ToNanoseconds() <= latest for each in swarm.state.all(types.KeyScope))


async def test_the_grace_of_retired_keys_is_set_alone(api: Control) -> None:
    before = (await api.GetCluster(control.GetClusterRequest(), NO_CONTEXT)).cluster
    request = control.UpdateClusterRequest(retire_grace=Duration(seconds=1))
    after = (await api.UpdateCluster(request, NO_CONTEXT)).cluster
    assert after.key_rotation_period == before.key_rotation_period
    assert terms_of(after).grace_s == 1


@pytest.mark.parametrize("grace_ms", [0, 999, 3_600_001])
async def test_a_grace_out_of_range_is_refused(api: Control, grace_ms: int) -> None:
    grace = Duration()
    grace.FromMilliseconds(grace_ms)
    with pytest.raises(InvalidArgument, match="1 second to 1 hour"):
        await api.UpdateCluster(control.UpdateClusterRequest(retire_grace=grace), NO_CONTEXT)
    answer = await api.GetCluster(control.GetClusterRequest(), NO_CONTEXT)
    assert terms_of(answer.cluster).grace_s == RETIRE_GRACE_S


async def test_the_deadline_can_be_changed_alone(api: Control, swarm: Store) -> None:
    request = control.UpdateClusterRequest(key_rotation_deadline=Duration(seconds=30))
    answer = await api.UpdateCluster(request, NO_CONTEXT)
    assert answer.cluster.rotation_deadline.seconds == 30
    assert answer.cluster.key_rotation_period.seconds == PERIOD_S


async def test_the_heartbeat_period_is_set_alone(api: Control) -> None:
    request = control.UpdateClusterRequest(heartbeat_period=Duration(seconds=20))
    assert heartbeat_period_s((await api.UpdateCluster(request, NO_CONTEXT)).cluster) == 20


@pytest.mark.parametrize("seconds", [0, 61])
async def test_a_heartbeat_period_out_of_range_is_refused(api: Control, seconds: int) -> None:
    request = control.UpdateClusterRequest(heartbeat_period=Duration(seconds=seconds))
    with pytest.raises(InvalidArgument, match="1 second to 1 minute"):
        await api.UpdateCluster(request, NO_CONTEXT)


async def test_tasks_are_listed_by_service_and_node(api: Control, swarm: Store) -> None:
    for name, service_id, node_id in (
        ("t1", "svc-web", "node-w1"),
        ("t2", "svc-web", "node-w2"),
        ("t3", "x", "node-w1"),
    ):
        put(swarm.state, types.Task(meta=types.Meta(id=name), service_id=service_id, node_id=node_id))
    request = control.ListTasksRequest(services=["web"], nodes=["w1"])
    assert [each.meta.id for each in (await api.ListTasks(request, NO_CONTEXT)).tasks] == ["t1"]


async def test_a_watch_shows_what_happens_after_it_began(api: Control, swarm: Store) -> None:
    context: Any = WatchContext()
    events = api.Watch(control.WatchRequest(kinds=[control.OBJECT_KIND_NETWORK]), context)
    first = asyncio.ensure_future(anext(events))
    await context.begun.wait()
    await api.CreateNetwork(control.CreateNetworkRequest(name="new"), NO_CONTEXT)
    created = await first
    assert (created.action, created.network.name) == (control.WatchEvent.CREATED, "new")
    await api.RemoveNetwork(control.GetRequest(ref="new"), NO_CONTEXT)
    removed = await anext(events)
    assert (removed.action, removed.network.name) == (control.WatchEvent.REMOVED, "new")
    swarm.restore(swarm.freeze()())
    with pytest.raises(Unavailable, match="some changes were missed"):
        await anext(events)
