"""The role manager: wishes in the state against Raft's members, until they agree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, NotLeader, SwarmnetError
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.manager import role_manager as role_manager_module
from swarmnet.manager.keymanager import KeyManager
from swarmnet.manager.raft.member import Member
from swarmnet.manager.role_manager import RoleManager
from swarmnet.manager.roles import wanted_role
from swarmnet.manager.store import Store

ME = "node-m1"
MANAGER, WORKER, NONE = types.ROLE_MANAGER, types.ROLE_WORKER, types.ROLE_UNSPECIFIED


@dataclass
class Members:
    """Raft's, as far as the loop sees them; `failures` come first."""

    ids: list[str]
    down: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)
    failures: list[SwarmnetError] = field(default_factory=list)

    def members(self) -> dict[str, Member]:
        return {each: Member(each, f"192.0.2.9:{each[-1]}", "") for each in self.ids}

    def reachable(self, node_id: str) -> bool:
        return node_id not in self.down

    async def remove(self, node_id: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if node_id == ME:
            raise NotLeader("this manager leads, and is handing over")
        self.ids.remove(node_id)
        self.removed.append(node_id)


def manager(name: str, index: int, wish: types.Role.ValueType = NONE) -> types.Node:
    return types.Node(
        meta=types.Meta(id=f"node-{name}"),
        role=MANAGER,
        desired_role=wish,
        hostname=name,
        index=index,
        state=types.NODE_STATE_READY,
        address=f"192.0.2.9:{name[-1]}",
        bootstrap_address="192.0.2.9:2378",
    )


def make(members: Members, *nodes: types.Node) -> tuple[Store, RoleManager]:
    store = Store(lambda: local.NOW)
    store.attach(local.LocalRaft(store))
    local.fill(store.state, *nodes, local.network("net"))
    return store, RoleManager(store, members, ME)


def node(store: Store, name: str) -> types.Node:
    found = store.state.get(types.Node, f"node-{name}")
    assert found is not None
    return found


def rekeyed(store: Store) -> set[str]:
    return {scope.meta.id for scope in store.state.all(types.KeyScope) if scope.again}


async def test_where_nothing_is_wished_for_nothing_is_written() -> None:
    members = Members([ME, "node-m2"])
    store, roles = make(members, manager("m1", 1), manager("m2", 2), local.node("w1", 3))
    before = store.state.index
    await roles.reconcile()
    assert (store.state.index, members.removed) == (before, [])


async def test_a_worker_is_a_manager_once_raft_has_it() -> None:
    members = Members([ME])
    promoted = local.node("w3", 3, desired_role=MANAGER, bootstrap_address="192.0.2.3:2378")
    store, roles = make(members, manager("m1", 1), promoted, local.node("w4", 4))
    await roles.reconcile()
    assert (node(store, "w3").role, node(store, "w3").desired_role) == (WORKER, MANAGER)
    members.ids.append("node-w3")
    await roles.reconcile()
    made = node(store, "w3")
    assert (made.role, made.desired_role, made.index) == (MANAGER, NONE, 3)
    assert (made.address, made.bootstrap_address) == ("192.0.2.9:3", "192.0.2.9:2378")
    assert (made.data_path_address, made.HasField("capabilities")) == ("", False)
    assert rekeyed(store) == {GOSSIP_SCOPE}


async def test_a_manager_is_a_worker_once_raft_has_it_no_more_and_every_key_is_replaced() -> None:
    members = Members([ME, "node-m2", "node-m3"])
    store, roles = make(members, manager("m1", 1), manager("m2", 2, WORKER), manager("m3", 3))
    await roles.reconcile()
    assert members.removed == ["node-m2"]
    made = node(store, "m2")
    assert (made.role, made.desired_role, made.state) == (WORKER, NONE, types.NODE_STATE_DOWN)
    assert (made.demoted, made.address, made.bootstrap_address) == (True, "", "")
    assert made.message.startswith("demoted: no swarmnet-worker has taken over")
    local.settle(store.state, KeyManager(lambda _: {}).plan)
    assert {each.meta.id: each.epochs[-1].number for each in store.state.all(types.KeyScope)} == {
        GOSSIP_SCOPE: 2,
        "net-net": 2,
    }


async def test_one_manager_goes_at_a_time_and_the_leader_last() -> None:
    members = Members([ME, "node-m2", "node-m3", "node-m4"])
    nodes = [manager("m1", 1, WORKER), manager("m2", 2, WORKER), manager("m3", 3, WORKER), manager("m4", 4)]
    _, roles = make(members, *nodes)
    await roles.reconcile()
    assert members.removed == ["node-m2"]
    await roles.reconcile()
    assert members.removed == ["node-m2", "node-m3"]
    with pytest.raises(NotLeader):
        await roles.reconcile()


async def test_a_removal_that_the_last_leader_made_is_written_down_by_the_next() -> None:
    store, roles = make(Members([ME]), manager("m1", 1), manager("m2", 2, WORKER))
    await roles.reconcile()
    assert node(store, "m2").role == WORKER


async def test_a_promotion_taken_back_takes_the_member_out_again() -> None:
    members = Members([ME, "node-w3"])
    store, roles = make(members, manager("m1", 1), local.node("w3", 3, desired_role=WORKER))
    await roles.reconcile()
    assert members.removed == ["node-w3"]
    left = node(store, "w3")
    assert (left.role, left.desired_role, left.state) == (WORKER, NONE, types.NODE_STATE_READY)
    assert not left.demoted


async def test_nobody_goes_while_the_rest_would_have_no_majority() -> None:
    members = Members([ME, "node-m2", "node-m3"], down={"node-m3"})
    store, roles = make(members, manager("m1", 1), manager("m2", 2, WORKER), manager("m3", 3))
    with pytest.raises(FailedPrecondition, match="would leave 1 of 2 managers reachable"):
        await roles.reconcile()
    assert members.removed == []
    members.down.clear()
    await roles.reconcile()
    assert node(store, "m2").role == WORKER


async def test_a_managers_new_address_is_written_down() -> None:
    members = Members([ME, "node-m2"])
    moved = manager("m2", 2)
    moved.address, moved.bootstrap_address = "198.51.100.7:2", "198.51.100.7:9378"
    store, roles = make(members, manager("m1", 1), moved)
    await roles.reconcile()
    assert node(store, "m2").address == "192.0.2.9:2"
    assert node(store, "m2").bootstrap_address == "192.0.2.9:9378"


async def test_the_loop_goes_on_after_what_could_not_be_done_and_ends_with_the_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(role_manager_module, "_LOOK_S", (0.001, 0.001))
    members = Members([ME, "node-m2"])
    members.failures = [FailedPrecondition("another manager is just joining or leaving")]
    store, roles = make(members, manager("m1", 1), manager("m2", 2))
    running = asyncio.create_task(roles.run())
    _wish(store, "m2", WORKER)
    await _until(store, lambda: node(store, "m2").role == WORKER)
    members.ids.append("node-m3")
    local.put(store.state, manager("m3", 3))
    _wish(store, "m1", WORKER)
    async with asyncio.timeout(5):
        await running
    assert members.removed == ["node-m2"]


def _wish(store: Store, name: str, role: types.Role.ValueType) -> None:
    local.edit(store.state, types.Node, f"node-{name}", lambda each: setattr(each, "desired_role", role))


async def _until(store: Store, holds: Callable[[], bool]) -> None:
    with store.subscribe(types.Node) as changes:
        async with asyncio.timeout(5):
            while not holds():
                await changes.next()


@pytest.mark.parametrize("role", [MANAGER, WORKER])
@pytest.mark.parametrize("wish", [NONE, MANAGER, WORKER])
@pytest.mark.parametrize("member", [True, False])
async def test_from_wherever_it_starts_it_comes_to_rest_as_wished(
    role: types.Role.ValueType, wish: types.Role.ValueType, *, member: bool
) -> None:
    """As a whole table; only what the node itself has to do stays open: to join Raft."""
    members = Members([ME, "node-m3", *(["node-x2"] if member else [])])
    start = manager("x2", 2, wish) if role == MANAGER else local.node("x2", 2, desired_role=wish)
    store, roles = make(members, manager("m1", 1), manager("m3", 3), start)
    for _ in range(3):
        await roles.reconcile()
    before = store.state.index
    await roles.reconcile()
    assert store.state.index == before
    found, is_member = node(store, "x2"), "node-x2" in members.ids
    assert wanted_role(found) == (wish or role)
    joins_by_itself = wanted_role(found) == MANAGER and not is_member
    assert found.desired_role == (MANAGER if joins_by_itself and role == WORKER else NONE) or (
        joins_by_itself and found.role == MANAGER
    )
    assert is_member is (member and wanted_role(found) == MANAGER)
    if not joins_by_itself:
        assert found.role == wanted_role(found)
