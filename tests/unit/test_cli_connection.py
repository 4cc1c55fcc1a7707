"""How the command line reaches a manager, changes to another, and tells why it could not."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.fake_swarm import FakeSwarm, Host, make_host

from swarmnet.api.v1 import ca_pb2
from swarmnet.api.v1 import control_pb2 as control
from swarmnet.cli.connection import NOT_A_MANAGER, Endpoint, credentials_in, parse_endpoints
from swarmnet.core.errors import InvalidArgument, Unavailable

DAY = timedelta(days=1)


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("unix:///run/m.sock", [Endpoint(path="/run/m.sock")]),
        ("m1", [Endpoint(host="m1", port=2377)]),
        ("m1:99, m2", [Endpoint(host="m1", port=99), Endpoint(host="m2", port=2377)]),
        ("tcp://10.0.0.1:2377", [Endpoint(host="10.0.0.1", port=2377)]),
        ("[fd00::1]", [Endpoint(host="fd00::1", port=2377)]),
        ("[fd00::1]:99", [Endpoint(host="fd00::1", port=99)]),
    ],
)
def test_hosts(text: str, endpoints: list[Endpoint]) -> None:
    assert list(parse_endpoints(text)) == endpoints


@pytest.mark.parametrize(
    "text", ["unix://run/m.sock", "m1:", ":99", "m1:0", "m1:70000", "http://m1", "m1,", "unix:///a,unix:///b"]
)
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid host"):
        parse_endpoints(text)


def test_nobody_there(host: Host) -> None:
    result = host.swarmnet("network", "ls")
    where = f"unix://{host.run_dir}/manager.sock"
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        f"Error: Cannot connect to the swarmnet manager at {where}. Is swarmnet-manager running?",
        "Reason: no such file or directory.",
    ]


def test_a_host_option_comes_before_the_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMNET_HOST", "unix:///nowhere/from-environment.sock")
    assert "from-environment.sock. Is" in host.swarmnet("network", "ls").err
    assert (
        "from-option.sock. Is" in host.swarmnet("-H", "unix:///nowhere/from-option.sock", "network", "ls").err
    )


def test_cluster_commands_on_a_worker(host: Host) -> None:
    host.worker()
    for line in ("network ls", "service create img", "node rm w1", "key rotate", "swarm join-token worker"):
        result = host.swarmnet(*line.split())
        assert (result.status, result.out, result.err) == (1, "", f"Error: {NOT_A_MANAGER}\n")


def test_a_worker_named_as_the_host(host: Host) -> None:
    host.worker()
    result = host.swarmnet("-H", f"unix://{host.run_dir}/worker.sock", "network", "ls")
    assert (result.status, result.err) == (1, f"Error: {NOT_A_MANAGER}\n")


def test_a_manager_outside_of_any_swarm(host: Host) -> None:
    host.serve(FakeSwarm("Local"), f"unix://{host.run_dir}/manager.sock")
    result = host.swarmnet("network", "ls")
    assert result.status == 1
    assert "Use `swarmnet swarm init` or `swarmnet swarm join`" in result.err


def test_an_answer_that_does_not_come(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.manager().answers["RemoveNetwork"] = [grpc.StatusCode.DEADLINE_EXCEEDED]
    result = host.swarmnet("network", "rm", "my-net")
    assert result.status == 1
    assert "did not answer in time\nIt may still do what it was asked to" in result.err


class Authority:
    """A cluster's certificate authority, for a server and a client."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
        self.root = self._build(name, name, self.key, self.key, DAY, ca=True)

    def _build(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        life: timedelta,
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - 2 * DAY).not_valid_after(now + life)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.DNSName("swarmnet-manager")])
        return builder.add_extension(names, critical=False).sign(signer, hashes.SHA256())

    def issue(self, role: str, life: timedelta = DAY) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, role)])
        certificate = self._build(subject, self.root.subject, key, self.key, life, ca=False)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key_pem, certificate.public_bytes(serialization.Encoding.PEM)

    def root_pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)


def _serve_tls(host: Host, authority: Authority) -> tuple[FakeSwarm, str]:
    pair = authority.issue("swarmnet-manager")
    credentials = grpc.ssl_server_credentials([pair], authority.root_pem(), require_client_auth=True)
    fake = FakeSwarm("Control", "CertificateAuthority")
    fake.answers["ListNetworks"] = [control.ListNetworksResponse()]
    return fake, f"127.0.0.1:{host.serve(fake, '127.0.0.1:0', credentials)}"


def _use(
    host: Host, monkeypatch: pytest.MonkeyPatch, root: bytes, pair: tuple[bytes, bytes], where: str
) -> None:
    files = credentials_in(f"{host.run_dir}/.config/swarmnet")
    Path(files.root).parent.mkdir(parents=True)
    for path, content in ((files.root, root), (files.key, pair[0]), (files.certificate, pair[1])):
        Path(path).write_bytes(content)
    monkeypatch.setenv("SWARMNET_HOST", where)
    for name, path in (("CACERT", files.root), ("CERT", files.certificate), ("KEY", files.key)):
        monkeypatch.setenv(f"SWARMNET_{name}", path)


def _closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_over_mutual_tls_to_the_first_manager_that_is_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    fake, where = _serve_tls(host, authority)
    pair = authority.issue("swarmnet-client")
    _use(host, monkeypatch, authority.root_pem(), pair, f"{_closed_port()},{where}")
    assert host.swarmnet("network", "ls").status == 0
    for name in ("CACERT", "CERT", "KEY"):
        monkeypatch.delenv(f"SWARMNET_{name}")
    assert host.swarmnet("network", "ls").status == 0  # from ~/.config/swarmnet
    assert len(fake.requests["ListNetworks"]) == 2


