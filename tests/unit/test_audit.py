"""The events that changes of the state make: what an auditor reads of every key, node and object."""

from __future__ import annotations

import pytest
from tests.unit import local_raft as local
from tests.unit.test_loops_keymanager import NET, Swarm, task

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import events
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import State, Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager.keymanager import rekey_without, replace_keys


def told(state: State, after: int = 0) -> list[str]:
    """Each about key scopes as `action scope:epoch,... node,... (reason)`, of the changes after an index."""
    return [
        f"{each.action} {' '.join(f'{s.id}:{s.epoch}' for s in each.subjects)} "
        f"{','.join(n.removeprefix('node-') for n in each.nodes)} ({each.reason})"
        for each in state.all(types.Event)
        if each.type == types.EVENT_TYPE_KEY and each.meta.version > after
    ]


def others(state: State, after: int = 0) -> list[tuple[str, str, dict[str, str]]]:
    return [
        (
            types.EventType.Name(each.type)[11:].lower() + " " + each.action,
            each.subjects[0].name,
            dict(each.attributes),
        )
        for each in state.all(types.Event)
        if each.type != types.EVENT_TYPE_KEY and each.meta.version > after
    ]


def test_a_rotation_tells_each_of_its_steps_with_epoch_nodes_and_reason() -> None:
    swarm = Swarm()
    before = swarm.state.index
    swarm.ask(NET)
    for _ in range(3):
        swarm.settle()
        swarm.acknowledge("node-w1")
    swarm.settle(after_s=10)
    assert told(swarm.state, before) == [
        "rotate net-net:1  (requested)",
        "create net-net:2  (requested)",
        "issue net-net:2 w1 (requested)",
        "switch net-net:2  (requested)",
        "acknowledge net-net:2 w1 (requested)",
        "retire net-net:1  (requested)",
    ]


def test_what_changes_alike_in_one_change_is_one_event() -> None:
    state = State()
    local.fill(state, local.network("a", "10.0.1.0/24", 1), local.network("b", "10.0.2.0/24", 2))
    before = state.index

    def rotate(transaction: Transaction) -> None:
        for scope in transaction.scan(types.KeyScope):
            changed = transaction.edit(scope)
            changed.again, changed.reason = True, "requested"
            transaction.put(changed)

    local.commit(state, rotate)
    (event,) = (each for each in state.all(types.Event) if each.meta.version > before)
    assert [(s.id, s.name) for s in event.subjects] == [("gossip", "gossip"), ("net-a", "a"), ("net-b", "b")]


def test_a_node_gets_a_networks_keys_with_its_first_task_and_loses_them_with_its_last() -> None:
    swarm = Swarm()
    before = swarm.state.index
    local.put(swarm.state, task("one", "node-w2", types.TASK_STATE_ASSIGNED), task("two", "node-w2"))
    for name, state in (("one", types.TASK_STATE_RUNNING), ("two", types.TASK_STATE_FAILED)):
        local.report(swarm.state, name, state)
    assert told(swarm.state, before) == ["issue net-net:1 w2 (task assigned)"]
    local.report(swarm.state, "one", types.TASK_STATE_SHUTDOWN)
    assert told(swarm.state, before)[1:] == ["withdraw net-net:1 w2 (last task ended)"]


def test_an_epoch_made_together_with_a_new_holder_is_issued_to_it_once() -> None:
    swarm = Swarm()
    before = swarm.state.index
    swarm.ask(NET)

    def both(transaction: Transaction) -> None:
        scope = transaction.edit(swarm.scope(NET))
        scope.epochs.add(number=2, role=types.EPOCH_ROLE_NEXT)
        scope.phase, scope.again = types.ROTATION_PHASE_PREPARE, False
        transaction.put(scope)
        transaction.put(task("late", "node-w2"))

    local.commit(swarm.state, both)
    assert told(swarm.state, before)[1:] == [
        "issue net-net:1 net-net:2 w2 (task assigned)",
        "create net-net:2  (requested)",
        "issue net-net:2 w1 (requested)",
    ]


