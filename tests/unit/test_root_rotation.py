"""The root certificate is replaced: only when every node has moved, whatever happens on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.unit import local_raft as local
from tests.unit.control_api import MadeUpManagers, make_api, make_swarm

from swarmnet.api.v1 import ca_pb2, control_pb2
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.certificates import is_anchored
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import State, Transaction
from swarmnet.core.timestamps import duration
from swarmnet.manager import root_rotation
from swarmnet.manager.bootstrap import BootstrapService, CertificateService, Issuer
from swarmnet.manager.ca.authority import Authority, new_key, private_pem, signing_request
from swarmnet.manager.ca.roots import checked_root, issuing, trusted_roots, wanted_root
from swarmnet.manager.ca.tokens import token_of
from swarmnet.manager.identity import Caller, CallerRole, set_caller
from swarmnet.manager.store import Store

NOW = datetime.now(UTC)
A, B, C = (Authority.create("cluster", NOW) for _ in range(3))
MANAGER, WORKER = types.ROLE_MANAGER, types.ROLE_WORKER
CONTEXT: Any = None


def swarm(*names: str) -> Store:
    """Workers of these names, whose certificates are of A."""
    made = Store()
    made.attach(local.LocalRaft(made))
    nodes = [local.node(name, number, certificate_root=A.digest) for number, name in enumerate(names, 1)]
    local.fill(made.state, *nodes)
    local.edit(made.state, types.Cluster, "cluster", _with_root_a)
    local.edit(made.state, store.ClusterSecrets, "cluster", _with_secrets)
    return made


def _with_secrets(secrets: store.ClusterSecrets) -> None:
    secrets.root_key_pem = A.key_pem.reveal()
    secrets.worker_token_secret, secrets.manager_token_secret = b"w" * 16, b"m" * 16


def _with_root_a(cluster: types.Cluster) -> None:
    cluster.root_certificate_pem, cluster.root_digest = A.root_pem.decode(), A.digest


def cluster(state: State) -> types.Cluster:
    found = state.cluster()
    assert found is not None
    return found


def held(state: State) -> store.ClusterSecrets:
    found = state.get(store.ClusterSecrets, "cluster")
    assert found is not None
    return found


def begin(made: Store, root: Authority) -> None:
    local.commit(made.state, lambda t: root_rotation.begin(t, root, NOW.timestamp()))


def run(made: Store) -> None:
    local.settle(made.state, root_rotation.plan)


def tell(made: Store, name: str, root: Authority) -> None:
    local.edit(
        made.state, types.Node, f"node-{name}", lambda each: setattr(each, "certificate_root", root.digest)
    )


def test_it_ends_when_every_node_has_moved_and_leaves_nothing_of_the_old_root() -> None:
    made = swarm("w1", "w2")
    tokens = [token_of(role, cluster(made.state), held(made.state)).text() for role in (MANAGER, WORKER)]
    begin(made, B)
    assert wanted_root(cluster(made.state)) == B.digest
    assert trusted_roots(cluster(made.state)) == B.root_pem + A.root_pem
    tell(made, "w1", B)
    run(made)
    assert cluster(made.state).root_digest == A.digest
    tell(made, "w2", B)
    run(made)
    assert trusted_roots(cluster(made.state)) == B.root_pem
    assert wanted_root(cluster(made.state)) == cluster(made.state).root_digest == B.digest
    assert held(made.state).root_key_pem == B.key_pem.reveal()
    assert not held(made.state).next_root_key_pem
    fresh = [token_of(role, cluster(made.state), held(made.state)).text() for role in (MANAGER, WORKER)]
    assert not {each.rpartition("-")[2] for each in tokens} & {each.rpartition("-")[2] for each in fresh}
    assert all(B.digest in each for each in fresh)


@pytest.mark.parametrize("state", [types.NODE_STATE_DOWN, types.NODE_STATE_UNKNOWN])
def test_a_node_that_is_away_is_waited_for_and_a_removed_one_is_not(state: types.NodeState.ValueType) -> None:
    made = swarm("w1", "w2")
    local.edit(made.state, types.Node, "node-w2", lambda each: setattr(each, "state", state))
    begin(made, B)
    tell(made, "w1", B)
    run(made)
    assert cluster(made.state).root_digest == A.digest
    local.remove(made.state, types.Node, "node-w2")
    run(made)
    assert cluster(made.state).root_digest == B.digest


def test_a_node_whose_role_is_changing_is_waited_for() -> None:
    """Its other daemon may have got its certificate before the rotation began."""
    made = swarm("w1")
    local.edit(made.state, types.Node, "node-w1", lambda each: setattr(each, "desired_role", MANAGER))
    begin(made, B)
    tell(made, "w1", B)
    run(made)
    assert cluster(made.state).root_digest == A.digest


def test_another_rotation_takes_the_place_of_one_in_progress() -> None:
    made = swarm("w1", "w2")
    begin(made, B)
    tell(made, "w1", B)
    begin(made, C)
    tell(made, "w2", C)
    run(made)
    assert cluster(made.state).root_digest == A.digest
    assert trusted_roots(cluster(made.state)) == C.root_pem + A.root_pem
    tell(made, "w1", C)
    run(made)
    assert cluster(made.state).root_digest == C.digest


def test_the_root_that_there_is_ends_a_rotation() -> None:
    made = swarm("w1")
    begin(made, B)
    begin(made, A)
    assert trusted_roots(cluster(made.state)) == A.root_pem
    assert not held(made.state).next_root_key_pem
    assert issuing(cluster(made.state), held(made.state)).authority.digest == A.digest


def test_a_node_that_joins_while_it_ends_is_not_left_behind() -> None:
    made = swarm("w1")
    begin(made, B)
    tell(made, "w1", B)
    deciding = Transaction(made.state)
    root_rotation.plan(deciding, 0)
    local.put(made.state, local.node("w2", 2, certificate_root=A.digest))
    command = deciding.command(made.now())
    assert command is not None
    made.apply(made.state.index + 1, command.SerializeToString())
    assert cluster(made.state).root_digest == A.digest


# What an operator brings along


def root_like(
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
    ca: bool = True,
    path_length: int | None = None,
    usage: bool | None = True,
    begins: timedelta = -timedelta(days=1),
    days: int = 5000,
    name: str = "my root",
) -> tuple[bytes, SecretBytes]:
    made = key or new_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(subject, subject, made.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
    )
    if usage is not None:
        others = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
        bits = dict.fromkeys([*others.split(), "crl_sign", "encipher_only", "decipher_only"], False)
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=usage, **bits), critical=True)
    certificate = builder.sign(signer or made, SHA256())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), SecretBytes(pem)


def test_a_root_that_an_operator_brings_along_is_taken_as_it_is() -> None:
    pem, key = root_like(usage=None)
    made = swarm("w1")
    begin(made, checked_root(b"a comment\n" + pem, key, NOW))
    assert issuing(cluster(made.state), held(made.state)).authority.root_pem == pem


GOOD = root_like()
BAD_ROOTS = {
    "no PEM": ((b"nonsense", GOOD[1]), "not a root certificate and its key"),
    "two of them": ((GOOD[0] * 2, GOOD[1]), "not a root certificate and its key"),
    "too long": ((GOOD[0] + b"#" * 70_000, GOOD[1]), "too long"),
    "no key": ((GOOD[0], SecretBytes(b"nonsense")), "not a root certificate and its key"),
    "another's key": ((GOOD[0], private_pem(new_key())), "not that of the certificate"),
    "not signed by itself": (root_like(signer=new_key()), "not a root certificate and its key"),
    "an RSA key": (root_like(key=rsa.generate_private_key(65537, 2048)), "not an ECDSA P-256 key"),
    "another curve": (
        root_like(key=ec.generate_private_key(ec.SECP384R1())),
        "not an ECDSA P-256 key",
    ),
    "no authority": (root_like(ca=False), "may not sign certificates"),
    "another usage": (root_like(usage=False), "may not sign certificates"),
    "no intermediate": (root_like(path_length=0), "allows no intermediate authority"),
    "not valid yet": (root_like(begins=timedelta(days=1)), "not valid yet"),
    "soon over": (root_like(days=364), "expires too soon"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_what_cannot_be_a_root_here_is_refused(case: str) -> None:
    (pem, key), says = BAD_ROOTS[case]
    with pytest.raises(InvalidArgument, match=says) as caught:
        checked_root(pem, key, NOW)
    assert "ECDSA P-256" in caught.value.hint


def test_a_root_that_cannot_vouch_for_another_name_says_how_to_go_on() -> None:
    pem, key = root_like(path_length=0)
    made = swarm("w1")

    def set_narrow_root(found: types.Cluster) -> None:
        found.root_certificate_pem, found.root_digest = pem.decode(), "narrow"

    local.edit(made.state, types.Cluster, "cluster", set_narrow_root)
    with pytest.raises(FailedPrecondition, match="no intermediate authority of another name") as caught:
        begin(made, B)
    assert "CN=my root" in caught.value.hint
    same_name, its_key = root_like()
    local.edit(
        made.state, store.ClusterSecrets, "cluster", lambda s: setattr(s, "root_key_pem", key.reveal())
    )
    begin(made, checked_root(same_name, its_key, NOW))
    assert cluster(made.state).HasField("root_rotation")


# The API


def api_of(made: Store) -> Any:
    return make_api(made, MadeUpManagers())


async def test_asked_again_with_the_same_request_id_it_is_one_rotation() -> None:
    made = swarm("w1")
    request = control_pb2.RotateRootCertificateRequest(request_id="once")
    first = await api_of(made).RotateRootCertificate(request, CONTEXT)
    again = await api_of(made).RotateRootCertificate(request, CONTEXT)
    assert first.cluster.root_rotation.root_digest == again.cluster.root_rotation.root_digest != ""


async def test_the_lifetime_is_set_with_it() -> None:
    made = swarm("w1")
    request = control_pb2.RotateRootCertificateRequest(certificate_lifetime=duration(3600))
    await api_of(made).RotateRootCertificate(request, CONTEXT)
    assert issuing(cluster(made.state), held(made.state)).lifetime_s == 3600


@pytest.mark.parametrize(
    "fields",
    [
        {"root_certificate_pem": GOOD[0].decode()},
        {"root_key_pem": "key"},
        {"certificate_lifetime": duration(3599)},
        {"certificate_lifetime": duration(11 * 365 * 86400)},
    ],
)
async def test_what_makes_no_sense_changes_nothing(fields: dict[str, Any]) -> None:
    made = swarm("w1")
    before = made.state.index
    with pytest.raises(InvalidArgument):
        await api_of(made).RotateRootCertificate(control_pb2.RotateRootCertificateRequest(**fields), CONTEXT)
    assert made.state.index == before


async def test_certificates_last_as_long_as_set_but_those_of_clients() -> None:
    made = swarm("w1")
    request = control_pb2.UpdateClusterRequest(certificate_lifetime=duration(7200))
    await api_of(made).UpdateCluster(request, CONTEXT)
    issuer = Issuer(made, list)
    for role, lifetime in ((CallerRole.WORKER, timedelta(hours=2)), (CallerRole.CLIENT, timedelta(days=90))):
        answer = issuer.answer(signing_request(new_key()).decode(), "n" * 25, role)
        end = x509.load_pem_x509_certificate(answer.certificate_pem.encode()).not_valid_after_utc
        assert abs(end - datetime.now(UTC) - lifetime) < timedelta(minutes=1)


async def test_no_setting_at_all_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no setting to change"):
        await api_of(make_swarm()).UpdateCluster(control_pb2.UpdateClusterRequest(), CONTEXT)


# What nodes tell


def reporter(made: Store, node_id: str, role: CallerRole = CallerRole.WORKER) -> CertificateService:
    set_caller(Caller(node_id, role))
    return CertificateService(made, Issuer(made, list))


def report_of(made: Store, node_id: str) -> ca_pb2.ReportCertificateRequest:
    answer = Issuer(made, list).answer(signing_request(new_key()).decode(), node_id, CallerRole.WORKER)
    return ca_pb2.ReportCertificateRequest(
        certificate_pem=answer.certificate_pem, root_certificate_pem=answer.root_certificate_pem
    )


async def test_what_a_node_uses_is_written_down_and_it_hears_what_to_trust() -> None:
    made = swarm("w1")
    before = report_of(made, "node-w1")
    begin(made, B)
    answer = await reporter(made, "node-w1").ReportCertificate(before, CONTEXT)
    assert answer.root_certificate_pem.encode() == B.root_pem + A.root_pem
    await reporter(made, "node-w1").ReportCertificate(report_of(made, "node-w1"), CONTEXT)
    node = made.state.get(types.Node, "node-w1")
    assert node is not None
    assert (node.certificate_root, list(node.trusted_roots)) == (B.digest, [B.digest, A.digest])
    lifetime = node.certificate_expires_at.ToDatetime(UTC) - datetime.now(UTC)
    assert abs(lifetime - timedelta(days=90)) < timedelta(minutes=5)
    index = made.state.index
    await reporter(made, "node-w1").ReportCertificate(report_of(made, "node-w1"), CONTEXT)
    assert made.state.index <= index + 1


async def test_a_certificate_of_a_root_that_counts_no_more_counts_as_none() -> None:
    made = swarm("w1")
    begin(made, B)
    of_b = report_of(made, "node-w1")
    begin(made, C)
    await reporter(made, "node-w1").ReportCertificate(of_b, CONTEXT)
    node = made.state.get(types.Node, "node-w1")
    assert node is not None
    assert node.certificate_root == ""


@pytest.mark.parametrize(
    ("certificate", "roots"),
    [
        ("", ""),
        ("nonsense", A.root_pem.decode()),
        (A.root_pem.decode(), A.root_pem.decode()),
        ("another", ""),
    ],
)
async def test_a_report_that_is_none_changes_nothing(certificate: str, roots: str) -> None:
    made = swarm("w1")
    request = ca_pb2.ReportCertificateRequest(certificate_pem=certificate, root_certificate_pem=roots)
    if certificate == "another":
        request = report_of(made, "node-w2")
    before = made.state.index
    with pytest.raises(InvalidArgument):
        await reporter(made, "node-w1").ReportCertificate(request, CONTEXT)
    assert made.state.index == before


async def test_a_demoted_managers_certificate_is_not_its_workers() -> None:
    made = swarm("w1")
    begin(made, B)
    await reporter(made, "node-w1", CallerRole.MANAGER).ReportCertificate(report_of(made, "node-w1"), CONTEXT)
    node = made.state.get(types.Node, "node-w1")
    assert node is not None
    assert node.certificate_root == A.digest


async def test_a_node_that_joins_has_moved_with_its_first_certificate() -> None:
    made = swarm("w1")
    begin(made, B)
    service = BootstrapService(made, Issuer(made, list), lambda: A.root_pem)
    token = token_of(WORKER, cluster(made.state), held(made.state))
    request = ca_pb2.IssueCertificateRequest(
        token=token.text(), csr_pem=signing_request(new_key()).decode(), hostname="w2"
    )
    answer = await service.IssueCertificate(request, CONTEXT)
    assert is_anchored(answer.certificate_pem.encode(), A.root_pem)
    tell(made, "w1", B)
    run(made)
    assert cluster(made.state).root_digest == B.digest
