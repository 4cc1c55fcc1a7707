"""Who may get which role: wishes and their refusals, certificates, and certificates of another time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.unit import local_raft as local
from tests.unit.control_api import HERE, MadeUpManagers, make_api, make_swarm, named
from tests.unit.manager_doors import CLUSTER, ROOT, certificate

from swarmnet.api.v1 import ca_pb2, local_pb2, raft_pb2, store_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)
from swarmnet.core.state import State
from swarmnet.manager.bootstrap import CertificateService, Issuer
from swarmnet.manager.ca.authority import Subject, new_key, signing_request
from swarmnet.manager.ca.credentials import subject_of
from swarmnet.manager.identity import Caller, CallerRole, set_caller
from swarmnet.manager.keymanager import KeyManager
from swarmnet.manager.promotion import Offer
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.member import Joined, Member
from swarmnet.manager.raft.service import RaftService
from swarmnet.manager.recognition import check_may_join, check_recognized
from swarmnet.manager.role_change import RoleChange, RoleChangeFile
from swarmnet.manager.roles import wanted_role
from swarmnet.manager.server import AUTHORITY, BOOTSTRAP, CONTROL, DISPATCHER
from swarmnet.manager.store import Store

MANAGER, WORKER, NONE = types.ROLE_MANAGER, types.ROLE_WORKER, types.ROLE_UNSPECIFIED
READY, DOWN, UNKNOWN = types.NODE_STATE_READY, types.NODE_STATE_DOWN, types.NODE_STATE_UNKNOWN
IDLE = types.NodeCapabilities(manager=True)
CONTEXT: Any = None


def node(store: Store, name: str) -> types.Node:
    found = store.state.get(types.Node, f"node-{name}")
    assert found is not None
    return found


def swarm(*managers: str) -> Store:
    """make_swarm's, with these managers more."""
    made = make_swarm()
    local.edit(made.state, types.Node, "node-w1", lambda each: each.capabilities.MergeFrom(IDLE))
    for index, name in enumerate(managers, 20):
        each = types.Node(meta=types.Meta(id=f"node-{name}"), role=MANAGER, hostname=name, index=index)
        local.put(made.state, each)
    return made


def reached(**managers: bool) -> MadeUpManagers:
    return MadeUpManagers({HERE: True} | {f"node-{name}": up for name, up in managers.items()})


async def wish(store: Store, managers: MadeUpManagers, name: str, role: types.Role.ValueType) -> None:
    await named("UpdateNode", name, role=role)(make_api(store, managers))


# Wishes


async def test_a_wish_is_written_down_and_can_be_taken_back() -> None:
    store = swarm()
    await wish(store, reached(m2=True), "w1", MANAGER)
    assert (node(store, "w1").role, node(store, "w1").desired_role) == (WORKER, MANAGER)
    await wish(store, reached(m2=True), "w1", WORKER)
    assert wanted_role(node(store, "w1")) == WORKER


@pytest.mark.parametrize(
    ("up", "name", "message"),
    [
        ({}, "m1", "attempting to demote the last manager of the swarm"),
        ({"m2": False}, "m1", "demoting m1 would leave 0 of 1 managers reachable, and a swarm of 1 needs 1"),
        (
            {"m2": True, "m3": False},
            "m2",
            "demoting m2 would leave 1 of 2 managers reachable, and a swarm of",
        ),
        (
            {"m2": True, "m3": False, "m4": False, "m5": True},
            "m2",
            "demoting m2 would leave 2 of 4 managers reachable, and a swarm of 4 needs 3 to agree",
        ),
    ],
)
async def test_the_last_majority_is_protected(up: dict[str, bool], name: str, message: str) -> None:
    store = swarm("m3", "m4", "m5")
    before = store.state.index
    with pytest.raises(FailedPrecondition) as refused:
        await wish(store, reached(**up), name, WORKER)
    assert refused.value.message.startswith(message)
    assert refused.value.hint
    assert store.state.index == before


@pytest.mark.parametrize(
    ("up", "name"),
    [
        ({"m2": True}, "m1"),
        ({"m2": False}, "m2"),
        ({"m2": True, "m3": False}, "m3"),
        ({"m2": True, "m3": False, "m4": True, "m5": True}, "m2"),
    ],
)
async def test_a_manager_can_go_when_the_rest_can_agree(up: dict[str, bool], name: str) -> None:
    store = swarm("m3", "m4", "m5")
    await wish(store, reached(**up), name, WORKER)
    assert node(store, name).desired_role == WORKER