def test_a_fence_names_what_the_node_held_and_why() -> None:
    swarm = Swarm()
    swarm.ask(NET)
    swarm.settle()
    swarm.settle(after_s=300)
    (fence,) = (each for each in told(swarm.state) if each.startswith("fence "))
    assert fence.startswith("fence gossip:1 net-net:")
    assert " w1 (fenced: no acknowledgement of the key rotation of net within 300 s" in fence
    assert not [each for each in told(swarm.state) if each.startswith("withdraw ")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t, n: t.remove(n), "node removed"),
        (lambda t, n: t.put(_as_manager(t.edit(n))), "node promoted"),
    ],
)
def test_a_node_that_goes_loses_all_its_keys(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    swarm = Swarm()
    before = swarm.state.index

    def go(transaction: Transaction) -> None:
        node = transaction.get(types.Node, "node-w1")
        rekey_without(transaction, "node-w1", reason)
        change(transaction, node)

    local.commit(swarm.state, go)
    assert told(swarm.state, before) == [
        f"withdraw gossip:1 net-net:1 w1 ({reason})",
        f"rotate gossip:1 net-net:1  ({reason})",
    ]


def _as_manager(node: types.Node) -> types.Node:
    node.role = types.ROLE_MANAGER
    return node


def test_a_joining_node_gets_gossips_key_and_a_removed_network_retires_its_own() -> None:
    swarm = Swarm()
    before = swarm.state.index
    local.put(swarm.state, local.node("w3", 3))
    local.remove(swarm.state, types.KeyScope, NET)
    assert told(swarm.state, before) == [
        "issue gossip:1 w3 (node joined)",
        "retire net-net:1  (network removed)",
    ]


def test_a_recovered_swarm_replaces_its_keys() -> None:
    swarm = Swarm()
    before = swarm.state.index
    local.commit(swarm.state, lambda t: replace_keys(t, swarm.scope(GOSSIP_SCOPE), local.NOW, 60))
    assert [each.partition(" ")[0] for each in told(swarm.state, before)] == [
        "create",
        "issue",
        "switch",
        "retire",
    ]
    assert all(each.endswith("(swarm recovered)") for each in told(swarm.state, before))


def test_objects_are_told_in_dockers_words() -> None:
    swarm = Swarm()
    before = swarm.state.index
    local.edit(swarm.state, types.Node, "node-w1", lambda n: setattr(n, "state", types.NODE_STATE_DOWN))
    local.edit(swarm.state, types.Node, "node-w1", lambda n: setattr(n, "message", "no heartbeat"))
    local.put(swarm.state, local.service("web", 2))
    local.edit(swarm.state, types.Service, "svc-web", lambda s: setattr(s.spec, "replicas", 3))
    local.edit(
        swarm.state, store.ClusterSecrets, "cluster", lambda s: setattr(s, "worker_token_secret", bytes(16))
    )
    local.edit(swarm.state, types.Cluster, "cluster", lambda c: setattr(c, "root_digest", "other"))
    local.remove(swarm.state, types.Network, NET)
    assert others(swarm.state, before) == [
        ("node update", "w1", {"state.old": "ready", "state.new": "down"}),
        ("service create", "web", {}),
        ("service update", "web", {"replicas.old": "2", "replicas.new": "3"}),
        ("swarm join-token-rotate", "", {"role": "worker"}),
        ("swarm root-rotate", "", {"digest": "other"}),
        ("network remove", "net", {}),
    ]


def test_no_event_has_anything_of_a_key() -> None:
    swarm = Swarm()
    secrets = set(swarm.secrets(NET).values())
    swarm.ask(NET)
    for _ in range(3):
        swarm.settle()
        swarm.acknowledge("node-w1")
        secrets |= set(swarm.secrets(NET).values())
    everything = b"".join(each.SerializeToString() for each in swarm.state.all(types.Event))
    assert len(secrets) == 2
    assert not [each for each in secrets if each in everything or each.hex().encode() in everything]


def test_events_have_ascending_ids_and_the_time_of_their_change() -> None:
    state = Swarm().state
    ids = [each.meta.id for each in state.all(types.Event)]
    assert ids == sorted(set(ids))
    assert {each.meta.created_at.seconds for each in state.all(types.Event)} == {int(local.NOW)}
    restored = State()
    restored.restore(state.freeze()())
    assert list(restored.all(types.Event)) == list(state.all(types.Event))


def refused(state: State, count: int) -> None:
    transaction = Transaction(state)
    for number in range(count):
        transaction.tell(
            types.Event(type=types.EVENT_TYPE_KEY, action="refuse", reason=f"number {number}", count=1)
        )
    command = transaction.command(stamp(local.NOW))
    assert command is not None
    state.apply(state.index + 1, command.SerializeToString())


def test_the_oldest_of_a_sort_go_first_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused over and over pushes out refusals, and nothing else; also after a restart."""
    monkeypatch.setitem(events._SHELVES, "refusals", 3)
    state = Swarm().state
    rest = told(state)
    refused(state, 2)
    restored = State()
    restored.restore(state.freeze()())
    for each in (state, restored):
        refused(each, 2)
        found = [e.reason for e in each.all(types.Event) if e.action == "refuse"]
        assert found == ["number 1", "number 0", "number 1"]
        assert told(each)[: len(rest)] == rest


def test_few_large_events_are_kept_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT_EVENT_BYTES", 1000)
    state = State()
    for number in range(50):
        local.put(state, local.network(f"network-{number:030}", index=number + 1))
    kept = list(state.all(types.Event))
    assert 5 < len(kept) < 15
    assert kept[-1].subjects[0].name == f"network-{49:030}"
