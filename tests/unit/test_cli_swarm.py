"""`swarmnet swarm` and `run`: this host's daemons, by their sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fake_swarm import FakeSwarm, Host, make_host

from swarmnet.api.v1 import ca_pb2, local_pb2
from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, SwarmScoped

TOKEN = f"SWMTKN-1-{'d' * 50}-{'s' * 25}"
REFUSAL = SwarmScoped(
    "swarm-scoped network (net) is not compatible with `swarmnet create` or `swarmnet run`. "
    "This network can only be used by a swarm service.",
    hint="swarmnet service create --name NAME --network net my-image",
)


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def _joinable(fake: FakeSwarm) -> FakeSwarm:
    fake.answers["Join"] = [local_pb2.JoinResponse(node_id="n" * 25)]
    fake.answers["Leave"] = [local_pb2.LeaveResponse()]
    return fake


def test_init_says_how_the_others_join(host: Host) -> None:
    fake = host.manager()
    fake.answers["Init"] = [
        local_pb2.InitResponse(node_id="m" * 25, worker_token=TOKEN, address="10.0.0.1:2378")
    ]
    line = "swarm init --key-rotation-period 6h --key-rotation-deadline 90s --default-addr-pool 10.20.0.0/16"
    assert host.swarmnet(*line.split(), "--default-addr-pool-mask-length", "26").out == (
        f"Swarm initialized: current node ({'m' * 25}) is now a manager.\n"
        "\n"
        "To add a worker to this swarm, run the following command:\n"
        "\n"
        f"    swarmnet swarm join --token {TOKEN} 10.0.0.1:2378\n"
        "\n"
        "To add a manager to this swarm, run 'swarmnet swarm join-token manager' and follow "
        "the instructions.\n"
    )
    (request,) = fake.requests["Init"]
    assert request.key_rotation_period.seconds == 6 * 3600
    assert request.key_rotation_deadline.seconds == 90
    assert (request.address_pools, request.subnet_prefix_length) == (["10.20.0.0/16"], 26)


def test_a_second_init_is_refused(host: Host) -> None:
    error = FailedPrecondition("This node is already part of a swarm.", hint="Leave it first.")
    host.manager().answers["Init"] = [error]
    result = host.swarmnet("swarm", "init")
    assert (result.status, result.err) == (
        1,
        "Error: This node is already part of a swarm.\nLeave it first.\n",
    )


@pytest.mark.parametrize("how", ["--token TOKEN", "--token-file FILE", "--token -", "--token-file -"])
def test_join_takes_the_token_in_many_ways(host: Host, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    fake = _joinable(host.worker())
    file = host.run_dir / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setattr("sys.stdin", StringIO(f"{TOKEN}\n"))
    arguments = how.replace("TOKEN", TOKEN).replace("FILE", str(file)).split()
    result = host.swarmnet("swarm", "join", *arguments, "10.0.0.1:2378", "10.0.0.2")
    assert (result.status, result.out) == (0, "This node joined a swarm as a worker.\n")
    wanted = local_pb2.JoinRequest(token=TOKEN, addresses=["10.0.0.1:2378", "10.0.0.2"])
    assert fake.requests["Join"] == [wanted]


def test_a_manager_joins_as_a_manager(host: Host) -> None:
    _joinable(host.manager())
    out = host.swarmnet("swarm", "join", "--token", TOKEN, "m1").out
    assert out == "This node joined a swarm as a manager.\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("swarm join m1", "Error: a join token is needed, once"),
        (f"swarm join --token {TOKEN} --token-file x m1", "Error: a join token is needed, once"),
        ("swarm join --token-file /nowhere m1", "Error: cannot read the token file /nowhere: No such file"),
        (f"swarm join --token {TOKEN}", "Error: Missing argument"),
    ],
)
def test_a_join_that_cannot_be_meant(host: Host, line: str, says: str) -> None:
    fake = _joinable(host.worker())
    result = host.swarmnet(*line.split())
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(says)
    assert TOKEN not in result.err
    assert fake.requests == {}


@pytest.mark.parametrize("verb", ["join --token x m1", "leave"])
def test_on_a_host_with_both_daemons_one_must_be_named(host: Host, verb: str) -> None:
    manager, worker = _joinable(host.manager()), _joinable(host.worker())
    result = host.swarmnet("swarm", *verb.split())
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("Say which one is meant: --manager or --worker.\n")
    assert host.swarmnet("swarm", *verb.split(), "--worker").status == 0
    assert (len(manager.requests), len(worker.requests)) == (0, 1)
    assert host.swarmnet("swarm", *verb.split(), "--manager").status == 0
    assert (len(manager.requests), len(worker.requests)) == (1, 1)


def test_the_socket_of_a_dead_daemon_does_not_count(host: Host) -> None:
    _joinable(host.manager())
    host.stop()
    (host.run_dir / "manager.sock").touch()
    _joinable(host.worker())
    assert host.swarmnet("swarm", "leave", "--force").out == "Node left the swarm.\n"


def test_a_host_without_daemons(host: Host) -> None:
    result = host.swarmnet("swarm", "leave")
    assert result.status == 1
    assert result.err.startswith(
        f"Error: Cannot connect to a swarmnet daemon in {host.run_dir}. Is swarmnet-"
    )
    assert "Is swarmnet-manager running?" in host.swarmnet("swarm", "init").err


def _with_tokens(host: Host) -> FakeSwarm:
    fake = host.manager()
    tokens = control.GetJoinTokensResponse(
        worker=TOKEN, manager=f"{TOKEN[:-1]}m", manager_address="10.0.0.1:2378"
    )
    fake.answers["GetJoinTokens"] = [tokens]
    fake.answers["RotateJoinToken"] = [tokens]
    return fake


def test_join_token(host: Host) -> None:
    _with_tokens(host)
    assert host.swarmnet("swarm", "join-token", "-q", "worker").out == f"{TOKEN}\n"
    assert host.swarmnet("swarm", "join-token", "manager").out == (
        "To add a manager to this swarm, run the following command:\n"
        "\n"
        f"    swarmnet swarm join --token {TOKEN[:-1]}m 10.0.0.1:2378\n"
        "\n"
    )


def test_join_token_rotate(host: Host) -> None:
    fake = _with_tokens(host)
    out = host.swarmnet("swarm", "join-token", "--rotate", "worker").out
    assert out.startswith("Successfully rotated worker join token.\n\nTo add a worker")
    assert fake.requests["RotateJoinToken"] == [control.RotateJoinTokenRequest(role=types.ROLE_WORKER)]


def test_credentials_are_three_files_for_their_owner_only(host: Host, tmp_path: Path) -> None:
    fake = host.manager()
    fake.answers["IssueClientCertificate"] = [
        ca_pb2.IssueCertificateResponse(
            certificate_pem="CERT", root_certificate_pem="ROOT", manager_addresses=["m1:2377", "m2:2377"]
        )
    ]
    folder = tmp_path / "new" / "credentials"
    out = host.swarmnet("swarm", "credentials", str(folder)).out
    assert out.splitlines()[:2] == [
        "export SWARMNET_HOST=m1:2377,m2:2377",
        f"export SWARMNET_CACERT={folder}/ca.pem",
    ]
    assert (folder / "cert.pem").read_text() == "CERT"
    assert "PRIVATE KEY" in (folder / "key.pem").read_text()
    assert {stat.S_IMODE(os.stat(folder / name).st_mode) for name in os.listdir(folder)} == {0o600}
    assert fake.requests["IssueClientCertificate"][0].csr_pem.startswith("-----BEGIN CERTIFICATE REQUEST")


def test_run_is_refused_by_the_managers(host: Host) -> None:
    fake = host.manager()
    fake.answers["AttachNetwork"] = [REFUSAL]
    result = host.swarmnet("run", "--network", "net", "my-image", "sleep", "--help")
    assert (result.status, result.out, result.err) == (1, "", f"Error: {REFUSAL}\n")
    wanted = control.AttachNetworkRequest(ref="net", image="my-image", command=["sleep", "--help"])
    assert fake.requests["AttachNetwork"] == [wanted]


def test_run_is_refused_by_a_worker(host: Host) -> None:
    host.worker().answers["Attach"] = [REFUSAL]
    result = host.swarmnet("run", "--network", "net", "my-image")
    assert (result.status, result.out, result.err) == (1, "", f"Error: {REFUSAL}\n")


def test_run_never_succeeds(host: Host) -> None:
    host.manager().answers["AttachNetwork"] = [control.RemoveResponse()]
    assert host.swarmnet("run", "--network", "net", "my-image").status == 1


def _info(**fields: Any) -> local_pb2.LocalInfo:
    return local_pb2.LocalInfo(version="1.2.3", role=types.ROLE_WORKER, **fields)


def test_info_tells_what_this_host_is(host: Host) -> None:
    refused = {"dropped_replayed": 1, "dropped_forged": 3}
    found = _info(state="active", node_id="n" * 25, cluster_id="c" * 25, running_tasks=2, refused=refused)
    host.worker().answers["GetInfo"] = [found]
    assert [" ".join(line.split()) for line in host.swarmnet("info").out.splitlines()] == [
        "Version: 1.2.3",
        "Role: worker",
        "Swarm: active",
        f"NodeID: {'n' * 25}",
        f"ClusterID: {'c' * 25}",
        "Manager: none",
        "Running tasks: 2",
        "Refused:",
        "dropped_forged: 3",
        "dropped_replayed: 1",
    ]


@pytest.mark.parametrize(("state", "status"), [("inactive", 0), ("active", 0), ("error", 1)])
def test_a_health_check_reads_the_exit_status(host: Host, state: str, status: int) -> None:
    host.worker().answers["GetInfo"] = [_info(state=state, error="disk full" if status else "")]
    result = host.swarmnet("info", "--quiet")
    assert (result.status, result.out) == (status, "")
    assert ("disk full" in result.err) is bool(status)


def test_ca_prints_the_root_and_tells_what_goes_on(host: Host) -> None:
    fake = host.manager()
    cluster = types.Cluster(root_certificate_pem="ROOT\n", root_digest="old")
    fake.answers["GetCluster"] = [control.GetClusterResponse(cluster=cluster)]
    result = host.swarmnet("swarm", "ca")
    assert (result.status, result.out, result.err) == (0, "ROOT\n", "")
    cluster.root_rotation.root_digest = "new"
    fake.answers["GetCluster"] = [control.GetClusterResponse(cluster=cluster)]
    down = types.NODE_STATE_DOWN
    fake.answers["ListNodes"] = [_nodes(m1=("new", ["new", "old"]), w1=("old", ["old"]), w2=("", [], down))]
    result = host.swarmnet("swarm", "ca")
    assert (result.status, result.out) == (0, "ROOT\n")
    assert result.err.splitlines() == [
        "The root certificate is being replaced.",
        "desired root digest: new",
        "  rotated TLS certificates: 1/3 nodes",
        "  rotated CA certificates: 0/3 nodes",
        "  waiting for: w1, w2 (down)",
    ]


def _nodes(**nodes: Any) -> control.ListNodesResponse:
    views = [control.NodeView(node=_node(name, *told)) for name, told in nodes.items()]
    return control.ListNodesResponse(nodes=views)


def _node(
    name: str, root: str, trusted: list[str], state: types.NodeState.ValueType = types.NODE_STATE_READY
) -> types.Node:
    node = types.Node(hostname=name, certificate_root=root, trusted_roots=trusted, state=state)
    node.meta.id = f"id-{name}"
    return node


def test_ca_rotate_follows_every_node_and_prints_the_new_root(host: Host, tmp_path: Path) -> None:
    fake = host.manager()
    rotating = types.Cluster(root_certificate_pem="OLD\n", root_digest="old")
    rotating.root_rotation.root_digest = "new"
    ended = types.Cluster(meta=types.Meta(version=9), root_certificate_pem="NEW\n", root_digest="new")
    fake.answers["RotateRootCertificate"] = [control.GetClusterResponse(cluster=rotating)]
    fake.answers["GetCluster"] = [control.GetClusterResponse(cluster=each) for each in (rotating, ended)]
    fake.answers["ListNodes"] = [_nodes(m1=("old", ["old"]))]
    updated = control.WatchEvent.UPDATED
    for node in (_node("m1", "new", ["new", "old"]), _node("m1", "new", ["new"])):
        fake.events.put(control.WatchEvent(action=updated, node=node))
        if len(node.trusted_roots) == 2:
            fake.events.put(control.WatchEvent(action=updated, cluster=ended))
    for name in ("cert", "key"):
        (tmp_path / name).write_text(name.upper())
    line = f"swarm ca --rotate --ca-cert {tmp_path}/cert --ca-key {tmp_path}/key --cert-expiry 2h"
    result = host.swarmnet(*line.split())
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "desired root digest: new",
        "  rotated TLS certificates: 0/1 nodes",
        "  rotated CA certificates: 0/1 nodes",
        "  waiting for: m1",
        "  rotated TLS certificates: 1/1 nodes",
        "  rotated CA certificates: 1/1 nodes",
        "NEW",
    ]
    (request,) = fake.requests["RotateRootCertificate"]
    assert (request.root_certificate_pem, request.root_key_pem) == ("CERT", "KEY")
    assert request.certificate_lifetime.seconds == 7200
    assert request.request_id


def test_a_rotation_whose_place_another_one_took_is_no_success(host: Host) -> None:
    fake = host.manager()
    rotating, other = (types.Cluster(root_digest="old") for _ in range(2))
    rotating.root_rotation.root_digest, other.root_rotation.root_digest = "new", "newer"
    fake.answers["RotateRootCertificate"] = [control.GetClusterResponse(cluster=rotating)]
    fake.answers["GetCluster"] = [control.GetClusterResponse(cluster=other)]
    fake.answers["ListNodes"] = [_nodes(m1=("old", ["old"]))]
    result = host.swarmnet("swarm", "ca", "--rotate", "-q")
    assert (result.status, result.out) == (1, "")
    assert "another rotation of the root certificate took the place of this one" in result.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--cert-expiry 2h", "--cert-expiry requires --rotate"),
        ("--ca-cert x", "--ca-cert requires --rotate"),
        ("-d", "--detach requires --rotate"),
        ("--rotate --ca-cert /nowhere --ca-key /nowhere", "cannot read /nowhere: No such file"),
        ("--rotate --cert-expiry soon", "invalid duration 'soon' for --cert-expiry"),
    ],
)
def test_what_ca_cannot_do_is_said(host: Host, line: str, says: str) -> None:
    host.manager()
    result = host.swarmnet("swarm", "ca", *line.split())
    assert (result.status, result.out) == (1, "")
    assert says in result.err


def test_cert_expiry_is_set_at_init_and_by_update(host: Host) -> None:
    fake = host.manager()
    fake.answers["Init"] = [local_pb2.InitResponse(worker_token=TOKEN)]
    fake.answers["UpdateCluster"] = [control.GetClusterResponse()]
    assert host.swarmnet("swarm", "init", "--cert-expiry", "48h").status == 0
    assert host.swarmnet("swarm", "update", "--cert-expiry", "1h").out == "Swarm updated.\n"
    assert fake.requests["Init"][0].certificate_lifetime.seconds == 48 * 3600
    (update,) = fake.requests["UpdateCluster"]
    assert update.certificate_lifetime.seconds == 3600
    assert not update.HasField("key_rotation_period")
