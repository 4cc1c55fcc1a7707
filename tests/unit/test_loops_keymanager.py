"""The key manager on the state: who is waited for, what is kept secret, whose keys are replaced."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import State
from swarmnet.manager.dispatcher_acks import Acknowledgements
from swarmnet.manager.entitlement import entitled
from swarmnet.manager.keymanager import KeyManager, rekey_without, request_rotation

NET = "net-net"


class Swarm:
    """Two workers; the first runs a task on the network."""

    def __init__(self) -> None:
        self.state = State()
        self.acks = Acknowledgements(self.state)
        self.keys = KeyManager(self.acks.of)
        self.now = local.NOW
        local.fill(
            self.state,
            local.node("w1", 1),
            local.node("w2", 2),
            local.network("net"),
            task("task", "node-w1"),
        )
        for worker in ("node-w1", "node-w2"):
            self.acknowledge(worker)

    def settle(self, after_s: float = 0) -> float | None:
        self.now += after_s
        return local.settle(self.state, self.keys.plan, now=self.now)

    def acknowledge(self, worker: str) -> None:
        reports = []
        for scope in self.state.all(types.KeyScope):
            if worker in entitled(self.state, scope.meta.id):
                current = rotation.number_of(scope, types.EPOCH_ROLE_CURRENT)
                installed = [each.number for each in scope.epochs]
                reports.append(
                    dispatcher.ScopeReport(scope=scope.meta.id, installed=installed, sending=current)
                )
        self.acks.put(worker, dispatcher.KeyReport(scopes=reports))

    def scope(self, id_: str) -> types.KeyScope:
        found = self.state.get(types.KeyScope, id_)
        assert found is not None
        return found

    def secrets(self, id_: str) -> dict[int, bytes]:
        found = self.state.get(store.ScopeSecrets, id_)
        assert found is not None
        return dict(found.secrets)

    def ask(self, *scopes: str) -> None:
        local.commit(self.state, lambda t: request_rotation(t, scopes, "requested"))


def task(name: str, node_id: str, state: types.TaskState.ValueType = types.TASK_STATE_RUNNING) -> types.Task:
    return types.Task(
        meta=types.Meta(id=name),
        node_id=node_id,
        state=state,
        desired_state=types.TASK_STATE_RUNNING,
        spec=types.ServiceSpec(networks=[NET]),
    )


def test_only_nodes_with_a_task_that_has_not_ended_hold_a_networks_keys() -> None:
    state = Swarm().state
    assert entitled(state, NET) == {"node-w1"}
    assert entitled(state, GOSSIP_SCOPE) == {"node-w1", "node-w2"}
    local.put(state, task("pending", "node-w2", types.TASK_STATE_PENDING))
    assert entitled(state, NET) == {"node-w1"}
    local.put(state, task("more", "node-w2", types.TASK_STATE_ASSIGNED))
    assert entitled(state, NET) == {"node-w1", "node-w2"}
    local.report(state, "task", types.TASK_STATE_FAILED)
    assert entitled(state, NET) == {"node-w2"}
    local.edit(state, types.Node, "node-w2", lambda n: setattr(n, "fenced", True))
    assert entitled(state, NET) == frozenset()


def test_a_rotation_waits_for_the_holders_only_and_erases_the_old_secret() -> None:
    swarm = Swarm()
    first = swarm.secrets(NET)
    swarm.ask(NET)
    swarm.settle()
    assert swarm.acks.waiting_for(NET) == ("node-w1",)
    assert swarm.secrets(NET).keys() == {1, 2}
    for _ in range(2):
        swarm.acknowledge("node-w1")
        swarm.settle()
    assert swarm.scope(NET).phase == rotation.RETIRE
    assert swarm.secrets(NET)[1] == first[1]
    swarm.settle(after_s=10)
    assert swarm.scope(NET).phase == rotation.STABLE
    assert swarm.secrets(NET).keys() == {2}
    assert swarm.secrets(NET)[2] != first[1]
    assert len(swarm.secrets(NET)[2]) == 32
    assert swarm.scope(GOSSIP_SCOPE).epochs[0].number == 1


def test_a_request_during_a_rotation_leaves_its_reason() -> None:
    swarm = Swarm()
    swarm.ask(NET)
    swarm.settle()
    local.commit(swarm.state, lambda t: request_rotation(t, [NET, "unknown"], "node removed"))
    assert (swarm.scope(NET).reason, swarm.scope(NET).again) == ("requested", True)


def test_the_due_time_starts_a_rotation_and_is_what_the_loop_waits_for() -> None:
    swarm = Swarm()
    assert swarm.settle() == local.NOW + local.PERIOD_S
    swarm.settle(after_s=local.PERIOD_S)
    assert {s.phase for s in swarm.state.all(types.KeyScope)} == {rotation.PREPARE}
    assert swarm.scope(NET).reason == "scheduled"


def test_a_node_that_is_down_is_not_waited_for() -> None:
    swarm = Swarm()
    local.edit(swarm.state, types.Node, "node-w1", lambda n: setattr(n, "state", types.NODE_STATE_DOWN))
    swarm.ask(NET)
    swarm.settle()
    assert (swarm.scope(NET).phase, list(swarm.secrets(NET))) == (rotation.STABLE, [2])


def test_a_silent_node_is_fenced_and_all_that_it_held_is_rekeyed() -> None:
    swarm = Swarm()
    swarm.ask(NET)
    assert swarm.settle() == local.NOW + 300
    swarm.now += 300
    local.commit(swarm.state, lambda t: swarm.keys.plan(t, swarm.now))
    assert swarm.scope(NET).epochs[-1].role == types.EPOCH_ROLE_CURRENT  # it cannot come back in between
    swarm.settle()
    node = swarm.state.get(types.Node, "node-w1")
    assert node is not None
    assert (node.fenced, node.state) == (True, types.NODE_STATE_DOWN)
    assert node.message.startswith("fenced: no acknowledgement of the key rotation of net within 300 s")
    assert list(swarm.secrets(NET)) == [3]  # it knew 2, which was being prepared
    assert swarm.scope(GOSSIP_SCOPE).reason == "node fenced"
    assert swarm.acks.waiting_for(GOSSIP_SCOPE) == ("node-w2",)


def test_any_number_of_scopes_can_fall_due_together() -> None:
    state = State()
    local.fill(state, *(local.network(f"n{n}", "10.0.0.0/24", n) for n in range(1, 600)))
    local.settle(state, KeyManager(lambda _: {}).plan, now=local.NOW + local.PERIOD_S)
    assert {scope.epochs[0].number for scope in state.all(types.KeyScope)} == {2}


def test_removing_a_node_rekeys_what_it_held_and_nothing_else() -> None:
    swarm = Swarm()
    asked = local.commit(swarm.state, lambda t: rekey_without(t, "node-w2", "node removed"))
    assert asked == (GOSSIP_SCOPE,)
    asked = local.commit(swarm.state, lambda t: rekey_without(t, "node-w1", "node removed"))
    assert asked == (GOSSIP_SCOPE, NET)


def test_a_manager_that_goes_has_every_scope_rekeyed_a_few_at_a_time() -> None:
    """It knew all of them; together they would be too much for one change."""
    state = State()
    manager = local.node("m1", 1, role=types.ROLE_MANAGER)
    local.fill(state, manager, *(local.network(f"n{n}", "10.0.0.0/24", n) for n in range(1, 600)))
    asked = local.commit(state, lambda t: rekey_without(t, "node-m1", "node removed"))
    local.commit(state, lambda t: request_rotation(t, [GOSSIP_SCOPE], "requested"))
    keys = KeyManager(lambda _: {})
    local.commit(state, lambda t: keys.plan(t, local.NOW))
    begun = [scope for scope in state.all(types.KeyScope) if scope.epochs[0].number > 1]
    assert (asked, 0 < len(begun) < 60) == ((), True)
    local.settle(state, keys.plan, now=local.NOW)
    assert {scope.epochs[-1].number for scope in state.all(types.KeyScope)} == {2}
    cluster = state.cluster()
    assert cluster is not None
    assert not cluster.HasField("rekeying")


def test_a_manager_drained_by_force_keeps_only_gossip() -> None:
    state = State()
    local.fill(state, local.node("m1", 1, role=types.ROLE_MANAGER), local.network("net"))
    keys = KeyManager(lambda _: {})
    local.commit(state, lambda t: rekey_without(t, "node-m1", "node drained by force", stays=True))
    local.settle(state, keys.plan, now=local.NOW)
    assert {scope.meta.id: scope.epochs[0].number for scope in state.all(types.KeyScope)} == {
        GOSSIP_SCOPE: 1,
        NET: 2,
    }
    local.commit(state, lambda t: rekey_without(t, "node-m1", "node drained by force", stays=True))
    local.commit(state, lambda t: rekey_without(t, "node-m1", "node removed"))
    local.commit(state, lambda t: rekey_without(t, "node-m1", "node drained by force", stays=True))
    local.settle(state, keys.plan, now=local.NOW)
    assert {scope.epochs[0].number for scope in state.all(types.KeyScope)} == {2, 3}


def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    swarm = Swarm()
    swarm.ask(NET)
    swarm.settle()
    swarm.acknowledge("node-w1")
    swarm.settle()
    restored = State()
    restored.restore(swarm.state.freeze()())
    swarm.state, swarm.acks = restored, Acknowledgements(restored)
    swarm.keys = KeyManager(swarm.acks.of)
    swarm.settle()
    assert swarm.scope(NET).phase == rotation.SWITCH
    assert swarm.acks.waiting_for(NET) == ("node-w1",)
    swarm.acknowledge("node-w1")
    swarm.settle()
    swarm.settle(after_s=10)
    assert (swarm.scope(NET).phase, list(swarm.secrets(NET))) == (rotation.STABLE, [2])


def test_a_cluster_that_is_being_made_has_nothing_to_rotate() -> None:
    assert local.settle(State(), KeyManager(lambda _: {}).plan) is None


def is_down(node: types.Node) -> None:
    node.state = types.NODE_STATE_DOWN


def test_a_scope_that_nothing_happened_to_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = Swarm()
    swarm.ask(NET)
    swarm.settle()
    looked_at: list[str] = []

    def advance(scope: types.KeyScope, *rest: Any) -> rotation.Step:
        looked_at.append(scope.meta.id)
        return _advance(scope, *rest)

    _advance = rotation.advance
    monkeypatch.setattr(rotation, "advance", advance)
    due = swarm.settle(after_s=1)
    assert (due, looked_at) == (local.NOW + 300, [])
    swarm.acks.forget("node-w2")  # of gossip's holders
    swarm.settle()
    assert looked_at == [GOSSIP_SCOPE]
    swarm.settle(after_s=-2)  # the clock was set back
    assert sorted(set(looked_at)) == sorted((GOSSIP_SCOPE, NET))
    looked_at.clear()
    local.edit(swarm.state, types.Node, "node-w1", is_down)
    swarm.settle()
    assert sorted(set(looked_at)) == sorted((GOSSIP_SCOPE, NET))
