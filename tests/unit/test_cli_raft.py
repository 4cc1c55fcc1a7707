"""`swarmnet raft`, and `swarm backup` and `restore`: what they print, send and refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.unit.fake_swarm import FakeSwarm, Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import local_pb2
from swarmnet.api.v1.backup_pb2 import BackupHeader
from swarmnet.core import backup
from swarmnet.core.errors import FailedPrecondition, NoLeader, SwarmnetError, Unavailable
from swarmnet.core.secret import SecretBytes

M1, M2, M3 = "m1" + "0" * 23, "m2" + "0" * 23, "m3" + "0" * 23
PASSPHRASE = "correct horse battery"


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def _status(leader: str = M1) -> control.RaftStatus:
    heard = Duration(nanos=150_000_000)
    members = [
        control.RaftMemberStatus(node_id=M1, hostname="m1", address="10.0.0.1:2377", reachable=True),
        control.RaftMemberStatus(
            node_id=M2, hostname="m2", address="10.0.0.2:2377", reachable=True, last_heard=heard
        ),
        control.RaftMemberStatus(node_id=M3, hostname="m3", address="10.0.0.3:2377"),
    ]
    if leader:
        for member, match in zip(members, (120, 118, 90), strict=True):
            member.match_index = match
    return control.RaftStatus(
        node_id=M1, term=7, leader_id=leader, commit_index=119, applied_index=118, last_index=120,
        last_term=6, snapshot_index=60, snapshot_bytes=1234, journal_bytes=4096, journal_entries=61,
        members=members,
    )  # fmt: skip


def test_status_is_a_summary_and_a_table(host: Host) -> None:
    host.manager().answers["GetRaftStatus"] = [_status()]
    assert host.swarmnet("raft", "status").out.splitlines() == [
        "Term:                7",
        f"Leader:              m1 ({M1})",
        "Applied index:       118",
        "Commit index:        119",
        "Last entry:          120 of term 6",
        "Journal:             61 entries, 4096 bytes",
        "Snapshot:            up to entry 60, 1234 bytes",
        "",
        f"{'ID':<30}HOSTNAME   ADDRESS         STATUS        MATCH     LAG       LAST HEARD",
        f"{M1} *   m1         10.0.0.1:2377   Leader        120       0         -",
        f"{M2}     m2         10.0.0.2:2377   Reachable     118       2         0.1 s ago",
        f"{M3}     m3         10.0.0.3:2377   Unreachable   90        30        -",
    ]


def test_status_without_a_leader_says_so_and_succeeds(host: Host) -> None:
    host.manager().answers["GetRaftStatus"] = [_status(leader="")]
    result = host.swarmnet("raft", "status")
    assert result.status == 0
    assert "Leader:              none: 2 of 3 managers can be reached, 2 are needed\n" in result.out
    assert result.out.splitlines()[-1].split() == [M3, "m3", "10.0.0.3:2377", "Unreachable", "-", "-", "-"]


def test_status_for_programs(host: Host) -> None:
    host.manager().answers["GetRaftStatus"] = [_status()]
    shown = json.loads(host.swarmnet("raft", "status", "--format", "json").out)
    assert (shown["Term"], shown["Leader"]["Hostname"], shown["Managers"][2]["Lag"]) == (7, "m1", 30)
    assert [each["LastHeardSeconds"] for each in shown["Managers"]] == [None, 0.15, None]
    template = "{{.Leader.Hostname}}{{range .Managers}} {{.Hostname}}:{{.Match}}{{end}}"
    assert host.swarmnet("raft", "status", "--format", template).out == "m1 m1:120 m2:118 m3:90\n"
    assert host.swarmnet("raft", "status", "--format", "{{.Nothing}}").status == 1


def test_transfer_leader(host: Host) -> None:
    fake = host.manager()
    fake.answers["TransferLeadership"] = [control.TransferLeadershipResponse(leader_id=M2)]
    assert host.swarmnet("raft", "transfer-leader", "m2").out == f"Leader: {M2}\n"
    assert host.swarmnet("raft", "transfer-leader").status == 0
    assert [request.ref for request in fake.requests["TransferLeadership"]] == ["m2", ""]


def test_a_lost_majority_is_recovered_with_a_word_on_what_is_missing(host: Host) -> None:
    fake = host.manager()
    recovered = local_pb2.Recovered(committed_index=90, last_index=93, removed=["m2", "m3"])
    fake.answers["Init"] = [local_pb2.InitResponse(node_id=M1, recovered=recovered)]
    out = host.swarmnet("swarm", "init", "--force-new-cluster").out
    assert fake.requests["Init"] == [local_pb2.InitRequest(force_new_cluster=True)]
    assert f"current node ({M1}) is now its only manager" in out
    assert "went on from entry 93" in out
    assert "agreed on entry 90" in out
    assert "count now: 3." in out
    assert "the last changes may be missing" in out
    assert "Managers taken out: m2, m3." in out


def _sealing(fake: FakeSwarm, state: bytes = b"state") -> None:
    """Answer Backup as a manager does, under the key of the request."""

    def pieces() -> Iterator[control.BackupPiece]:
        request = fake.requests["Backup"][-1]
        header = BackupHeader(cluster_id="c" * 25, salt=request.salt, index=42)
        *first, last = backup.seal(header, state, SecretBytes(request.key))
        yield from (control.BackupPiece(data=data) for data in first)
        yield control.BackupPiece(data=last, last=True)

    class Lazy(list[control.BackupPiece]):
        def __iter__(self) -> Iterator[control.BackupPiece]:
            return pieces()

    fake.pieces = Lazy()  # type: ignore[assignment]


def test_a_backup_is_one_private_file_and_its_recovery_key_opens_it(host: Host, tmp_path: Path) -> None:
    _sealing(host.manager())
    path = tmp_path / "swarm.backup"
    out = host.swarmnet("swarm", "backup", str(path)).out
    assert out.startswith(f"Backup of swarm {'c' * 25} as of entry 42 written to {path} (")
    (key_line,) = [line for line in out.splitlines() if line.startswith("    SWMREC-1-")]
    raw = path.read_bytes()
    key = backup.derive_key(SecretBytes(key_line.strip().encode()), backup.read_header(raw).salt)
    assert backup.unseal(raw, key).state == b"state"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"swarm.backup", "manager.sock"}


def test_a_backup_under_a_passphrase_prints_no_key(host: Host, tmp_path: Path) -> None:
    fake = host.manager()
    _sealing(fake)
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    result = host.swarmnet(
        "swarm", "backup", str(tmp_path / "b"), "--passphrase-file", str(tmp_path / "passphrase")
    )
    assert result.status == 0, result.err
    assert "SWMREC" not in result.out
    assert PASSPHRASE not in result.out
    (request,) = fake.requests["Backup"]
    assert request.key == backup.derive_key(SecretBytes(PASSPHRASE.encode()), request.salt).reveal()


def test_a_backup_that_cannot_be_made_leaves_no_file(host: Host, tmp_path: Path) -> None:
    fake, path = host.manager(), tmp_path / "b"
    endings: list[tuple[list[control.BackupPiece | SwarmnetError], str]] = [
        ([control.BackupPiece(data=b"begun"), Unavailable("the leader is gone")], "the leader is gone"),
        ([control.BackupPiece(data=b"begun")], "the backup ended before it was whole"),
        ([NoLeader()], "does not have a leader"),
    ]
    for pieces, says in endings:
        fake.pieces = pieces
        result = host.swarmnet("swarm", "backup", str(path))
        assert (result.status, says in result.err) == (1, True)
        assert "SWMREC" not in result.out
    there = tmp_path / "there"
    there.write_text("precious")
    assert "exists already" in host.swarmnet("swarm", "backup", str(there)).err
    assert there.read_text() == "precious"
    assert "cannot write" in host.swarmnet("swarm", "backup", str(tmp_path / "no" / "folder")).err
    assert {each.name for each in tmp_path.iterdir()} == {"manager.sock", "there"}


def _file(tmp_path: Path) -> tuple[str, bytes]:
    salt = bytes(32)
    key = backup.derive_key(SecretBytes(PASSPHRASE.encode()), salt)
    raw = b"".join(backup.seal(BackupHeader(cluster_id="c" * 25, salt=salt), b"state" * 500_000, key))
    (tmp_path / "b").write_bytes(raw)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    return str(tmp_path / "b"), raw


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_restore_sends_the_file_and_its_key(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fake = host.manager()
    fake.answers["Restore"] = [
        local_pb2.RestoreResponse(
            node_id=M1, cluster_id="c" * 25, index=42, removed=["m1", "m2"], address="10.0.0.1:2378"
        )
    ]
    path, raw = _file(tmp_path)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(PASSPHRASE.encode() + b"\n")))
    given = str(tmp_path / "passphrase") if how == "file" else "-"
    result = host.swarmnet("swarm", "restore", path, "--passphrase-file", given)
    assert result.status == 0, result.err
    assert f"current node ({M1}) is now its only manager" in result.out
    assert "Managers taken out: m1, m2." in result.out
    assert "leave and join again, at 10.0.0.1:2378" in result.out
    requests = fake.requests["Restore"]
    assert b"".join(each.data for each in requests) == raw
    assert [bool(each.key) for each in requests] == [True] + [False] * (len(requests) - 1)
    assert backup.unseal(raw, SecretBytes(requests[0].key)).state == b"state" * 500_000


def test_a_restore_that_cannot_be(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host.manager()
    fake.answers["Restore"] = [FailedPrecondition("This node is already part of a swarm.", hint="Leave it.")]
    path, _ = _file(tmp_path)
    (tmp_path / "text").write_text("no backup at all, just some text that is long enough")
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"")))
    for arguments, says in (
        ([str(tmp_path / "nowhere")], "cannot read"),
        ([str(tmp_path / "text")], "no backup of a swarm"),
        ([path], "passphrase or recovery key is needed"),
        ([path, "--passphrase-file", str(tmp_path / "nowhere")], "cannot read"),
        ([path, "--passphrase-file", "/dev/null"], "could be guessed"),
        ([path, "--passphrase-file", str(tmp_path / "passphrase")], "already part of a swarm"),
    ):
        result = host.swarmnet("swarm", "restore", *arguments)
        assert (result.status, says in result.err, result.out) == (1, True, ""), result.err
        assert PASSPHRASE not in result.err
