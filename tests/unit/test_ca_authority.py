from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.certificates import digest_of
from swarmnet.core.errors import BadToken, Internal, InvalidArgument
from swarmnet.core.secret import SecretBytes
from swarmnet.core.tokens import JoinToken, parse_token
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.ca.tokens import role_of, token_of
from swarmnet.manager.identity import CallerRole

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER, NODE = "c" * 25, "n" * 25


def issued(authority: Authority, role: CallerRole = CallerRole.WORKER) -> Credentials:
    key = new_key()
    certificate = authority.issue(signing_request(key), Subject(NODE, role, CLUSTER), NOW)
    return Credentials(certificate, private_pem(key), authority.root_pem)


def test_a_certificate_names_node_role_and_cluster_for_ninety_days() -> None:
    credentials = issued(Authority.create(CLUSTER, NOW))
    assert credentials.subject == Subject(NODE, CallerRole.WORKER, CLUSTER)
    assert credentials.matches()
    assert credentials.issued_by_root()
    assert credentials.expires_at() == NOW + timedelta(days=90)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (CallerRole.MANAGER, [NODE, "swarmnet-manager"]),
        (CallerRole.WORKER, [NODE]),
        (CallerRole.CLIENT, [NODE]),
    ],
)
def test_only_managers_answer_to_the_managers_name(role: CallerRole, names: list[str]) -> None:
    certificate = x509.load_pem_x509_certificate(issued(Authority.create(CLUSTER, NOW), role).certificate_pem)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == names
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_loaded_authority_goes_on_where_the_first_one_was() -> None:
    first = Authority.create(CLUSTER, NOW)
    again = Authority.load(first.root_pem, first.key_pem)
    assert again.digest == first.digest == digest_of(first.root_pem)
    assert issued(again).issued_by_root()


def test_another_root_issued_nothing_here() -> None:
    mine, other = Authority.create(CLUSTER, NOW), Authority.create(CLUSTER, NOW)
    good = issued(mine)
    assert not Credentials(good.certificate_pem, good.key, other.root_pem).issued_by_root()


def _request_by(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    algorithm = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    name = x509.Name([])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm)
    return made.public_bytes(Encoding.PEM)


def _with_a_broken_signature() -> bytes:
    der = bytearray(x509.load_pem_x509_csr(signing_request(new_key())).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("csr", "says"),
    [
        (b"", "not a certificate signing request"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a cert"),
        (b"x" * 20_000, "too long"),
        (_request_by(ec.generate_private_key(ec.SECP384R1())), "not for an ECDSA P-256 key"),
        (_request_by(ed25519.Ed25519PrivateKey.generate()), "not for an ECDSA P-256 key"),
        (_with_a_broken_signature(), "not signed with its own key"),
    ],
)
def test_bad_requests_get_no_certificate(csr: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        Authority.create(CLUSTER, NOW).issue(csr, Subject(NODE, CallerRole.WORKER, CLUSTER), NOW)


def test_renewal_falls_between_half_and_four_fifths_of_the_life() -> None:
    credentials = issued(Authority.create(CLUSTER, NOW))
    assert abs(credentials.renew_at(0) - (NOW + timedelta(days=45))) < timedelta(seconds=1)
    assert abs(credentials.renew_at(1) - (NOW + timedelta(days=72))) < timedelta(seconds=1)


def _secrets() -> store.ClusterSecrets:
    return store.ClusterSecrets(worker_token_secret=b"w" * 16, manager_token_secret=b"m" * 16)


CLUSTER_OBJECT = types.Cluster(root_digest="0" + "d" * 49)


@pytest.mark.parametrize("role", [types.ROLE_WORKER, types.ROLE_MANAGER])
def test_a_token_opens_its_own_role(role: types.Role.ValueType) -> None:
    token = parse_token(token_of(role, CLUSTER_OBJECT, _secrets()).text())
    assert role_of(token, CLUSTER_OBJECT, _secrets()) == role


@pytest.mark.parametrize(
    "token",
    [
        JoinToken("0" + "d" * 49, SecretBytes(b"x" * 16)),
        JoinToken("e" * 50, SecretBytes(b"w" * 16)),
        JoinToken("e" * 50, SecretBytes(b"m" * 16)),
    ],
)
def test_wrong_tokens_open_nothing(token: JoinToken) -> None:
    with pytest.raises(BadToken, match="A valid join token is necessary"):
        role_of(token, CLUSTER_OBJECT, _secrets())


def test_identity_files_are_private_and_read_back(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    assert files.load() is None
    saved = issued(Authority.create(CLUSTER, NOW))
    files.save(saved)
    assert files.load() == saved
    assert files.lock.keks() == files.lock.keks()
    found = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.rglob("*")}
    assert found == {
        "certificates": 0o700,
        "node.pem": 0o600,
        "node.key": 0o600,
        "root.pem": 0o600,
        "kek": 0o600,
    }


def test_a_crash_between_certificate_and_key_loses_neither(tmp_path: Path) -> None:
    authority = Authority.create(CLUSTER, NOW)
    old, new = issued(authority), issued(authority)
    files = IdentityFiles(tmp_path)
    files.save(old)
    folder = tmp_path / "certificates"
    kept = (folder / "node.key").read_bytes()
    files.save(new)
    (folder / "node.key").rename(folder / "node.key.next")
    (folder / "node.key").write_bytes(kept)
    assert files.load() == new
    (folder / "node.pem").write_bytes(old.certificate_pem)
    assert files.load() == old


def test_a_certificate_without_its_key_is_an_error(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    files.save(issued(Authority.create(CLUSTER, NOW)))
    (tmp_path / "certificates" / "node.pem").write_bytes(
        issued(Authority.create(CLUSTER, NOW)).certificate_pem
    )
    with pytest.raises(Internal, match="no private key"):
        files.load()


def test_erasing_leaves_an_empty_directory(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    files.save(issued(Authority.create(CLUSTER, NOW)))
    files.lock.keks()
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "journal").touch()
    files.erase()
    assert list(tmp_path.iterdir()) == []
