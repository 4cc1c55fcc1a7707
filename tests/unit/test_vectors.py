"""Our code against the vectors in docs/, made by openssl and bash without it, and these against a new run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.core import backup, endpoints, ids, keys, tokens
from swarmnet.core.epochs import Epoch, Role, epochs
from swarmnet.core.gossip import seal
from swarmnet.core.gossip.names import scope_tag
from swarmnet.core.gossip.seal import Sealer
from swarmnet.core.key_chain import KeyOffer
from swarmnet.core.secret import SecretBytes
from swarmnet.core.unlock_key import parse_unlock_key, unlock_key_text
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.ca.keyfile import KeyFile
from swarmnet.manager.raft import frames
from swarmnet.manager.raft.disk import RealDisk
from swarmnet.manager.raft.seal import DataKey, DataKeys, load_data_keys
from swarmnet.manager.raft.snapshot import SnapshotFile

DOCS: Final = Path(__file__).parents[2] / "docs"
VECTORS: Final[list[dict[str, Any]]] = json.loads((DOCS / "test-vectors.json").read_text())
HELD: Final[set[str]] = set()


def each(case: str) -> pytest.MarkDecorator:
    """Every vector of the case, one test each."""
    HELD.add(case)
    return pytest.mark.parametrize("v", [v for v in VECTORS if v["case"] == case])


def secret(v: dict[str, Any], name: str) -> SecretBytes:
    return SecretBytes(bytes.fromhex(v[name]))


def epoch_of(v: dict[str, Any]) -> keys.EpochSecret:
    return keys.EpochSecret(v["scope"], v["epoch"], secret(v, "secret"))


def test_openssl_and_bash_make_the_same_file_again() -> None:
    made = subprocess.run(["bash", str(DOCS / "test-vectors.sh")], capture_output=True, check=True).stdout
    assert made == (DOCS / "test-vectors.json").read_bytes()


@each("id")
def test_ids(v: dict[str, Any]) -> None:
    assert ids.make_id(bytes.fromhex(v["random"])) == v["id"]


@each("join token")
def test_join_tokens(v: dict[str, Any]) -> None:
    made = tokens.make_token(bytes.fromhex(v["root_der"]), bytes.fromhex(v["secret"]))
    assert (made.digest, made.text()) == (v["digest"], v["token"])
    assert tokens.parse_token(v["token"]) == made


@each("esp key")
def test_esp_keys(v: dict[str, Any]) -> None:
    made = keys.esp_key(epoch_of(v), v["source"], v["destination"]).reveal()
    assert (made[:32].hex(), made[32:].hex()) == (v["key"], v["salt"])


@each("gossip key")
def test_gossip_keys(v: dict[str, Any]) -> None:
    assert keys.gossip_key(epoch_of(v), v["sender"]).reveal().hex() == v["key"]


@each("spi")
def test_spis(v: dict[str, Any]) -> None:
    assert keys.spi(v["network_index"], v["node_index"], v["epoch"]) == int(v["spi"], 16)
    assert keys.split_spi(int(v["spi"], 16)) == (v["network_index"], v["node_index"], v["epoch"] % 16)


@each("esp packet of Linux 6.1")
def test_a_packet_of_a_real_kernel_opens_with_a_derived_key(v: dict[str, Any]) -> None:
    by_name = next(each for each in VECTORS if each["case"] == "esp key" and each["key"] == v["key"])
    key = keys.esp_key(epoch_of(by_name), by_name["source"], by_name["destination"]).reveal()
    packet = bytes.fromhex(v["packet"])
    context = packet[:4] + bytes(4) + packet[4:8]
    assert int.from_bytes(packet[:4], "big") == keys.spi(1, 258, by_name["epoch"])
    opened = AESGCM(key[:32]).decrypt(key[32:] + packet[8:16], packet[16:], context)
    assert opened.hex() == v["plaintext"]


@each("gossip datagram")
def test_gossip_datagrams(v: dict[str, Any]) -> None:
    held = epochs(v["scope"], [Epoch(epoch_of(v), Role.CURRENT)])
    sender = Sealer(v["sender"], int(v["boot"], 16))
    sender.set_epochs(held)
    sender._counter = v["counter"] - 1
    assert scope_tag(v["scope"]).hex() == v["scope_tag"]
    boot = int(v["receiver_boot"], 16)
    sealed = sender.seal(v["scope"], bytes.fromhex(v["body"]), seal.receiver(v["receiver"], boot))
    assert sealed.hex() == v["message"]
    receiver = Sealer(v["receiver"], boot)
    receiver.set_epochs(held)
    receiver.meet(v["sender"], int(v["boot"], 16))
    opened = receiver.open(bytes.fromhex(v["message"]))
    assert (opened.scope, opened.sender, opened.body.hex()) == (v["scope"], v["sender"], v["body"])


@each("key chain")
def test_key_chains(v: dict[str, Any]) -> None:
    worker, manager = (KeyOffer(bytes.fromhex(v[f"{side}_private"])) for side in ("worker", "manager"))
    assert (worker.public.hex(), manager.public.hex()) == (v["worker_public"], v["manager_public"])
    ours, theirs = manager.managers_end(worker.public), worker.workers_end(manager.public)
    for number in range(1, v["n"]):
        theirs.open(ours.seal(f"message {number}".encode()))
    sealed = ours.seal(bytes.fromhex(v["plaintext"]))
    assert sealed.hex() == v["sealed"]
    assert theirs.open(sealed).hex() == v["plaintext"]


@each("endpoint signature")
def test_endpoint_signatures(v: dict[str, Any]) -> None:
    endpoint = endpoints.Endpoint(v["network"], v["task"], ip_address(v["ip"]), v["mac"], v["node"])
    assert endpoint.signed_bytes().hex() == v["message"]
    assert endpoints.public_key(secret(v, "private")).hex() == v["public"]
    assert endpoints.sign(secret(v, "private"), endpoint).hex() == v["signature"]
    assert endpoints.verify(bytes.fromhex(v["public"]), endpoint, bytes.fromhex(v["signature"]))


@each("endpoint batch")
def test_endpoints_that_are_signed_together(v: dict[str, Any]) -> None:
    batch = [
        endpoints.Endpoint(v["network"], v["task"], ip_address(ip), endpoints.mac_of(ip), v["node"])
        for ip in v["ips"].split()
    ]
    signatures = [bytes.fromhex(each) for each in v["signatures"].split()]
    assert endpoints.sign_all(secret(v, "private"), batch) == signatures
    for endpoint, signature in zip(batch, signatures, strict=True):
        said = endpoints.claim(endpoint, signature)
        assert said is not None
        assert said.message.endswith(bytes.fromhex(v["root"]))
        assert endpoints.verify(bytes.fromhex(v["public"]), endpoint, signature)


def data_keys(v: dict[str, Any]) -> DataKeys:
    """Those of a manager that has but this one."""
    return DataKeys([DataKey(secret(v, "data_key"), 7)], lambda _: None)


@each("key file")
def test_the_file_of_a_key_encryption_key_and_what_unlocks_it(v: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(bytes.fromhex(v["open"]))
    (tmp_path / "locked").write_bytes(bytes.fromhex(v["locked"]))
    file, locked = KeyFile(tmp_path / "open"), KeyFile(tmp_path / "locked")
    locked.unlock(parse_unlock_key(v["unlock_key_text"]))
    assert list(file.keks()) == list(locked.keks()) == [secret(v, "kek")]
    assert file.generation == locked.generation == int(v["generation"])
    assert unlock_key_text(secret(v, "unlock_key")) == v["unlock_key_text"]
    file.make(3, None)
    assert len((tmp_path / "open").read_bytes().hex()) == len(v["open"])


@each("private key file")
def test_the_file_of_a_private_key(v: dict[str, Any], tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates/node.key").write_bytes(bytes.fromhex(v["file"]))
    (tmp_path / "kek").write_bytes(
        store.KeyEncryptionFile(
            keys=store.KeyEncryptionKeys(keys=[bytes.fromhex(v["kek"])]).SerializeToString()
        ).SerializeToString()
    )
    assert list(files._private_keys()) == [secret(v, "pem")]


@each("data key file")
def test_the_file_of_a_data_key(v: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes.fromhex(v["file"]))
    found = load_data_keys(RealDisk(), tmp_path / "key", secret(v, "kek"))
    assert found.old == ()
    assert (found.newest.secret, found.newest.number) == (secret(v, "data_key"), int(v["number"]))
    assert found.newest.made_at == int(v["made_at"])


@each("journal segment")
def test_a_segment_of_a_journal(v: dict[str, Any], tmp_path: Path) -> None:
    content = frames.read(tmp_path, bytes.fromhex(v["segment"]), data_keys(v))
    assert content.header == frames.Header(bytes.fromhex(v["file_id"]), 1, 1, 7)
    assert [body.hex() for body in content.bodies] == [v["body_0"], v["body_1"]]
    assert raft.RaftJournalFrame.FromString(content.bodies[1]).records[0].entry.index == 2


@each("snapshot file")
def test_the_file_of_a_snapshot(v: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(bytes.fromhex(v["file"]))
    found = SnapshotFile(RealDisk(), tmp_path / "snapshot", data_keys(v)).read()
    assert found == raft.RaftSnapshot.FromString(bytes.fromhex(v["snapshot"]))


@each("recovery key")
def test_recovery_keys(v: dict[str, Any]) -> None:
    assert backup.make_recovery_key(bytes.fromhex(v["random"])).reveal().decode() == v["recovery_key"]


@each("backup file")
def test_the_file_of_a_backup(v: dict[str, Any]) -> None:
    key = backup.derive_key(secret(v, "passphrase"), bytes.fromhex(v["salt"]))
    assert key == secret(v, "key")
    opened = backup.unseal(bytes.fromhex(v["file"]), key)
    assert (opened.state.hex(), opened.header.key_check.hex()) == (v["state"], v["key_check"])
    header = opened.header
    assert b"".join(backup.seal(header, opened.state, key)).hex() == v["file"]


def _own(vectors: list[dict[str, Any]]) -> Iterator[str]:
    return (v["case"] for v in vectors if not v["case"].startswith(("RFC ", "McGrew ")))


def test_every_vector_is_held_against_our_code() -> None:
    assert set(_own(VECTORS)) == HELD
