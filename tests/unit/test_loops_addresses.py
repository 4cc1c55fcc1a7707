"""Subnets and addresses: what is refused, what is chosen, and that nothing is given twice."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import local_raft as local

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, ResourceExhausted
from swarmnet.core.state import State
from swarmnet.manager import allocator
from swarmnet.manager.addresses import bare, check_subnets, next_subnet
from swarmnet.manager.allocator import allocate_network, next_node_index


def test_a_good_subnet_is_stored_with_its_gateway() -> None:
    found = check_subnets(["10.1.0.0/24", "fd00:1::/64"], [])
    assert [(each.cidr, each.gateway) for each in found] == [
        ("10.1.0.0/24", "10.1.0.1"),
        ("fd00:1::/64", "fd00:1::1"),
    ]


@pytest.mark.parametrize(
    ("subnet", "why"),
    [
        ("ten", "not an address"),
        ("10.1.0.0/33", "not an address"),
        ("10.1.0.5/24", "an address in 10.1.0.0/24"),
        ("10.1.0.0", "not name a network"),
        ("10.1.0.0/30", "too small"),
        ("224.0.0.0/24", "cannot use"),
        ("127.0.0.0/8", "cannot use"),
        ("10.0.0.0/8", "overlaps 10.0.1.0/24 of network other"),
        ("10.0.1.128/25", "overlaps 10.0.1.0/24 of network other"),
    ],
)
def test_a_bad_subnet_is_refused_and_why(subnet: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as raised:
        check_subnets([subnet], [local.network("other")])
    assert raised.value.hint


def test_subnets_of_one_request_must_not_overlap_either() -> None:
    with pytest.raises(InvalidArgument, match="the same request"):
        check_subnets(["10.1.0.0/24", "10.1.0.0/25"], [])


def test_the_next_subnet_steps_over_taken_ones_and_over_the_underlay() -> None:
    taken = [local.network("a", "10.0.0.0/24"), local.network("b", "10.0.1.0/25")]
    assert next_subnet(["10.0.0.0/8"], 24, taken, ["10.0.2.9", "fe80::1"]).cidr == "10.0.3.0/24"


def test_a_large_taken_subnet_is_stepped_over_at_once() -> None:
    taken = [local.network("a", "10.0.0.0/9"), local.network("v6", "fd00::/64")]
    assert next_subnet(["10.0.0.0/8"], 28, taken).cidr == "10.128.0.0/28"


def test_an_empty_pool_is_an_error_that_names_it() -> None:
    with pytest.raises(ResourceExhausted, match=r"10\.0\.0\.0/23"):
        next_subnet(["10.0.0.0/23"], 24, [local.network("a", "10.0.0.0/24"), local.network("b")])


def created(state: State, name: str, *, encrypted: bool = True) -> types.Network:
    def decide(transaction):  # type: ignore[no-untyped-def]
        network = types.Network(meta=types.Meta(id=name), name=name, encrypted=encrypted)
        allocate_network(transaction, network)
        transaction.put(network)

    local.commit(state, decide)
    found = state.get(types.Network, name)
    assert found is not None
    return found


def test_networks_differ_in_everything() -> None:
    state = State()
    local.fill(state)
    a, b, plain = created(state, "a"), created(state, "b"), created(state, "plain", encrypted=False)
    assert [n.index for n in (a, b, plain)] == [1, 2, 3]
    assert len({n.vni for n in (a, b, plain)}) == 3
    assert (a.port, b.port, plain.port) == (20001, 20002, 4789)
    assert len({n.subnets[0].cidr for n in (a, b, plain)}) == 3


def test_a_freed_index_rests_until_the_others_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "MAX_NETWORKS", 3)
    state = State()
    local.fill(state)
    first = created(state, "a")
    created(state, "b")
    local.commit(state, lambda t: t.remove(first))
    assert [created(state, "c").index, created(state, "d").index] == [3, 1]
    with pytest.raises(ResourceExhausted, match="3 networks"):
        created(state, "e")


def test_a_node_gets_an_index_of_its_own() -> None:
    state = State()
    local.fill(state, local.node("a", 1), local.node("b", 7))
    assert local.commit(state, next_node_index) == 8


def test_a_removed_nodes_index_comes_last_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may not have dropped the SAs with its SPIs yet."""
    monkeypatch.setattr(allocator, "MAX_NODES", 9)
    state = State()
    local.fill(state, local.node("a", 1), local.node("b", 7))
    local.remove(state, types.Node, "node-b")
    given = [local.commit(state, next_node_index) for _ in range(9)]  # none of them is put: all stay free
    assert given == [2, 3, 4, 5, 6, 7, 8, 9, 2]
    local.put(state, *(local.node(f"n{index}", index) for index in range(2, 10)))
    with pytest.raises(ResourceExhausted, match="9 nodes"):
        local.commit(state, next_node_index)


def test_joining_after_the_youngest_node_was_removed_makes_no_spi_again() -> None:
    state = State()
    local.fill(state)
    first = local.commit(state, next_node_index)
    local.put(state, local.node("a", first))
    local.remove(state, types.Node, "node-a")
    assert local.commit(state, next_node_index) == first + 1


def new_task(number: int, *networks: str) -> types.Task:
    return types.Task(
        meta=types.Meta(id=f"task-{number:04}"),
        service_id="svc-web",
        spec=types.ServiceSpec(networks=networks),
        desired_state=types.TASK_STATE_RUNNING,
    )


def addresses(state: State) -> list[str]:
    return [a.address for t in local.tasks(state) for a in t.attachments]


