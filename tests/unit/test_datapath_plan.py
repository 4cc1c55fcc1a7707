"""Plans reach what is wanted, from anything, and no prefix of one opens a gap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.datapath_cases import ROLES, desired, network, task

from swarmnet.core.datapath.desired import Desired
from swarmnet.core.datapath.layout import Layout, NetworkLinks, layout
from swarmnet.core.datapath.plan import (
    BuildNetwork,
    BuildTask,
    DropForward,
    DropPolicy,
    DropSa,
    PutForward,
    PutPolicy,
    PutSa,
    RemoveNetwork,
    RemoveTask,
    ResizeNetwork,
    ResizeTask,
    Step,
    plan,
)
from swarmnet.core.datapath.xfrm import ANY, Direction, PolicyId, SaId
from swarmnet.core.epochs import Epoch, Role, epochs
from swarmnet.core.keys import EpochSecret, split_spi
from swarmnet.core.secret import SecretBytes


def take(step: Step, kernel: Layout) -> None:
    """What a step does to a kernel; an AssertionError where a real one would refuse."""
    match step:
        case PutPolicy(policy):
            kernel.policies[policy.id] = policy
        case DropPolicy(policy):
            del kernel.policies[policy.id]
        case PutSa(sa, replaces):
            assert (sa.id in kernel.sas) == replaces
            kernel.sas[sa.id] = sa
        case DropSa(sa):
            del kernel.sas[sa.id]
        case BuildNetwork(name, links):
            kernel.networks[name] = links
            kernel.forwards[name] = {}
        case RemoveNetwork(name):
            del kernel.networks[name], kernel.forwards[name]
        case PutForward(name, forward):
            kernel.forwards[name][forward.ip] = forward
        case DropForward(name, forward):
            del kernel.forwards[name][forward.ip]
        case BuildTask(name, interfaces):
            assert all(each.network in kernel.networks for each in interfaces)
            kernel.tasks[name] = interfaces
        case RemoveTask(name):
            del kernel.tasks[name]
        case _:
            resize(step, kernel)


def resize(step: Step, kernel: Layout) -> None:
    match step:
        case ResizeNetwork(name, links):
            assert replace(kernel.networks[name], mtu=links.mtu) == links
            kernel.networks[name] = links
        case ResizeTask(name, interfaces):
            assert name in kernel.tasks
            kernel.tasks[name] = interfaces
        case _:
            raise AssertionError(step)


def assert_closed(kernel: Layout) -> None:
    """Guards wherever there is an encrypted device; an SA for whatever a policy sends with."""
    for links in kernel.networks.values():
        if links.port != 4789:
            assert PolicyId(Direction.OUT, ANY, ANY, links.port) in kernel.policies
            assert PolicyId(Direction.IN, ANY, ANY, links.port) in kernel.policies
    for policy in kernel.policies.values():
        assert policy.guard or SaId(policy.destination, policy.spi) in kernel.sas


@st.composite
def wishes(draw: st.DrawFn) -> Desired:
    indices = draw(st.sets(st.integers(1, 3)))
    networks = tuple(
        network(
            index,
            phase=draw(st.sampled_from(sorted(ROLES))),
            peers=tuple(sorted(draw(st.sets(st.integers(2, 5))))),
            encrypted=index != 3,
        )
        for index in sorted(indices)
    )
    tasks = tuple(
        task(slot, *draw(st.lists(st.sampled_from(networks), unique_by=lambda each: each.id)))
        for slot in range(draw(st.integers(0, 3)) if networks else 0)
    )
    return replace(desired(*networks, tasks=tasks), encap=draw(st.booleans()))


MTUS = st.sampled_from((1500, 9000))


@given(wishes(), wishes(), MTUS, MTUS)
def test_every_plan_arrives_and_no_prefix_opens_a_gap(
    before: Desired, after: Desired, mtu_before: int, mtu_after: int
) -> None:
    kernel, wanted = layout(before, mtu_before), layout(after, mtu_after)
    for step in plan(wanted, kernel):
        take(step, kernel)
        assert_closed(kernel)
    assert kernel == wanted


@given(wishes())
def test_there_is_nothing_to_do_twice(wish: Desired) -> None:
    assert plan(layout(wish, 1500), layout(wish, 1500)) == []


@given(wishes(), wishes(), st.data())
def test_a_plan_cut_short_anywhere_is_completed_by_the_next(
    before: Desired, after: Desired, data: st.DataObject
) -> None:
    kernel, wanted = layout(before, 1500), layout(after, 1500)
    steps = plan(wanted, kernel)
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        take(step, kernel)
    for step in plan(wanted, kernel):
        take(step, kernel)
        assert_closed(kernel)
    assert kernel == wanted


def test_a_rotation_is_new_sas_then_a_new_policy_then_no_old_sas() -> None:
    phases = [layout(desired(network(peers=(2,), phase=name)), 1500) for name in ROLES if name != "none"]
    kinds = [[type(step) for step in plan(later, now)] for now, later in pairwise(phases)]
    assert kinds == [[PutSa, PutSa], [PutPolicy], [DropSa, DropSa]]


def test_a_whole_rotation_at_once_is_still_make_before_break() -> None:
    stable, retired = (
        layout(desired(network(peers=(2,), phase=name)), 1500) for name in ("stable", "retired")
    )
    kinds = [type(step) for step in plan(retired, stable)]
    assert kinds == [PutSa, PutSa, PutPolicy, DropSa, DropSa]


def test_another_underlay_mtu_touches_nothing_but_mtus() -> None:
    net = network(peers=(2,))
    wish = desired(net, tasks=(task(1, net),))
    kinds = [type(step) for step in plan(layout(wish, 1400), layout(wish, 1500))]
    assert kinds == [ResizeNetwork, ResizeTask]


def test_a_node_that_missed_rotations_never_has_four_epochs() -> None:
    """What it has goes before what comes: nobody else has it any more."""
    before = layout(desired(network(phase="prepared")), 1500)
    later = replace(network(), epochs=epochs(network().id, [live(3, Role.PREVIOUS), live(4, Role.CURRENT)]))
    after = layout(desired(later), 1500)
    steps = [step for step in plan(after, before) if isinstance(step, PutSa | DropSa)]
    there = {split_spi(sa.spi)[2] for sa in before.sas.values()}
    assert [type(step) for step in steps] == [DropSa] * len(before.sas) + [PutSa] * len(after.sas)
    assert there == {1, 2}
    prepared = layout(desired(network(phase="stable")), 1500)
    assert [type(step) for step in plan(before, prepared) if isinstance(step, PutSa | DropSa)] == [PutSa] * 4


def live(number: int, role: Role) -> Epoch:
    return Epoch(EpochSecret(network().id, number, SecretBytes(bytes([number]) * 32)), role)


def test_guards_come_before_the_device_and_go_after_it() -> None:
    wanted = layout(desired(network(peers=(2,)), tasks=(task(1, network(peers=(2,))),)), 1500)
    up = [type(step) for step in plan(wanted, Layout())]
    assert up == [PutPolicy, PutPolicy, PutSa, PutSa, PutPolicy, BuildNetwork, PutForward, BuildTask]
    down = [type(step) for step in plan(Layout(), wanted)]
    assert down == [RemoveTask, RemoveNetwork, DropPolicy, DropSa, DropSa, DropPolicy, DropPolicy]


def test_a_device_that_is_made_anew_gets_all_its_entries_again() -> None:
    wanted = layout(desired(network()), 1500)
    broken = replace(wanted, networks={name: NetworkLinks(0, 0, "", 0) for name in wanted.networks})
    kinds = [type(step) for step in plan(wanted, broken)]
    assert kinds == [BuildNetwork, PutForward, PutForward]
