"""Commands that change something: what they ask for, what they print, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.unit.fake_swarm import Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)

NETWORK_ID, SERVICE_ID = "n" * 25, "s" * 25


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def test_network_create_asks_for_what_was_said_and_prints_the_id(host: Host) -> None:
    fake = host.manager()
    fake.answers["CreateNetwork"] = [control.CreateNetworkResponse(id=NETWORK_ID)]
    line = "network create -d overlay --opt encrypted --subnet 10.9.0.0/24 --label a=b --internal my-net"
    assert host.swarmnet(*line.split()).out == f"{NETWORK_ID}\n"
    (request,) = fake.requests["CreateNetwork"]
    assert len(request.request_id) == 25
    request.request_id = ""
    assert request == control.CreateNetworkRequest(
        name="my-net",
        driver="overlay",
        options={"encrypted": ""},
        subnets=["10.9.0.0/24"],
        labels={"a": "b"},
        internal=True,
    )


@pytest.mark.parametrize("lost", [Unavailable("gone"), OutcomeUnknown("lost"), grpc.StatusCode.UNAVAILABLE])
def test_a_create_whose_answer_was_lost_is_asked_again_under_the_same_id(host: Host, lost: object) -> None:
    fake = host.manager()
    fake.answers["CreateNetwork"] = [lost, control.CreateNetworkResponse(id=NETWORK_ID)]
    assert host.swarmnet("network", "create", "my-net").out == f"{NETWORK_ID}\n"
    first, second = fake.requests["CreateNetwork"]
    assert first == second
    assert first.request_id


def test_it_is_asked_again_once(host: Host) -> None:
    fake = host.manager()
    fake.answers["CreateNetwork"] = [Unavailable("gone", hint="Try again.")]
    result = host.swarmnet("network", "create", "my-net")
    assert (result.status, result.out, result.err) == (1, "", "Error: gone\nTry again.\n")
    assert len(fake.requests["CreateNetwork"]) == 2


def test_without_a_majority_the_manager_has_waited_and_we_do_not(host: Host) -> None:
    fake = host.manager()
    fake.answers["CreateNetwork"] = [NoLeader()]
    result = host.swarmnet("network", "create", "my-net")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("Error: The swarm does not have a leader.")
    assert len(fake.requests["CreateNetwork"]) == 1


def test_a_removal_whose_answer_was_lost_is_not_asked_again(host: Host) -> None:
    fake = host.manager()
    fake.answers["RemoveNetwork"] = [Unavailable("gone")]
    assert host.swarmnet("network", "rm", "my-net").status == 1
    assert len(fake.requests["RemoveNetwork"]) == 1


def test_a_refusal_is_told_with_the_way_out(host: Host) -> None:
    error = AlreadyExists("network with name my-net already exists", hint="Use another name.")
    host.manager().answers["CreateNetwork"] = [error]
    result = host.swarmnet("network", "create", "my-net")
    assert result.status == 1
    assert result.err == "Error: network with name my-net already exists\nUse another name.\n"


def test_rm_goes_on_after_a_failure_and_tells_it(host: Host) -> None:
    in_use = InUse("network a is in use by service web", hint="Remove the service first.")
    host.manager().answers["RemoveNetwork"] = [in_use, control.RemoveResponse(id=NETWORK_ID)]
    result = host.swarmnet("network", "rm", "a", "b")
    assert (result.status, result.out) == (1, "b\n")
    assert result.err == "Error: network a is in use by service web\nRemove the service first.\n"


@pytest.mark.parametrize(
    ("line", "rpc", "request_"),
    [
        ("service rm web", "RemoveService", control.GetRequest(ref="web")),
        ("node rm --force w1", "RemoveNode", control.RemoveNodeRequest(ref="w1", force=True)),
        (
            "node update --availability drain --label-add zone=a --label-rm old w1",
            "UpdateNode",
            control.UpdateNodeRequest(
                ref="w1",
                availability=types.AVAILABILITY_DRAIN,
                labels={"zone": "a"},
                remove_labels=["old"],
            ),
        ),
        (
            "node update --availability drain --force w1",
            "UpdateNode",
            control.UpdateNodeRequest(ref="w1", availability=types.AVAILABILITY_DRAIN, force=True),
        ),
        ("node update w1", "UpdateNode", control.UpdateNodeRequest(ref="w1")),
        (
            "node update --role manager w1",
            "UpdateNode",
            control.UpdateNodeRequest(ref="w1", role=types.ROLE_MANAGER),
        ),
    ],
)
def test_what_is_asked_for(host: Host, line: str, rpc: str, request_: object) -> None:
    fake = host.manager()
    fake.answers["RemoveService"] = [control.RemoveResponse(id=SERVICE_ID)]
    fake.answers["RemoveNode"] = [control.RemoveNodeResponse(id="w" * 25)]
    fake.answers["UpdateNode"] = [control.NodeView()]
    result = host.swarmnet(*line.split())
    assert (result.status, result.out) == (0, f"{line.rsplit(maxsplit=1)[-1]}\n")
    assert fake.requests[rpc] == [request_]


def _created(host: Host, line: str) -> types.ServiceSpec:
    fake = host.manager()
    fake.answers["CreateService"] = [control.CreateServiceResponse(id=SERVICE_ID)]
    result = host.swarmnet("service", "create", "--detach", *line.split())
    assert (result.status, result.out, result.err) == (0, f"{SERVICE_ID}\n", "")
    (request,) = fake.requests["CreateService"]
    assert len(request.request_id) == 25
    assert isinstance(request.spec, types.ServiceSpec)
    return request.spec


def test_service_create_with_everything(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    spec = _created(
        host,
        "--name web --replicas 3 --network a --network b --env PORT=80 -e FROM_HERE -e NOT_HERE "
        "--label tier=x "
        "--constraint node.labels.zone==a --restart-condition on-failure --restart-delay 1m30s "
        "--restart-max-attempts 4 --stop-grace-period 500ms my-image python3 -m http.server --bind 0.0.0.0",
    )
    wanted = types.ServiceSpec(
        name="web",
        image="my-image",
        command=["python3", "-m", "http.server", "--bind", "0.0.0.0"],
        env=["PORT=80", "FROM_HERE=yes"],
        replicas=3,
        networks=["a", "b"],
        labels={"tier": "x"},
        constraints=["node.labels.zone==a"],
    )
    wanted.restart.condition = types.RESTART_CONDITION_ON_FAILURE
    wanted.restart.delay.FromSeconds(90)
    wanted.restart.max_attempts = 4
    wanted.stop_grace_period.FromMilliseconds(500)
    assert spec == wanted


def test_service_create_with_nothing_leaves_the_defaults_to_the_manager(host: Host) -> None:
    spec = _created(host, "registry/my-image:1.0")
    assert spec.name.startswith("my-image-")
    assert spec.replicas == 1
    assert not spec.restart.HasField("delay")
    assert not spec.HasField("stop_grace_period")


def test_a_global_service_has_no_replicas(host: Host) -> None:
    assert _created(host, "--mode global --name logs my-image").mode == types.SERVICE_MODE_GLOBAL


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("service create --replicas -1 img", "'-1'"),
        ("service create --replicas many img", "'many'"),
        ("service create --mode global --replicas 3 img", "replicas can only be used with replicated mode"),
        ("service create --restart-delay 5 img", "invalid duration '5' for --restart-delay"),
        ("service create --restart-condition never img", "'never'"),
        ("service create --env =x img", "'=x'"),
        ("service create --label =x img", "'=x'"),
        ("service create --colour red img", "--colour"),
        ("service create", "IMAGE"),
        ("service scale web", "invalid scale specifier 'web'"),
        ("service scale web=-2", "invalid number of replicas for web '-2'"),
        ("service scale ok=1 =2", "invalid scale specifier '=2'"),
        ("network create --opt =x my-net", "invalid --opt '=x'"),
        ("network create", "NAME"),
        ("network crate", "crate"),
        ("node update --availability sleep w1", "sleep"),
        ("swarm update", "nothing to update"),
        ("nonsense", "nonsense"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(host: Host, line: str, names: str) -> None:
    fake = host.manager()
    result = host.swarmnet(*line.split())
    assert (result.status, result.out) == (1, "")
    message, hint = result.err.splitlines()
    assert message.startswith("Error: ")
    assert names in message
    assert hint
    assert fake.requests == {}


def test_scale_tells_each_service_and_the_failures(host: Host) -> None:
    fake = host.manager()
    fake.answers["ScaleService"] = [control.ServiceView(), NotFound("no such service: db", hint="List them.")]
    result = host.swarmnet("service", "scale", "--detach", "web=5", "db=2")
    assert (result.status, result.out) == (1, "web scaled to 5\n")
    assert result.err == "Error: no such service: db\nList them.\n"
    assert fake.requests["ScaleService"][0] == control.ScaleServiceRequest(ref="web", replicas=5)


def test_swarm_update(host: Host) -> None:
    fake = host.manager()
    fake.answers["UpdateCluster"] = [control.GetClusterResponse()]
    assert host.swarmnet("swarm", "update", "--key-rotation-period", "6h").out == "Swarm updated.\n"
    assert fake.requests["UpdateCluster"][0].key_rotation_period.seconds == 6 * 3600


@pytest.mark.parametrize(
    ("flag", "value"), [("--encrypt-by-default", True), ("--no-encrypt-by-default", False)]
)
def test_encryption_by_default_is_switched_on_and_off(host: Host, flag: str, value: bool) -> None:
    fake = host.manager()
    fake.answers["UpdateCluster"] = [control.GetClusterResponse()]
    assert host.swarmnet("swarm", "update", flag).out == "Swarm updated.\n"
    (request,) = fake.requests["UpdateCluster"]
    assert request == control.UpdateClusterRequest(encrypt_by_default=value)


def test_a_defect_is_told_without_a_traceback(host: Host) -> None:
    host.manager().answers["ListNetworks"] = [lambda _: 1 / 0]
    result = host.swarmnet("network", "ls")
    assert result.status == 1
    assert "Traceback" not in result.err
    assert result.err.startswith("Error: ")


def test_a_defect_of_our_own_is_told_without_a_traceback(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("swarmnet.cli.network.Filter", broken)
    result = host.swarmnet("network", "ls")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("Error: unexpected ZeroDivisionError: division by zero\nThis is a defect")


@pytest.mark.parametrize(
    ("verb", "role", "said"),
    [
        ("promote", types.ROLE_MANAGER, "Node {} promoted to a manager in the swarm.\n"),
        ("demote", types.ROLE_WORKER, "Manager {} demoted in the swarm.\n"),
    ],
)
def test_a_change_of_roles_is_asked_for_by_id_and_told_in_dockers_words(
    host: Host, verb: str, role: types.Role.ValueType, said: str
) -> None:
    fake = host.manager()
    was = types.ROLE_WORKER if role == types.ROLE_MANAGER else types.ROLE_MANAGER
    fake.answers["GetNode"] = [
        control.NodeView(node=types.Node(meta=types.Meta(id=id_), role=was)) for id_ in ("a" * 25, "b" * 25)
    ]
    fake.answers["UpdateNode"] = [control.NodeView()]
    assert host.swarmnet("node", verb, "x1", "x2").out == said.format("x1") + said.format("x2")
    assert fake.requests["UpdateNode"] == [
        control.UpdateNodeRequest(ref=id_, role=role) for id_ in ("a" * 25, "b" * 25)
    ]


@pytest.mark.parametrize(
    ("verb", "role", "wish", "word"),
    [
        ("promote", types.ROLE_MANAGER, types.ROLE_UNSPECIFIED, "manager"),
        ("promote", types.ROLE_WORKER, types.ROLE_MANAGER, "manager"),
        ("demote", types.ROLE_WORKER, types.ROLE_UNSPECIFIED, "worker"),
        ("demote", types.ROLE_MANAGER, types.ROLE_WORKER, "worker"),
    ],
)
def test_what_is_so_already_is_not_asked_for_again(
    host: Host, verb: str, role: types.Role.ValueType, wish: types.Role.ValueType, word: str
) -> None:
    fake = host.manager()
    each = types.Node(meta=types.Meta(id="w" * 25), role=role, desired_role=wish)
    fake.answers["GetNode"] = [control.NodeView(node=each)]
    result = host.swarmnet("node", verb, "w1")
    assert (result.status, result.out) == (0, f"Node {'w' * 25} is already a {word}.\n")
    assert fake.requests["UpdateNode"] == []


def test_a_refused_change_of_roles_does_not_keep_the_others_from_theirs(host: Host) -> None:
    fake = host.manager()
    fake.answers["GetNode"] = [control.NodeView(node=types.Node(role=types.ROLE_MANAGER))]
    refusal = FailedPrecondition(
        "attempting to demote the last manager of the swarm", hint="Promote another."
    )
    fake.answers["UpdateNode"] = [control.NodeView(), refusal]
    result = host.swarmnet("node", "demote", "m2", "m1")
    assert (result.status, result.out) == (1, "Manager m2 demoted in the swarm.\n")
    assert result.err == "Error: attempting to demote the last manager of the swarm\nPromote another.\n"