async def test_managers_that_are_about_to_go_do_not_count_among_the_rest() -> None:
    store, managers = swarm("m3"), reached(m2=True, m3=True)
    await wish(store, managers, "m2", WORKER)
    await wish(store, managers, "m3", WORKER)
    with pytest.raises(FailedPrecondition, match="the last manager"):
        await wish(store, managers, "m1", WORKER)


async def test_of_two_demotions_at_once_the_second_sees_the_first() -> None:
    """Between its decision and its command, another node changes: it has to decide anew."""
    store, managers = swarm(), reached(m2=True)
    raft = local.LocalRaft(store)
    outer = raft.propose

    async def propose(command: bytes, timeout_s: float = 5.0) -> object:
        raft.propose = outer  # type: ignore[method-assign]
        await wish(store, managers, "m2", WORKER)
        return await outer(command, timeout_s)

    raft.propose = propose  # type: ignore[method-assign]
    store.attach(raft)
    with pytest.raises(FailedPrecondition, match="the last manager"):
        await wish(store, managers, "m1", WORKER)
    assert node(store, "m1").desired_role == NONE


@pytest.mark.parametrize(
    ("role", "desired", "state", "fenced", "idle"),
    list(
        product(
            (MANAGER, WORKER), (NONE, MANAGER, WORKER), (READY, DOWN, UNKNOWN), (False, True), (False, True)
        )
    ),
)
async def test_which_nodes_can_be_promoted(
    role: types.Role.ValueType,
    desired: types.Role.ValueType,
    state: types.NodeState.ValueType,
    *,
    fenced: bool,
    idle: bool,
) -> None:
    store = swarm()
    made = local.node("x", 30, desired_role=desired, state=state, fenced=fenced, message="its words")
    made.role, made.state = role, state
    made.capabilities.manager, made.capabilities.manager_reason = idle, "" if idle else "no daemon"
    local.put(store.state, made)
    if (desired or role) == MANAGER:
        expected = ""
    elif role == MANAGER:
        expected = "node x is just being demoted"
    elif state != READY or fenced:
        expected = "node x is not ready and cannot become a manager: its words"
    else:
        expected = "" if idle else "node x cannot become a manager: no daemon"
    try:
        await wish(store, reached(m2=True, x=True), "x", MANAGER)
        said = ""
    except FailedPrecondition as error:
        said = error.message
    assert said == expected
    assert (wanted_role(node(store, "x")) == MANAGER) is (expected == "")


@pytest.mark.parametrize("role", [NONE, 3, 99, -1])
async def test_what_is_no_role_is_refused(role: int) -> None:
    with pytest.raises(InvalidArgument, match="unknown role"):
        await wish(swarm(), reached(), "w1", role)  # type: ignore[arg-type]


async def test_a_member_of_raft_is_taken_out_of_it_before_its_node_is_removed() -> None:
    store, managers = swarm(), reached(w2=False)
    await named("RemoveNode", "w2", force=True)(make_api(store, managers))
    assert "node-w2" not in managers.known
    assert store.state.get(types.Node, "node-w2") is None


async def test_a_removed_manager_had_all_keys_and_all_are_replaced() -> None:
    store = swarm()
    await named("RemoveNode", "m2")(make_api(store, reached()))
    local.settle(store.state, KeyManager(lambda _: {}).plan)
    assert {scope.epochs[-1].number for scope in store.state.all(types.KeyScope)} == {2}


# Certificates


def authority(**fields: Any) -> tuple[Store, CertificateService]:
    """For the node "node-x"."""
    store = Store()
    store.attach(local.LocalRaft(store))
    local.fill(store.state, types.Node(meta=types.Meta(id="node-x"), **fields))
    local.edit(
        store.state,
        types.Cluster,
        "cluster",
        lambda each: setattr(each, "root_certificate_pem", ROOT.root_pem.decode()),
    )
    local.edit(
        store.state,
        store_pb2.ClusterSecrets,
        "cluster",
        lambda each: setattr(each, "root_key_pem", ROOT.key_pem.reveal()),
    )
    return store, CertificateService(store, Issuer(store, lambda: ["192.0.2.11:2377"]))


