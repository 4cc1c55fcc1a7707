"""The orchestrator and the reaper: as many tasks as wanted, successors, and nothing left over."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import TASK_HISTORY
from swarmnet.core.state import State
from swarmnet.core.timestamps import duration, seconds
from swarmnet.manager import allocator, orchestrator, reaper, scheduler
from swarmnet.manager.loop import BATCH

ALL = (orchestrator.plan, allocator.plan, scheduler.plan, reaper.plan)


def swarm(*objects: object, workers: int = 3) -> State:
    """All loops have come to rest."""
    state = State()
    nodes = [local.node(f"w{n}", n) for n in range(1, workers + 1)]
    local.fill(state, *nodes, local.network("net"), *objects)
    local.settle(state, *ALL)
    return state


def by_slot(state: State) -> dict[int, types.Task]:
    """The wanted task of each slot."""
    return {t.slot: t for t in local.tasks(state) if t.desired_state == types.TASK_STATE_RUNNING}


def scale(state: State, replicas: int) -> None:
    local.edit(state, types.Service, "svc-web", lambda s: setattr(s.spec, "replicas", replicas))
    local.settle(state, *ALL)


def restart_policy(condition: types.RestartCondition.ValueType, attempts: int = 0) -> types.RestartPolicy:
    return types.RestartPolicy(condition=condition, delay=duration(2), max_attempts=attempts)


def test_a_service_of_three_has_a_task_in_each_slot_on_a_node_of_its_own() -> None:
    state = swarm(local.service("web", 3, ["net-net"]))
    assert sorted(by_slot(state)) == [1, 2, 3]
    assert {t.node_id for t in local.tasks(state)} == {"node-w1", "node-w2", "node-w3"}
    assert all(t.state == types.TASK_STATE_ASSIGNED for t in local.tasks(state))


def test_it_is_three_commands_from_service_to_assignment() -> None:
    state = swarm(workers=3)
    before = state.index
    local.put(state, local.service("web", 3, ["net-net"]))
    local.settle(state, *ALL)
    assert state.index - before == 1 + 3


def test_scaling_down_takes_the_highest_slots_and_forgets_them_when_they_have_stopped() -> None:
    state = swarm(local.service("web", 3))
    scale(state, 1)
    leaving = [t for t in local.tasks(state) if t.desired_state == types.TASK_STATE_REMOVE]
    assert sorted(t.slot for t in leaving) == [2, 3]
    for task in leaving:
        local.report(state, task.meta.id, types.TASK_STATE_SHUTDOWN)
    local.settle(state, *ALL)
    assert [t.slot for t in local.tasks(state, ended=True)] == [1]


def test_a_removed_services_tasks_go_with_it() -> None:
    state = swarm(local.service("web", 2))
    local.remove(state, types.Service, "svc-web")
    local.settle(state, *ALL)
    for task in local.tasks(state):
        assert task.desired_state == types.TASK_STATE_REMOVE
        local.report(state, task.meta.id, types.TASK_STATE_SHUTDOWN)
    local.settle(state, *ALL)
    assert local.tasks(state, ended=True) == []


def test_a_large_service_is_made_in_batches() -> None:
    state = State()
    local.fill(state, local.service("web", 2 * BATCH + 50))
    local.commit(state, lambda t: orchestrator.plan(t, local.NOW))
    assert len(local.tasks(state)) == BATCH
    local.settle(state, orchestrator.plan)
    assert len(local.tasks(state)) == 2 * BATCH + 50


@pytest.mark.parametrize(
    ("condition", "ended_as", "restarts"),
    [
        (types.RESTART_CONDITION_ANY, types.TASK_STATE_COMPLETE, True),
        (types.RESTART_CONDITION_ANY, types.TASK_STATE_FAILED, True),
        (types.RESTART_CONDITION_ON_FAILURE, types.TASK_STATE_COMPLETE, False),
        (types.RESTART_CONDITION_ON_FAILURE, types.TASK_STATE_REJECTED, True),
        (types.RESTART_CONDITION_NONE, types.TASK_STATE_FAILED, False),
        (types.RESTART_CONDITION_NONE, types.TASK_STATE_ORPHANED, True),
    ],
)
def test_what_is_restarted_when(
    condition: types.RestartCondition.ValueType, ended_as: types.TaskState.ValueType, restarts: bool
) -> None:
    state = swarm(local.service("web", restart=restart_policy(condition)))
    local.report(state, by_slot(state)[1].meta.id, ended_as)
    local.settle(state, *ALL)
    assert (1 in by_slot(state)) is restarts


def test_a_restart_waits_for_its_delay() -> None:
    state = swarm(local.service("web", restart=restart_policy(types.RESTART_CONDITION_ANY)))
    local.report(state, by_slot(state)[1].meta.id, types.TASK_STATE_FAILED)
    due = local.settle(state, *ALL)
    successor = by_slot(state)[1]
    assert due == seconds(successor.not_before) == local.NOW + 2
    assert (successor.state, successor.node_id) == (types.TASK_STATE_PENDING, "")
    local.settle(state, *ALL, now=due)
    assert by_slot(state)[1].state == types.TASK_STATE_ASSIGNED


def test_attempts_are_limited() -> None:
    state = swarm(local.service("web", restart=restart_policy(types.RESTART_CONDITION_ANY, attempts=2)))
    now = local.NOW
    for _ in range(3):
        local.report(state, by_slot(state)[1].meta.id, types.TASK_STATE_FAILED)
        now += 2
        local.settle(state, *ALL, now=now)
        now += 2
        local.settle(state, *ALL, now=now)
    assert by_slot(state) == {}
    assert len(local.tasks(state, ended=True)) == 3


def test_a_places_history_is_limited_and_keeps_the_newest() -> None:
    state = swarm(local.service("web"))
    made = []
    now = local.NOW
    for _ in range(TASK_HISTORY + 3):
        made.append(by_slot(state)[1].meta.id)
        local.report(state, made[-1], types.TASK_STATE_FAILED)
        now += 5
        local.settle(state, *ALL, now=now)
        now += 5
        local.settle(state, *ALL, now=now)
    ended = [t.meta.id for t in local.tasks(state, ended=True) if t.state == types.TASK_STATE_FAILED]
    assert ended == made[-TASK_HISTORY:]


def test_specs_of_any_size_fit_the_commands() -> None:
    large = ["X=" + "x" * 60_000]
    state = swarm(local.service("web", 30, ["net-net"], env=large))
    assert len({t.slot for t in by_slot(state).values() if t.state == types.TASK_STATE_ASSIGNED}) == 30
    local.remove(state, types.Service, "svc-web")
    local.settle(state, *ALL)
    for task in local.tasks(state):
        local.report(state, task.meta.id, types.TASK_STATE_SHUTDOWN)
    local.settle(state, *ALL)
    assert local.tasks(state, ended=True) == []


def node_state(state: State, node_id: str, to: types.NodeState.ValueType) -> None:
    local.edit(state, types.Node, node_id, lambda n: setattr(n, "state", to))
    local.settle(state, *ALL)


def test_a_down_nodes_tasks_are_replaced_at_once_and_its_networks_rekeyed() -> None:
    state = swarm(local.service("web", 3, ["net-net"]), local.network("other", "10.0.2.0/24", 2))
    node_state(state, "node-w2", types.NODE_STATE_DOWN)
    orphans = [t for t in local.tasks(state, ended=True) if t.state == types.TASK_STATE_ORPHANED]
    assert [(t.node_id, t.message) for t in orphans] == [("node-w2", "node w2 is down")]
    assert Counter(t.node_id for t in local.tasks(state)) == {"node-w1": 2, "node-w3": 1}
    asked = {s.meta.id: s.reason for s in state.all(types.KeyScope) if s.again}
    assert asked == {"net-net": "node down"}


def test_a_fenced_nodes_tasks_are_replaced_and_rekeyed_by_who_fenced_it() -> None:
    state = swarm(local.service("web", 3, ["net-net"]))
    local.edit(state, types.Node, "node-w2", lambda n: setattr(n, "fenced", True))
    local.settle(state, *ALL)
    assert {t.node_id for t in local.tasks(state)} == {"node-w1", "node-w3"}
    assert not any(scope.again for scope in state.all(types.KeyScope))


def test_a_place_that_has_two_tasks_keeps_the_one_that_runs() -> None:
    state = swarm(local.service("web"))
    (task,) = local.tasks(state)
    for name, reached in (("a-twin", types.TASK_STATE_FAILED), ("b-twin", types.TASK_STATE_RUNNING)):
        twin = types.Task()
        twin.CopyFrom(task)
        twin.meta.CopyFrom(types.Meta(id=name))
        twin.state = reached
        local.put(state, twin)
    local.report(state, task.meta.id, types.TASK_STATE_FAILED)
    local.settle(state, *ALL)
    assert [t.meta.id for t in local.tasks(state)] == ["b-twin"]
    wanted = [t for t in local.tasks(state, ended=True) if t.desired_state == types.TASK_STATE_RUNNING]
    assert [t.meta.id for t in wanted] == ["b-twin"]


def test_a_removed_services_pending_tasks_are_forgotten_at_once() -> None:
    state = swarm(local.service("web", 2), workers=0)
    assert len(local.tasks(state)) == 2
    local.remove(state, types.Service, "svc-web")
    local.settle(state, *ALL)
    assert local.tasks(state, ended=True) == []


def test_a_node_of_unknown_state_keeps_its_tasks() -> None:
    state = swarm(local.service("web", 3))
    node_state(state, "node-w2", types.NODE_STATE_UNKNOWN)
    assert len({t.node_id for t in local.tasks(state)}) == 3


def test_a_removed_nodes_tasks_are_forgotten_or_replaced() -> None:
    state = swarm(local.service("web", 2))
    local.remove(state, types.Node, "node-w1")
    local.settle(state, *ALL)
    assert sorted(by_slot(state)) == [1, 2]
    assert "node-w1" not in {t.node_id for t in local.tasks(state)}


def test_a_drained_nodes_tasks_stop_and_get_successors() -> None:
    state = swarm(local.service("web", 3))
    local.edit(state, types.Node, "node-w1", lambda n: setattr(n, "availability", types.AVAILABILITY_DRAIN))
    local.settle(state, *ALL)
    stopping = [t for t in local.tasks(state) if t.desired_state == types.TASK_STATE_SHUTDOWN]
    assert [t.node_id for t in stopping] == ["node-w1"]
    assert "node-w1" not in {t.node_id for t in by_slot(state).values()}
    assert len(by_slot(state)) == 3


def test_a_node_drained_by_force_has_lost_its_tasks_whatever_it_says() -> None:
    state = swarm(local.service("web", 3, ["net-net"]))
    (lost,) = [t.meta.id for t in local.tasks(state) if t.node_id == "node-w1"]

    def force(node: types.Node) -> None:
        node.availability, node.drained_by_force = types.AVAILABILITY_DRAIN, True

    local.edit(state, types.Node, "node-w1", force)
    local.settle(state, *ALL)
    found = state.get(types.Task, lost)
    assert found is not None
    assert (found.state, found.message) == (types.TASK_STATE_ORPHANED, "node w1 was drained by force")
    assert "node-w1" not in {t.node_id for t in by_slot(state).values()}
    assert len(by_slot(state)) == 3
    scope = state.get(types.KeyScope, "net-net")
    assert scope is not None
    assert not scope.again  # who forces it asks for the rotation, once


def global_service(*constraints: str) -> types.Service:
    return local.service("web", mode=types.SERVICE_MODE_GLOBAL, constraints=constraints)


def test_a_global_service_has_a_task_on_every_fitting_node() -> None:
    state = swarm(global_service("node.hostname!=w3"))
    assert sorted(t.node_id for t in local.tasks(state)) == ["node-w1", "node-w2"]
    local.put(state, local.node("w4", 4))
    local.settle(state, *ALL)
    assert sorted(t.node_id for t in local.tasks(state)) == ["node-w1", "node-w2", "node-w4"]


def test_a_global_service_leaves_drained_nodes_and_comes_back_to_returned_ones() -> None:
    state = swarm(global_service())
    node_state(state, "node-w1", types.NODE_STATE_DOWN)
    assert sorted(t.node_id for t in local.tasks(state)) == ["node-w2", "node-w3"]
    node_state(state, "node-w1", types.NODE_STATE_READY)
    assert sorted(t.node_id for t in local.tasks(state)) == ["node-w1", "node-w2", "node-w3"]


def test_keys_of_networks_that_are_gone_are_forgotten() -> None:
    state = swarm()
    local.remove(state, types.Network, "net-net")
    local.settle(state, *ALL)
    assert [s.meta.id for s in state.all(types.KeyScope)] == ["gossip"]
    assert [s.meta.id for s in state.all(store.ScopeSecrets)] == ["gossip"]


def test_a_worker_that_is_to_be_a_manager_gives_up_its_tasks() -> None:
    everywhere = local.service("agent", mode=types.SERVICE_MODE_GLOBAL)
    state = swarm(local.service("web", 3), everywhere)
    local.edit(state, types.Node, "node-w1", lambda n: setattr(n, "desired_role", types.ROLE_MANAGER))
    local.settle(state, *ALL)
    for task in local.tasks(state):
        wanted = task.desired_state == types.TASK_STATE_RUNNING
        assert wanted is (task.node_id != "node-w1"), task
    assert sorted(by_slot(state)) == [0, 1, 2, 3]


def test_a_manager_has_no_tasks_whatever_it_had_as_a_worker() -> None:
    state = swarm(local.service("web", 3))
    local.edit(state, types.Node, "node-w1", lambda n: setattr(n, "role", types.ROLE_MANAGER))
    local.settle(state, *ALL)
    assert {task.node_id for task in local.tasks(state)} == {"node-w2", "node-w3"}
    assert sorted(by_slot(state)) == [1, 2, 3]
