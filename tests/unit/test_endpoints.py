from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.endpoints import (
    BATCH,
    MAX_SIGNATURE_BYTES,
    MIN_SIGNATURE_BYTES,
    Endpoint,
    claim,
    mac_of,
    public_key,
    sign,
    sign_all,
    verify,
)
from swarmnet.core.secret import SecretBytes

PRIVATE = SecretBytes(bytes(range(32)))
PUBLIC = public_key(PRIVATE)
ENDPOINT = Endpoint("net", "task", ip_address("10.0.1.3"), "02:42:0a:00:01:03", "node")


def test_a_signed_endpoint_is_believed() -> None:
    assert verify(PUBLIC, ENDPOINT, sign(PRIVATE, ENDPOINT))


@pytest.mark.parametrize(
    "other",
    [
        replace(ENDPOINT, network_id="net2"),
        replace(ENDPOINT, task_id="task2"),
        replace(ENDPOINT, ip=ip_address("10.0.1.4")),
        replace(ENDPOINT, ip=ip_address("::ffff:10.0.1.3")),
        replace(ENDPOINT, mac="02:42:0a:00:01:04"),
        replace(ENDPOINT, node_id="node2"),
        replace(ENDPOINT, network_id="nett", task_id="ask"),
    ],
)
def test_the_signature_is_for_exactly_that_endpoint(other: Endpoint) -> None:
    assert not verify(PUBLIC, other, sign(PRIVATE, ENDPOINT))


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_junk_is_no_signature_and_no_key(signature: bytes, key: bytes) -> None:
    assert not verify(PUBLIC, ENDPOINT, signature)
    assert not verify(key, ENDPOINT, sign(PRIVATE, ENDPOINT))


def many(count: int) -> list[Endpoint]:
    return [
        replace(ENDPOINT, task_id=f"task{index}", ip=ip_address("10.0.1.3") + index) for index in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 5])
def test_each_of_those_that_are_signed_together_is_believed(count: int) -> None:
    signatures = sign_all(PRIVATE, many(count))
    assert len(signatures) == count
    for endpoint, signature in zip(many(count), signatures, strict=True):
        assert verify(PUBLIC, endpoint, signature)
        assert MIN_SIGNATURE_BYTES <= len(signature) <= MAX_SIGNATURE_BYTES


@pytest.mark.parametrize("count", [2, 3, 7, BATCH])
def test_a_signature_of_a_batch_is_for_exactly_its_endpoint(count: int) -> None:
    endpoints = many(count)
    signatures = sign_all(PRIVATE, endpoints)
    for index, signature in enumerate(signatures):
        for other in (*endpoints[:index], *endpoints[index + 1 :], ENDPOINT, replace(ENDPOINT, node_id="n")):
            assert not verify(PUBLIC, other, signature)
        assert not verify(PUBLIC, endpoints[index], signature[:64])


def test_those_that_are_signed_together_share_what_has_to_be_verified() -> None:
    endpoints = many(BATCH + 2)
    claims = {claim(*each) for each in zip(endpoints, sign_all(PRIVATE, endpoints), strict=True)}
    assert len(claims) == 2


@given(st.integers(0, 7 * 8 - 1), st.integers(0, 6))
def test_no_bit_of_a_signature_can_be_changed(bit: int, place: int) -> None:
    endpoints = many(7)
    signature = bytearray(sign_all(PRIVATE, endpoints)[place])
    at = bit * len(signature) // 56
    signature[at] ^= 1 << bit % 8
    assert not verify(PUBLIC, endpoints[place], bytes(signature))


@given(st.binary(min_size=65, max_size=MAX_SIGNATURE_BYTES + 20))
def test_junk_is_no_path(path: bytes) -> None:
    genuine = sign_all(PRIVATE, many(3))[0]
    assert not verify(PUBLIC, ENDPOINT, genuine[:64] + path[64:])
    assert not verify(PUBLIC, ENDPOINT, path)


def test_a_node_of_the_tree_is_no_endpoint() -> None:
    """What is hashed for a leaf and for a node never is the same, so a shorter path proves nothing."""
    endpoints = many(4)
    for endpoint, signature in zip(endpoints, sign_all(PRIVATE, endpoints), strict=True):
        for length in (64, 65, 65 + 20):
            assert not verify(PUBLIC, endpoint, signature[:length])


@pytest.mark.parametrize(
    ("address", "mac"), [("10.0.1.3", "02:42:0a:00:01:03"), ("fd00::a00:103", "02:42:0a:00:01:03")]
)
def test_the_mac_follows_the_address(address: str, mac: str) -> None:
    assert mac_of(address) == mac