def test_a_read_goes_on_at_the_next_manager(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    (first, first_at), (second, second_at) = _serve_tls(host, authority), _serve_tls(host, authority)
    first.answers["ListNetworks"] = [Unavailable("the manager is leaving")]
    _use(
        host, monkeypatch, authority.root_pem(), authority.issue("swarmnet-client"), f"{first_at},{second_at}"
    )
    assert host.swarmnet("network", "ls").status == 0
    assert (len(first.requests["ListNetworks"]), len(second.requests["ListNetworks"])) == (1, 1)


@pytest.mark.parametrize("case", ["expired", "another cluster", "wrong role", "wrong root"])
def test_what_is_wrong_with_a_certificate_is_said(
    host: Host, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    authority, other = Authority(), Authority()
    _, where = _serve_tls(host, authority)
    root, pair, says = {
        "expired": (authority, authority.issue("swarmnet-client", -DAY), "cert.pem expired on 20"),
        "another cluster": (authority, other.issue("swarmnet-client"), "was not issued by the cluster of"),
        "wrong role": (other, other.issue("swarmnet-worker"), "is not a certificate of the role"),
        "wrong root": (other, other.issue("swarmnet-client"), "it is no manager of the cluster of"),
    }[case]
    _use(host, monkeypatch, root.root_pem(), pair, where)
    result = host.swarmnet("network", "ls")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"Error: The connection to the swarmnet manager at {where} failed: ")
    assert says in result.err
    assert "`swarmnet swarm credentials DIR` on a manager" in result.err


def _told_to_renew(host: Host, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeSwarm, dict[str, Path]]:
    authority = Authority()
    fake, where = _serve_tls(host, authority)
    fake.tells_to_renew = True
    fake.answers["IssueClientCertificate"] = [
        ca_pb2.IssueCertificateResponse(certificate_pem="CERT", root_certificate_pem="ROOTS")
    ]
    _use(host, monkeypatch, authority.root_pem(), authority.issue("swarmnet-client"), where)
    files = credentials_in(f"{host.run_dir}/.config/swarmnet")
    return fake, {"ca": Path(files.root), "cert": Path(files.certificate), "key": Path(files.key)}


def test_a_client_that_is_told_to_renew_does_it_in_its_files_and_keeps_the_key(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, files = _told_to_renew(host, monkeypatch)
    key = files["key"].read_bytes()
    result = host.swarmnet("network", "ls")
    assert (result.status, result.err) == (0, "")
    assert (files["cert"].read_text(), files["ca"].read_text()) == ("CERT", "ROOTS")
    assert files["key"].read_bytes() == key
    (request,) = fake.requests["IssueClientCertificate"]
    asked = x509.load_pem_x509_csr(request.csr_pem.encode())
    assert asked.public_key() == serialization.load_pem_private_key(key, None).public_key()


def test_a_client_that_trusts_an_old_root_as_well_renews_until_it_does_not(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, files = _told_to_renew(host, monkeypatch)
    fake.tells_to_renew = False
    one = files["ca"].read_bytes()
    files["ca"].write_bytes(one + Authority().root_pem())
    answer = ca_pb2.IssueCertificateResponse(certificate_pem="CERT", root_certificate_pem=one.decode())
    fake.answers["IssueClientCertificate"] = [answer]
    assert host.swarmnet("network", "ls").err == ""
    assert (files["ca"].read_bytes(), files["cert"].read_text()) == (one, "CERT")


def test_one_that_cannot_renew_says_so_and_has_done_its_work(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, files = _told_to_renew(host, monkeypatch)
    fake.answers["IssueClientCertificate"] = [Unavailable("the manager is leaving")]
    before = {name: path.read_bytes() for name, path in files.items()}
    result = host.swarmnet("network", "ls")
    assert result.status == 0
    assert result.err == (
        f"Warning: {files['cert']} should be renewed, and was not: the manager is leaving\n"
        "`swarmnet swarm credentials DIR` on a manager makes new files.\n"
    )
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_while_another_process_renews_it_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, files = _told_to_renew(host, monkeypatch)
    descriptor = os.open(files["cert"].parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert host.swarmnet("network", "ls").err == ""
    assert fake.requests["IssueClientCertificate"] == []
    os.close(descriptor)
    assert host.swarmnet("network", "ls").err == ""
    assert len(fake.requests["IssueClientCertificate"]) == 1


def test_over_tcp_without_a_certificate(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        result = host.swarmnet("-H", where, "network", "ls")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"Error: no client certificate for {where}\nSet SWARMNET_CACERT, ")


def test_half_of_the_certificate_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMNET_CERT", "/nowhere/cert.pem")
    result = host.swarmnet("-H", _closed_port(), "network", "ls")
    assert result.err.startswith("Error: SWARMNET_CACERT, SWARMNET_KEY not set\n")


def test_a_certificate_file_that_is_not_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACERT", "CERT", "KEY"):
        monkeypatch.setenv(f"SWARMNET_{name}", f"/nowhere/{name}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = host.swarmnet("-H", f"127.0.0.1:{server.getsockname()[1]}", "network", "ls")
    assert result.err.startswith("Error: cannot read /nowhere/")


def test_help_and_bad_options_load_neither_grpc_nor_rich() -> None:
    code = "import sys; from swarmnet.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    for line in (["--help"], ["nonsense"], ["network", "create", "--nonsense"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *line],
            capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        loaded = set(run.stdout.split())
        assert "click" in loaded
        assert loaded.isdisjoint({"grpc", "rich", "asyncio", "cryptography"})
