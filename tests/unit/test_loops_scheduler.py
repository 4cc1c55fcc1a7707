"""The scheduler spreads, signs, and explains what it cannot do."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.endpoints import Claim, Endpoint, claim, public_key, verify
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Rejected, State, Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager import allocator, orchestrator, scheduler
from swarmnet.manager.constraints import parse_constraint

ALL = (orchestrator.plan, allocator.plan, scheduler.plan)
NO_ESP = types.NodeCapabilities(esp=False, esp_reason="no module esp4", images=["host"])


def swarm(*objects: object) -> State:
    state = State()
    local.fill(state, *objects)
    local.settle(state, *ALL)
    return state


def plain_node(name: str, index: int) -> types.Node:
    node = local.node(name, index)
    node.capabilities.CopyFrom(NO_ESP)
    return node


def only_message(state: State) -> str:
    (task,) = local.tasks(state)
    assert (task.state, task.node_id) == (types.TASK_STATE_PENDING, "")
    return task.message


def test_tasks_of_a_service_are_spread_first_then_tasks_in_all() -> None:
    nodes = [local.node(f"w{n}", n) for n in (1, 2, 3)]
    state = swarm(*nodes, local.service("one", 4), local.service("two", 2))
    of_one = Counter(t.node_id for t in local.tasks(state) if t.service_id == "svc-one")
    assert sorted(of_one.values()) == [1, 1, 2]
    assert sorted(Counter(t.node_id for t in local.tasks(state)).values()) == [2, 2, 2]


def test_the_managers_sign_each_attachment_for_its_node() -> None:
    state = swarm(local.node("w1", 1), local.network("net"), local.service("web", 1, ["net-net"]))
    (task,) = local.tasks(state)
    (attachment,) = task.attachments
    endpoint = Endpoint("net-net", task.meta.id, ip_address("10.0.1.2"), attachment.mac, "node-w1")
    assert verify(public_key(SecretBytes(bytes(range(32)))), endpoint, attachment.signature)


def test_those_of_a_network_that_are_placed_together_are_signed_together() -> None:
    networks = local.network("one"), local.network("two")
    services = local.service("a", 3, ["net-one", "net-two"]), local.service("b", 2, ["net-two"])
    state = swarm(local.node("w1", 1), *networks, *services)
    key = public_key(SecretBytes(bytes(range(32))))
    claims: dict[str, list[Claim | None]] = {"net-one": [], "net-two": []}
    for task in local.tasks(state):
        for each in task.attachments:
            ip = ip_address(each.address.split("/")[0])
            endpoint = Endpoint(each.network_id, task.meta.id, ip, each.mac, task.node_id)
            assert verify(key, endpoint, each.signature)
            claims[each.network_id].append(claim(endpoint, each.signature))
    assert [len(each) for each in claims.values()] == [3, 5]
    assert [len(set(each)) for each in claims.values()] == [1, 1]
    assert not set(claims["net-one"]) & set(claims["net-two"])


def test_a_second_address_has_a_signature_of_its_own() -> None:
    net = local.network("net")
    net.subnets.add(cidr="fd00:1::/64")
    state = swarm(local.node("w1", 1), net, local.service("web", 1, ["net-net"]))
    (task,) = local.tasks(state)
    (attachment,) = task.attachments
    endpoint = Endpoint("net-net", task.meta.id, ip_address("fd00:1::2"), attachment.mac, "node-w1")
    assert verify(public_key(SecretBytes(bytes(range(32)))), endpoint, attachment.signature_v6)
    assert not verify(public_key(SecretBytes(bytes(range(32)))), endpoint, attachment.signature)


def test_an_encrypted_network_needs_nodes_with_esp() -> None:
    state = swarm(
        *(plain_node(f"w{n}", n) for n in (1, 2)),
        local.network("net"),
        local.service("web", 1, ["net-net"]),
    )
    reason = "2 nodes without ESP: w1: no module esp4, w2: no module esp4"
    assert only_message(state) == f"no suitable node ({reason})"


def test_a_plain_network_needs_none() -> None:
    state = swarm(
        plain_node("w1", 1), local.network("net", encrypted=False), local.service("web", 1, ["net-net"])
    )
    assert [t.node_id for t in local.tasks(state)] == ["node-w1"]


def test_every_filter_says_what_it_kept_away() -> None:
    fenced = local.node("w1", 1, fenced=True, message="fenced: no acknowledgement")
    down = local.node("w2", 2, message="no heartbeat for 15 s")
    down.state = types.NODE_STATE_DOWN
    drained = local.node("w3", 3, availability=types.AVAILABILITY_DRAIN)
    manager = local.node("m1", 9)
    manager.role = types.ROLE_MANAGER
    service = local.service("web", 1, ["net-net"], constraints=["node.labels.zone==a"])
    service.spec.image = "nginx"
    elsewhere = local.node("w4", 4)
    blind = plain_node("w5", 5)
    blind.labels["zone"] = "a"
    bare = local.node("w6", 6, labels={"zone": "a"})
    state = swarm(fenced, down, drained, manager, elsewhere, blind, bare, local.network("net"), service)
    assert only_message(state) == (
        "no suitable node (1 node fenced: w1: fenced: no acknowledgement; "
        "1 node not ready: w2: no heartbeat for 15 s; 1 node paused or drained: w3; "
        "constraint node.labels.zone==a not met by 1 node; 1 node without ESP: w5: no module esp4; "
        'image "nginx" not on 1 node)'
    )


def test_many_nodes_are_counted_and_a_few_named() -> None:
    nodes = [local.node(f"w{n}", n, availability=types.AVAILABILITY_PAUSE) for n in range(1, 6)]
    state = swarm(*nodes, local.service("web"))
    assert only_message(state) == "no suitable node (5 nodes paused or drained: w1, w2, w3, ...)"


def test_a_node_that_is_to_be_a_manager_gets_no_task() -> None:
    becoming = local.node("w1", 1, desired_role=types.ROLE_MANAGER)
    state = swarm(becoming, local.service("web"))
    assert only_message(state) == "no suitable node (1 node becoming a manager: w1)"


def test_a_node_that_changes_meanwhile_gets_no_task_by_an_old_decision() -> None:
    state = State()
    local.fill(state, local.node("w1", 1), local.service("web"))
    local.settle(state, orchestrator.plan, allocator.plan)
    late = Transaction(state)
    scheduler.plan(late, local.NOW)
    local.edit(state, types.Node, "node-w1", lambda n: setattr(n, "fenced", True))
    command = late.command(stamp(local.NOW))
    assert command is not None
    assert state.apply(state.index + 1, command.SerializeToString()) == Rejected("node", "node-w1")


def test_a_pending_task_is_placed_as_soon_as_a_node_fits_and_no_reason_is_left() -> None:
    state = swarm(local.service("web"))
    assert only_message(state) == "no suitable node (the swarm has no workers)"
    local.put(state, local.node("w1", 1))
    local.settle(state, *ALL)
    (task,) = local.tasks(state)
    assert (task.node_id, task.message, task.state) == ("node-w1", "", types.TASK_STATE_ASSIGNED)


def test_a_node_that_keeps_failing_a_service_comes_last() -> None:
    state = swarm(local.node("w1", 1), local.node("w2", 2), local.service("web"))
    now = local.NOW
    places = []
    for _ in range(5):
        (task,) = local.tasks(state)
        places.append(task.node_id)
        local.report(state, task.meta.id, types.TASK_STATE_REJECTED)
        now += 5
        local.settle(state, *ALL, now=now)
        now += 5
        local.settle(state, *ALL, now=now)
    assert places == ["node-w1"] * 3 + ["node-w2"] * 2


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("node.labels.zone==a", True),
        ("node.labels.zone != a", False),
        ("node.labels.absent!=a", True),
        ("node.labels.absent==a", False),
        ("node.hostname==w1", True),
        ("node.id!=node-w1", False),
        ("node.role==worker", True),
        ("node.role==manager", False),
    ],
)
def test_constraints(text: str, fits: bool) -> None:
    node = local.node("w1", 1, labels={"zone": "a"})
    assert parse_constraint(text).allows(node) is fits


@pytest.mark.parametrize("text", ["", "zone=a", "node.labels.==a", "node.memory==4", "node.id==", "==a"])
def test_a_bad_constraint_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid constraint") as raised:
        parse_constraint(text)
    assert "node." in raised.value.hint
