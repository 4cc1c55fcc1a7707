from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.endpoints import Endpoint, mac_of, public_key, sign, verify
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


@pytest.mark.parametrize(
    ("address", "mac"), [("10.0.1.3", "02:42:0a:00:01:03"), ("fd00::a00:103", "02:42:0a:00:01:03")]
)
def test_the_mac_follows_the_address(address: str, mac: str) -> None:
    assert mac_of(address) == mac
