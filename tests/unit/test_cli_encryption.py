"""`swarmnet encryption`: what it prints, and what it takes for proved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_swarm import Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import encryption_pb2 as encryption
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.timestamps import stamp

IDS = {"w1": "a" * 25, "w2": "b" * 25}


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def end(spi: int, packets: int, **counts: int) -> encryption.TunnelEnd:
    return encryption.TunnelEnd(
        spi=spi, packets=packets, bytes=packets * 100, added_at=stamp(1_700_000_000), **counts
    )


def answer() -> control.GetEncryptionResponse:
    tunnels = [
        encryption.Tunnel(
            peer_node_id=IDS["w2"],
            peer_hostname="w2",
            epoch=3,
            role=types.EPOCH_ROLE_CURRENT,
            outbound=end(0x0010_0013, 7),
            inbound=end(0x0010_0023, 5, replayed=2, outside_window=1, not_authentic=4),
        ),
        encryption.Tunnel(peer_node_id=IDS["w2"], peer_hostname="w2", epoch=4, role=types.EPOCH_ROLE_NEXT),
    ]
    network = encryption.NetworkEncryption(
        network_id="n" * 25, name="net", sending=3, guarded=True, tunnels=tunnels
    )
    node = encryption.NodeEncryption(
        node_id=IDS["w1"],
        hostname="w1",
        networks=[network],
        counters={"XfrmInTmplMismatch": 20, "XfrmOutPolBlock": 3, "XfrmInStateSeqError": 9},
        firewall="nftables",
    )
    silent = encryption.NodeEncryption(node_id=IDS["w2"], hostname="w2", error="no answer within 8 s")
    return control.GetEncryptionResponse(nodes=[node, silent])


def test_status_has_a_line_for_each_tunnel(host: Host) -> None:
    fake = host.manager()
    fake.answers["GetEncryption"] = [answer()]
    result = host.swarmnet("encryption", "status", "net")
    first, current, following = (line.split() for line in result.out.splitlines())
    assert first[:4] == ["NETWORK", "NODE", "PEER", "EPOCH"]
    assert current[:9] == ["net", "w1", "w2", "3", "*", "current", "0x00100013/0x00100023", "7", "5"]
    assert current[-2:] == ["3", "4"]
    assert following[:6] == ["net", "w1", "w2", "4", "next", "-/-"]
    assert result.err == "w2 did not answer: no answer within 8 s\n"
    assert fake.requests["GetEncryption"] == [control.GetEncryptionRequest(networks=["net"])]


def test_status_per_node_sums_up(host: Host) -> None:
    host.manager().answers["GetEncryption"] = [answer()]
    result = host.swarmnet(
        *("encryption", "status", "--per-node", "--format"),
        "{{.Node}} {{.Guarded}} {{.Firewall}} {{.Tunnels}} {{.DroppedPlaintext}} {{.Replayed}} {{.Error}}",
    )
    assert result.out.splitlines() == ["w1 yes nftables 2 23 3 ", "w2 no - 0 0 0 no answer within 8 s"]


def probes(other: str, **counts: int) -> encryption.PeerProbes:
    """Of a peer with which all is well, but for what is said."""
    fields = {"sent": 10, "encrypted": 10, "decrypted": 10, "seen_out": 10, "seen_in": 10}
    return encryption.PeerProbes(peer_node_id=IDS[other], peer_hostname=other, **(fields | counts))


def verified(
    first: encryption.PeerProbes, second: encryption.PeerProbes | None
) -> control.VerifyEncryptionResponse:
    one = encryption.NodeProbes(node_id=IDS["w1"], hostname="w1", peers=[first])
    two = encryption.NodeProbes(node_id=IDS["w2"], hostname="w2", peers=[second] if second else [])
    two.error = "" if second else "it has no session"
    return control.VerifyEncryptionResponse(nodes=[one, two])


def test_verify_proves_both_directions(host: Host) -> None:
    host.manager().answers["VerifyEncryption"] = [verified(probes("w2"), probes("w1"))]
    result = host.swarmnet("encryption", "verify", "net")
    assert [line.split() for line in result.out.splitlines()[1:]] == [
        ["w1", "w2", "10", "10", "10", "10", "10", "0", "encrypted"],
        ["w2", "w1", "10", "10", "10", "10", "10", "0", "encrypted"],
    ]
    assert result.status == 0


@pytest.mark.parametrize(
    ("first", "second", "verdicts"),
    [
        ({"plaintext_out": 1}, {}, ["IN CLEAR", "encrypted"]),
        ({}, {"plaintext_in": 1}, ["IN CLEAR", "encrypted"]),
        ({"encrypted": 9}, {}, ["not sent", "encrypted"]),
        ({}, {"decrypted": 9}, ["not received", "encrypted"]),
        ({"seen_out": 9}, {}, ["not seen", "encrypted"]),
        ({}, {"seen_in": 9}, ["not seen", "encrypted"]),
    ],
)
def test_verify_says_what_is_not_proved(
    host: Host, first: dict[str, int], second: dict[str, int], verdicts: list[str]
) -> None:
    answered = verified(probes("w2", **first), probes("w1", **second))
    host.manager().answers["VerifyEncryption"] = [answered]
    result = host.swarmnet("encryption", "verify", "--format", "{{.Verdict}}", "net")
    assert (result.out.splitlines(), result.status) == (verdicts, 1)


def test_a_node_that_says_nothing_proves_nothing(host: Host) -> None:
    host.manager().answers["VerifyEncryption"] = [verified(probes("w2"), None)]
    result = host.swarmnet("encryption", "verify", "--format", "{{.Verdict}}", "net")
    assert (result.out, result.status) == ("unknown\n", 1)
    assert result.err == "w2 did not answer: it has no session\n"