async def renewed(service: CertificateService, caller: CallerRole, **fields: Any) -> Subject:
    set_caller(Caller("node-x", caller))
    csr = signing_request(new_key()).decode()
    answer = await service.RenewCertificate(ca_pb2.RenewCertificateRequest(csr_pem=csr, **fields), CONTEXT)
    subject = subject_of(x509.load_pem_x509_certificate(answer.certificate_pem.encode()))
    names = {MANAGER: CallerRole.MANAGER, WORKER: CallerRole.WORKER}
    assert names[answer.role] is subject.role
    return subject


@pytest.mark.parametrize(
    ("role", "desired", "asked", "got"),
    [
        (WORKER, NONE, NONE, CallerRole.WORKER),
        (WORKER, MANAGER, NONE, CallerRole.WORKER),
        (WORKER, MANAGER, MANAGER, CallerRole.MANAGER),
        (MANAGER, NONE, NONE, CallerRole.MANAGER),
        (MANAGER, WORKER, MANAGER, CallerRole.MANAGER),
    ],
)
async def test_a_certificate_is_of_the_role_that_the_state_wants(
    role: types.Role.ValueType,
    desired: types.Role.ValueType,
    asked: types.Role.ValueType,
    got: CallerRole,
) -> None:
    _, service = authority(role=role, desired_role=desired)
    caller = CallerRole.MANAGER if role == MANAGER else CallerRole.WORKER
    assert await renewed(service, caller, role=asked) == Subject("node-x", got, "cluster")


async def test_a_demoted_manager_trades_its_certificate_for_a_workers() -> None:
    _, service = authority(role=WORKER, demoted=True)
    assert (await renewed(service, CallerRole.MANAGER, role=WORKER)).role is CallerRole.WORKER
    with pytest.raises(PermissionDenied):
        await renewed(service, CallerRole.MANAGER)
    with pytest.raises(PermissionDenied):
        await renewed(service, CallerRole.MANAGER, role=MANAGER)
    assert (await service.GetRole(ca_pb2.GetRoleRequest(), CONTEXT)) == ca_pb2.GetRoleResponse(
        role=WORKER, manager_addresses=["192.0.2.11:2377"]
    )


@pytest.mark.parametrize(
    ("role", "desired", "asked"),
    [(WORKER, NONE, MANAGER), (WORKER, WORKER, MANAGER), (MANAGER, NONE, WORKER), (MANAGER, WORKER, WORKER)],
)
async def test_no_other_certificate_is_given(
    role: types.Role.ValueType, desired: types.Role.ValueType, asked: types.Role.ValueType
) -> None:
    store, service = authority(role=role, desired_role=desired)
    before = store.state.index
    with pytest.raises(PermissionDenied, match="is not to be a"):
        await renewed(service, CallerRole.WORKER, role=asked, bootstrap_address="192.0.2.9:2378")
    assert store.state.index == before


async def test_where_the_new_manager_serves_joiners_is_kept() -> None:
    store, service = authority(role=WORKER, desired_role=MANAGER)
    await renewed(service, CallerRole.WORKER, role=MANAGER, bootstrap_address="192.0.2.9:2378")
    assert node(store, "x").bootstrap_address == "192.0.2.9:2378"
    with pytest.raises(InvalidArgument):
        await renewed(service, CallerRole.WORKER, role=MANAGER, bootstrap_address="x" * 301)


# Old certificates

STATES = {
    "worker": types.Node(role=WORKER),
    "becoming a manager": types.Node(role=WORKER, desired_role=MANAGER),
    "manager": types.Node(role=MANAGER),
    "becoming a worker": types.Node(role=MANAGER, desired_role=WORKER),
    "demoted": types.Node(role=WORKER, demoted=True),
    "removed": None,
}
AS_MANAGER = {"manager", "becoming a worker"}
AS_WORKER = {"worker", "becoming a manager", "demoted"}


def state_with(each: types.Node | None) -> State:
    state = State()
    if each is not None:
        made = types.Node(meta=types.Meta(id="node-x"))
        made.MergeFrom(each)
        local.put(state, made)
    return state


def recognized(state: State, caller: Caller, service: str, *members: str) -> bool:
    try:
        check_recognized(state, members, caller, service)
    except Unauthenticated:
        return False
    return True


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("service", [CONTROL, AUTHORITY, BOOTSTRAP])
def test_a_certificate_counts_only_with_the_role_that_the_node_has(what: str, service: str) -> None:
    state = state_with(STATES[what])
    trading = what == "demoted" and service == AUTHORITY
    as_manager = recognized(state, Caller("node-x", CallerRole.MANAGER), service)
    assert as_manager is (what in AS_MANAGER or trading)
    assert recognized(state, Caller("node-x", CallerRole.WORKER), service) is (what in AS_WORKER)
    assert recognized(state, Caller("anybody", CallerRole.CLIENT), service)