def test_a_new_task_gets_an_address_and_a_mac_on_each_of_its_networks() -> None:
    state = State()
    local.fill(state, local.network("a"), local.network("b", "10.0.2.0/24", 2))
    local.put(state, new_task(1, "net-b", "net-a"), new_task(2))
    local.settle(state, allocator.plan)
    with_networks, without = local.tasks(state)
    assert [(a.network_id, a.address, a.mac) for a in with_networks.attachments] == [
        ("net-b", "10.0.2.2/24", "02:42:0a:00:02:02"),
        ("net-a", "10.0.1.2/24", "02:42:0a:00:01:02"),
    ]
    assert with_networks.state == without.state == types.TASK_STATE_PENDING


def test_a_full_network_is_said_once_and_the_task_goes_on_when_there_is_room() -> None:
    state = State()
    local.fill(state, local.network("a", "10.0.1.0/29"))
    local.put(state, *(new_task(n, "net-a") for n in range(6)))
    local.settle(state, allocator.plan)
    *_, last = local.tasks(state)
    assert (last.state, last.message) == (
        types.TASK_STATE_NEW,
        "no free address on network a (10.0.1.0/29)",
    )
    local.commit(state, lambda t: t.remove(local.tasks(state)[0]))
    local.settle(state, allocator.plan)
    assert sorted(addresses(state)) == [f"10.0.1.{n}/29" for n in range(2, 7)]
    assert not any(task.message for task in local.tasks(state))


def test_an_ended_tasks_address_is_given_again_last() -> None:
    state = State()
    local.fill(state, local.network("a", "10.0.1.0/29"))
    local.put(state, new_task(0, "net-a"))
    local.settle(state, allocator.plan)
    local.report(state, "task-0000", types.TASK_STATE_FAILED)
    for number in range(1, 6):
        local.put(state, new_task(number, "net-a"))
        local.settle(state, allocator.plan)
    assert addresses(state) == [f"10.0.1.{n}/29" for n in (3, 4, 5, 6, 2)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["make", "end", "remove"]),
        st.integers(0, 20),
        st.sampled_from([("net-a",), ("net-b",), ("net-a", "net-b")]),
    ),
    max_size=40,
)


@given(steps)
def test_no_two_live_tasks_ever_have_one_address(events: list[tuple[str, int, tuple[str, ...]]]) -> None:
    state = State()
    local.fill(state, local.network("a", "10.0.1.0/29"), local.network("b", "10.0.2.0/28", 2))
    for kind, number, networks in events:
        found = state.get(types.Task, f"task-{number:04}")
        if kind == "make" and found is None:
            local.put(state, new_task(number, *networks))
        elif kind == "end" and found is not None:
            local.report(state, found.meta.id, types.TASK_STATE_COMPLETE)
        elif kind == "remove" and found is not None:
            local.commit(state, lambda t, found=found: t.remove(found))  # type: ignore[misc]
        local.settle(state, allocator.plan)
        given_out = addresses(state)
        assert len(given_out) == len(set(given_out))
        for address in given_out:
            subnet = ip_network("10.0.1.0/29" if "10.0.1." in address else "10.0.2.0/28")
            assert ip_interface(address).network == subnet
            assert bare(address) not in (str(subnet[0]), str(subnet[1]), str(subnet[-1]))


def test_a_network_of_both_ip_versions_gives_each_task_one_of_each() -> None:
    state = State()
    net = local.network("a")
    net.subnets.add(cidr="10.0.2.0/24")
    net.subnets.add(cidr="fd00:1::/64")
    local.fill(state, net)
    local.put(state, new_task(1, "net-a"), new_task(2, "net-a"))
    local.settle(state, allocator.plan)
    assert [(a.address, a.address_v6, a.mac) for t in local.tasks(state) for a in t.attachments] == [
        ("10.0.1.2/24", "fd00:1::2/64", "02:42:0a:00:01:02"),
        ("10.0.1.3/24", "fd00:1::3/64", "02:42:0a:00:01:03"),
    ]


def test_a_network_of_ipv6_alone_and_one_whose_ipv6_is_used_up() -> None:
    state = State()
    full = local.network("full", "10.0.9.0/24", 2)
    full.subnets.add(cidr="fd00:2::/126")
    local.fill(state, local.network("six", "fd00:1::/64"), full)
    local.put(state, new_task(1, "net-six"), *(new_task(n, "net-full") for n in (2, 3)))
    local.settle(state, allocator.plan)
    (first,) = (a for t in local.tasks(state) for a in t.attachments if a.network_id == "net-six")
    assert (first.address, first.address_v6, first.mac) == ("fd00:1::2/64", "", "02:42:00:00:00:02")
    messages = sorted(t.message for t in local.tasks(state))
    assert messages[-1] == "no free address on network full (10.0.9.0/24, fd00:2::/126)"


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (["10.0.0.0/24", "10.0.1.0/24"], "10.0.2.0/24"),
        (["10.0.1.0/24"], "10.0.0.0/24"),
        (["10.0.0.0/22", "10.0.0.128/25", "10.0.4.7/32"], "10.0.5.0/24"),
        (["10.0.0.0/25", "fd00::/8", "192.168.0.0/16"], "10.0.1.0/24"),
    ],
)
def test_subnets_in_any_order_and_of_any_size_are_stepped_over(taken: list[str], expected: str) -> None:
    for order in (taken, taken[::-1]):
        networks = [local.network(f"n{n}", cidr, n) for n, cidr in enumerate(order)]
        assert next_subnet(["10.0.0.0/8"], 24, networks).cidr == expected
