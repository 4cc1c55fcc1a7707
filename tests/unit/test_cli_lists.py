"""What the list and inspect commands print, to the letter."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_swarm import FakeSwarm, Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import NotFound

NET_A, NET_B = "alpha" + "a" * 20, "beta0" + "b" * 20
M1, M2, W1 = "m1" + "0" * 23, "m2" + "0" * 23, "w1" + "0" * 23
WEB, LOGS = "web00" + "s" * 20, "logs0" + "s" * 20


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def _meta(id_: str, age_s: float = 7200) -> types.Meta:
    meta = types.Meta(id=id_, version=7)
    meta.created_at.FromSeconds(int(time.time() - age_s))
    return meta


NETWORKS = control.ListNetworksResponse(
    networks=[
        types.Network(
            meta=types.Meta(id=NET_B), name="my-multi-host-network", driver="overlay", scope="swarm",
            encrypted=True, subnets=[types.Subnet(cidr="10.0.1.0/24", gateway="10.0.1.1")], vni=4097,
            labels={"team": "blue", "tier": "web"},
        ),
        types.Network(meta=types.Meta(id=NET_A), name="backend", driver="overlay", scope="swarm", vni=4096),
    ]
)  # fmt: skip


def _node(id_: str, name: str, manager_status: str = "", **fields: object) -> control.NodeView:
    role = types.ROLE_MANAGER if manager_status else types.ROLE_WORKER
    fields = {"state": types.NODE_STATE_READY, **fields}
    node = types.Node(meta=types.Meta(id=id_), hostname=name, role=role, **fields)  # type: ignore[arg-type]
    return control.NodeView(node=node, manager_status=manager_status, self=name == "m2")


NODES = control.ListNodesResponse(
    nodes=[
        _node(W1, "w1", state=types.NODE_STATE_DOWN, availability=types.AVAILABILITY_DRAIN,
              labels={"zone": "a"}),
        _node(M2, "m2", "Reachable"),
        _node(M1, "m1", "Leader"),
    ]
)  # fmt: skip


def _service(id_: str, name: str, running: int, desired: int, **fields: object) -> control.ServiceView:
    spec = types.ServiceSpec(name=name, image="my-image", **fields)  # type: ignore[arg-type]
    service = types.Service(meta=types.Meta(id=id_), spec=spec)
    return control.ServiceView(service=service, running=running, desired=desired)


SERVICES = control.ListServicesResponse(
    services=[
        _service(WEB, "web", 2, 3, replicas=3, labels={"tier": "web"}),
        _service(LOGS, "logs", 1, 1, mode=types.SERVICE_MODE_GLOBAL),
    ]
)


def _task(
    id_: str, slot: int, state: types.TaskState.ValueType, age_s: float = 7200, **fields: object
) -> types.Task:
    fields = {"desired_state": types.TASK_STATE_RUNNING, "node_id": W1, **fields}
    spec = types.ServiceSpec(name="web", image="my-image")
    task = types.Task(
        meta=_meta(id_, age_s),
        service_id=WEB,
        slot=slot,
        spec=spec,
        state=state,
        **fields,  # type: ignore[arg-type]
    )
    task.state_at.FromSeconds(int(time.time() - age_s))
    return task


def _tasks() -> control.ListTasksResponse:
    message = "no node has the image my-image among those it can start"
    return control.ListTasksResponse(
        tasks=[
            _task("t2new" + "0" * 20, 2, types.TASK_STATE_PENDING, 200, node_id="", message=message),
            _task("t1old" + "0" * 20, 1, types.TASK_STATE_FAILED, 86400 * 3,
                  desired_state=types.TASK_STATE_SHUTDOWN, message="exit status 1"),
            _task("t1new" + "0" * 20, 1, types.TASK_STATE_RUNNING),
        ]
    )  # fmt: skip


def test_networks(host: Host) -> None:
    host.manager().answers["ListNetworks"] = [NETWORKS]
    assert host.swarmnet("network", "ls").out == (
        "NETWORK ID     NAME                    DRIVER    SCOPE\n"
        "alphaaaaaaaa   backend                 overlay   swarm\n"
        "beta0bbbbbbb   my-multi-host-network   overlay   swarm\n"
    )


def test_nodes_with_an_asterisk_at_the_one_that_answered(host: Host) -> None:
    host.manager().answers["ListNodes"] = [NODES]
    assert host.swarmnet("node", "ls").out == (
        "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS\n"
        "m100000000000000000000000     m1         Ready     Active         Leader\n"
        "m200000000000000000000000 *   m2         Ready     Active         Reachable\n"
        "w100000000000000000000000     w1         Down      Drain\n"
    )


def test_services(host: Host) -> None:
    host.manager().answers["ListServices"] = [SERVICES]
    assert host.swarmnet("service", "ls").out == (
        "ID             NAME      MODE         REPLICAS   IMAGE      PORTS\n"
        "logs0sssssss   logs      global       1/1        my-image\n"
        "web00sssssss   web       replicated   2/3        my-image\n"
    )


def _host_with_tasks(host: Host) -> FakeSwarm:
    fake = host.manager()
    fake.answers["GetService"] = [SERVICES.services[0]]
    fake.answers["ListTasks"] = [_tasks()]
    fake.answers["ListNodes"] = [NODES]
    return fake


def test_tasks_with_their_history(host: Host) -> None:
    _host_with_tasks(host)
    assert host.swarmnet("service", "ps", "web").out == (
        "ID             NAME        IMAGE      NODE      DESIRED STATE   CURRENT STATE           "
        "ERROR                              PORTS\n"
        "t1new0000000   web.1       my-image   w1        Running         Running 2 hours ago\n"
        "t1old0000000    \\_ web.1   my-image   w1        Shutdown        Failed 3 days ago       "
        '"exit status 1"\n'
        "t2new0000000   web.2       my-image             Running         Pending 3 minutes ago   "
        '"no node has the image my-imag…"\n'
    )


def test_tasks_in_full(host: Host) -> None:
    _host_with_tasks(host)
    out = host.swarmnet("service", "ps", "web", "--no-trunc", "--format", "{{.ID}} {{.Error}}").out
    assert out.splitlines()[2] == (
        't2new00000000000000000000 "no node has the image my-image among those it can start"'
    )


def test_tasks_of_one_service_that_is_there_and_one_that_is_not(host: Host) -> None:
    fake = _host_with_tasks(host)
    fake.answers["GetService"].insert(0, NotFound("no such service: db", hint="List them."))
    result = host.swarmnet("service", "ps", "-q", "db", "web")
    assert result.out.split() == ["t1new0000000", "t1old0000000", "t2new0000000"]
    assert (result.status, result.err) == (1, "Error: no such service: db\nList them.\n")


def test_keys(host: Host) -> None:
    gossip = types.KeyScope(meta=types.Meta(id="gossip"), phase=types.ROTATION_PHASE_STABLE)
    gossip.epochs.add(number=1, role=types.EPOCH_ROLE_CURRENT)
    gossip.due_at.FromSeconds(int(time.time() + 11 * 3600))
    network = types.KeyScope(
        meta=types.Meta(id=NET_A), phase=types.ROTATION_PHASE_PREPARE, reason="requested"
    )
    network.epochs.add(number=3, role=types.EPOCH_ROLE_CURRENT)
    network.epochs.add(number=4, role=types.EPOCH_ROLE_NEXT)
    host.manager().answers["ListKeys"] = [
        control.ListKeysResponse(
            keys=[
                control.KeyView(scope=network, name="backend", entitled=[W1], waiting_for=[W1]),
                control.KeyView(scope=gossip, name="gossip", entitled=[W1, M1]),
            ]
        )
    ]
    assert host.swarmnet("key", "ls").out == (
        "SCOPE          NAME      EPOCH     PHASE     NODES     WAITING FOR    NEXT ROTATION\n"
        "gossip         gossip    1         stable    2                        in 11 hours\n"
        "alphaaaaaaaa   backend   3         prepare   1         w10000000000\n"
    )


def test_an_empty_list_is_its_heading(host: Host) -> None:
    host.manager().answers["ListNetworks"] = [control.ListNetworksResponse()]
    assert host.swarmnet("network", "ls").out == "NETWORK ID   NAME      DRIVER    SCOPE\n"
    assert host.swarmnet("network", "ls", "-q").out == ""
    assert host.swarmnet("network", "ls", "--format", "json").out == ""


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("-q", "alphaaaaaaaa\nbeta0bbbbbbb\n"),
        ("-q --no-trunc", f"{NET_A}\n{NET_B}\n"),
        ("--format {{.Name}}:{{.Encrypted}}", "backend:false\nmy-multi-host-network:true\n"),
        ("--format {{json.Name}}", None),
        ("--format {{.Name", None),
        ("--format {{.Nmae}}", None),
        ("--filter name=multi -q", "beta0bbbbbbb\n"),
        ("--filter id=alpha -q", "alphaaaaaaaa\n"),
        ("--filter label=team -q", "beta0bbbbbbb\n"),
        ("--filter label=team=blue --filter driver=overlay -q", "beta0bbbbbbb\n"),
        ("--filter label=team=red -q", ""),
        ("--filter name=back --filter name=multi -q", "alphaaaaaaaa\nbeta0bbbbbbb\n"),
        ("--filter colour=blue", None),
        ("--filter name", None),
    ],
)
def test_options_of_lists(host: Host, options: str, out: str | None) -> None:
    host.manager().answers["ListNetworks"] = [NETWORKS]
    result = host.swarmnet("network", "ls", *options.split())
    if out is None:
        assert (result.status, result.out) == (1, "")
        assert result.err.startswith("Error: invalid")
        assert len(result.err.splitlines()) == 2  # what is wrong, and what to write instead
    else:
        assert (result.status, result.out, result.err) == (0, out, "")


def test_a_table_of_chosen_fields(host: Host) -> None:
    host.manager().answers["ListNetworks"] = [NETWORKS]
    assert host.swarmnet("network", "ls", "--format", r"table {{.Name}}\t{{.VNI}}\t{{.Subnets}}").out == (
        "NAME                    VNI       SUBNETS\n"
        "backend                 4096\n"
        "my-multi-host-network   4097      10.0.1.0/24\n"
    )


def test_json_is_one_object_a_line(host: Host) -> None:
    host.manager().answers["ListNodes"] = [NODES]
    lines = host.swarmnet("node", "ls", "--format", "json").out.splitlines()
    assert [json.loads(line)["Hostname"] for line in lines] == ["m1", "m2", "w1"]
    assert json.loads(lines[1])["Self"] == "true"


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["role=manager"], ["m1", "m2"]),
        (["label=zone=a"], ["w1"]),
        (["name=1"], ["m1", "w1"]),
        ([f"id={M2[:4]}"], ["m2"]),
    ],
)
def test_filters_of_nodes(host: Host, filters: list[str], names: list[str]) -> None:
    host.manager().answers["ListNodes"] = [NODES]
    options = [part for text in filters for part in ("--filter", text)]
    assert host.swarmnet("node", "ls", "--format", "{{.Hostname}}", *options).out.split() == names


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("desired-state=running", ["t1new", "t2new"]),
        ("name=web.1", ["t1new", "t1old"]),
        ("node=w1", ["t1new", "t1old"]),
        ("id=t2", ["t2new"]),
    ],
)
def test_filters_of_tasks(host: Host, text: str, ids: list[str]) -> None:
    _host_with_tasks(host)
    out = host.swarmnet("service", "ps", "web", "-q", "--filter", text).out
    assert [line[:5] for line in out.splitlines()] == ids


@pytest.mark.parametrize(
    ("text", "name"),
    [("mode=global", "logs"), ("label=tier", "web"), ("name=we", "web"), ("id=logs", "logs")],
)
def test_filters_of_services(host: Host, text: str, name: str) -> None:
    host.manager().answers["ListServices"] = [SERVICES]
    assert host.swarmnet("service", "ls", "--format", "{{.Name}}", "--filter", text).out == f"{name}\n"


def test_inspect_is_a_json_array(host: Host) -> None:
    host.manager().answers["GetNetwork"] = [NETWORKS.networks[0]]
    (shown,) = json.loads(host.swarmnet("network", "inspect", "my-multi-host-network").out)
    assert shown["Name"] == "my-multi-host-network"
    assert shown["IPAM"] == {"Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]}


def test_inspect_by_a_template(host: Host) -> None:
    host.manager().answers["GetNetwork"] = [NETWORKS.networks[0]]
    wanted = "{{upper .Name}} {{range .IPAM.Config}}{{.Subnet}}{{end}} {{json .Labels}}"
    result = host.swarmnet("network", "inspect", "--format", wanted, "my-multi-host-network")
    assert result.out == 'MY-MULTI-HOST-NETWORK 10.0.1.0/24 {"team": "blue", "tier": "web"}\n'


def test_inspect_tells_what_it_did_not_find_and_shows_the_rest(host: Host) -> None:
    absent = NotFound("network nope not found", hint="`swarmnet network ls` lists what there is.")
    host.manager().answers["GetNetwork"] = [absent, NETWORKS.networks[1]]
    result = host.swarmnet("network", "inspect", "nope", "backend")
    assert [each["Name"] for each in json.loads(result.out)] == ["backend"]
    assert result.err == "Error: network nope not found\n`swarmnet network ls` lists what there is.\n"
    assert result.status == 1


def test_inspect_of_nothing_found_is_an_empty_array(host: Host) -> None:
    host.manager().answers["GetService"] = [NotFound("no such service: nope")]
    result = host.swarmnet("service", "inspect", "nope")
    assert (result.status, result.out, result.err) == (1, "[]\n", "Error: no such service: nope\n")


def test_inspect_of_a_node_and_of_self(host: Host) -> None:
    fake = host.manager()
    fake.answers["GetNode"] = [NODES.nodes[0]]
    fake.answers["ListNodes"] = [NODES]
    (worker,) = json.loads(host.swarmnet("node", "inspect", "w1").out)
    assert worker["Spec"] == {"Labels": {"zone": "a"}, "Role": "worker", "Availability": "drain"}
    assert "ManagerStatus" not in worker
    (own,) = json.loads(host.swarmnet("node", "inspect", "self").out)
    assert own["ID"] == M2
    assert own["ManagerStatus"]["Leader"] is False


def test_inspect_for_people(host: Host) -> None:
    fake = host.manager()
    fake.answers["GetNode"] = [NODES.nodes[0]]
    fake.answers["GetService"] = [SERVICES.services[0]]
    assert host.swarmnet("node", "inspect", "--pretty", "w1").out.startswith(
        "ID:                  w100000000000000000000000\n"
        "Hostname:            w1\n"
        "Role:                Worker\n"
    )
    assert "Replicas:            2/3\n" in host.swarmnet("service", "inspect", "--pretty", "web").out


def test_inspect_of_a_service_has_dockers_shape(host: Host) -> None:
    host.manager().answers["GetService"] = [SERVICES.services[0]]
    out = host.swarmnet(
        "service", "inspect", "-f", "{{.Spec.Mode.Replicated.Replicas}} {{.Spec.Name}}", "web"
    ).out
    assert out == "3 web\n"