@pytest.mark.parametrize("what", STATES)
def test_the_dispatcher_tells_a_node_itself_that_it_is_no_worker(what: str) -> None:
    assert recognized(state_with(STATES[what]), Caller("node-x", CallerRole.WORKER), DISPATCHER)


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("service", [CONTROL, AUTHORITY, BOOTSTRAP, DISPATCHER])
def test_only_a_manager_of_now_forwards_calls(what: str, service: str) -> None:
    state = state_with(STATES[what])
    caller = Caller("anybody", CallerRole.CLIENT, via="node-x")
    assert recognized(state, caller, service) is (what == "manager")
    assert recognized(state, caller, service, "node-x")


@pytest.mark.parametrize("what", STATES)
async def test_raft_takes_in_whom_the_state_wants(what: str) -> None:
    """A manager's certificate lives for months: by itself it opens nothing."""
    state, asked = state_with(STATES[what]), []

    async def may_join(node_id: str) -> None:
        asked.append(node_id)
        check_may_join(state, node_id)

    part = Part()
    service = RaftService(may_join)
    service.part = part  # type: ignore[assignment]
    set_caller(Caller("node-x", CallerRole.MANAGER))
    member = raft_pb2.RaftMember(node_id="node-x", address="192.0.2.9:2377", raft_address="192.0.2.9:2374")
    request = raft_pb2.RaftJoinRequest(member=member)
    if what in {"manager", "becoming a manager"}:
        await service.Join(request, CONTEXT)
        assert part.admitted == ["node-x"]
    else:
        with pytest.raises(PermissionDenied, match="not to be a manager"):
            await service.Join(request, CONTEXT)
        assert part.admitted == []
    assert asked == ["node-x"]


class Part:
    """Takes in whoever is let through."""

    def __init__(self) -> None:
        self.admitted: list[str] = []
        self.members: dict[str, Any] = {}

    async def admit(self, member: Member) -> Joined:
        self.admitted.append(member.node_id)
        return Joined((member,), LogEnd(1, 2))


# Taking over, on the manager's host


def test_an_offer_accepts_a_managers_certificate_for_its_key_alone() -> None:
    offer = Offer()
    issued = ROOT.issue(
        offer.csr_pem.encode(), Subject("x" * 25, CallerRole.MANAGER, CLUSTER), datetime.now(UTC)
    )
    request = local_pb2.TakeOverRequest(
        certificate_pem=issued.decode(), root_certificate_pem=ROOT.root_pem.decode()
    )
    assert offer.accepted(request).subject.node_id == "x" * 25
    as_worker = ROOT.issue(
        offer.csr_pem.encode(), Subject("x" * 25, CallerRole.WORKER, CLUSTER), datetime.now(UTC)
    )
    other_key = certificate(CallerRole.MANAGER, "x" * 25).certificate_pem
    for bad in (as_worker, other_key, b"junk", b""):
        changed = local_pb2.TakeOverRequest()
        changed.CopyFrom(request)
        changed.certificate_pem = bad.decode()
        with pytest.raises(InvalidArgument, match="not a manager's for the key"):
            offer.accepted(changed)
    with pytest.raises(InvalidArgument):
        Offer().accepted(request)


def test_a_change_of_roles_is_remembered(tmp_path: Path) -> None:
    file = RoleChangeFile(tmp_path)
    assert file.load() is None
    change = RoleChange(CallerRole.MANAGER, ("192.0.2.11:2377", "192.0.2.12:2377"))
    file.save(change)
    assert RoleChangeFile(tmp_path).load() == change
    file.save(replace(change, to=CallerRole.WORKER, managers=()))
    assert RoleChangeFile(tmp_path).load() == RoleChange(CallerRole.WORKER, ())
    file.erase()
    assert file.load() is None


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"to": "king", "managers": []}', b"\xff"])
def test_a_damaged_memory_of_it_is_not_guessed_at(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "role-change.json").write_bytes(raw)
    with pytest.raises(Internal, match="is damaged"):
        RoleChangeFile(tmp_path).load()
