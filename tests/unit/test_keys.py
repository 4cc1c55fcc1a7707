from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.epochs import Epoch, Epochs, Role, epochs
from swarmnet.core.keys import EpochSecret, esp_key, gossip_key, spi, split_spi
from swarmnet.core.limits import MAX_NETWORKS, MAX_NODES
from swarmnet.core.secret import SecretBytes

SECRET = SecretBytes(bytes(range(32)))


def epoch(number: int = 1, scope: str = "net", secret: SecretBytes = SECRET) -> EpochSecret:
    return EpochSecret(scope, number, secret)


def _hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 written out, to hold the library and the order of our info bytes to it."""

    def mac(key: bytes, data: bytes) -> bytes:
        one = hmac.HMAC(key, hashes.SHA256())
        one.update(data)
        return one.finalize()

    key, out, block = mac(bytes(32), secret), b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = mac(key, block + info + bytes([counter]))
        out += block
    return out[:length]


def test_the_esp_key_is_hkdf_over_label_epoch_scope_and_both_nodes() -> None:
    info = b"swarmnet/1 esp" + (7).to_bytes(8, "big") + b"\x00\x03net" + b"\x00\x01a" + b"\x00\x01b"
    assert esp_key(epoch(7), "a", "b").reveal() == _hkdf(SECRET.reveal(), info, 36)


def test_the_gossip_key_is_hkdf_over_label_epoch_scope_and_sender() -> None:
    info = b"swarmnet/1 gossip" + (7).to_bytes(8, "big") + b"\x00\x03net" + b"\x00\x01a"
    assert gossip_key(epoch(7), "a").reveal() == _hkdf(SECRET.reveal(), info, 32)


def test_no_two_uses_share_a_key() -> None:
    made = [
        *(
            esp_key(epoch(n, s), a, b).reveal()
            for n in (1, 2)
            for s in ("x", "y")
            for a, b in ("ab", "ba", "ac")
        ),
        *(gossip_key(epoch(n, s), a).reveal() for n in (1, 2) for s in ("x", "y") for a in "abc"),
        esp_key(epoch(), "ab", "c").reveal(),
        esp_key(epoch(), "a", "bc").reveal(),
    ]
    assert len({key[:32] for key in made}) == len(made)


@given(st.integers(1, MAX_NETWORKS), st.integers(0, MAX_NODES), st.integers(1, 1 << 40))
def test_an_spi_reads_back_and_is_never_reserved(network: int, node: int, number: int) -> None:
    value = spi(network, node, number)
    assert split_spi(value) == (network, node, number % 16)
    assert 255 < value < 1 << 32


@given(st.integers(1, 1 << 30))
def test_the_live_epochs_of_one_sender_have_different_spis(first: int) -> None:
    assert len({spi(1, 1, first + step) for step in range(3)}) == 3


@pytest.mark.parametrize(
    ("network", "node", "number"), [(0, 1, 1), (4096, 1, 1), (1, -1, 1), (1, 65536, 1), (1, 1, 0)]
)
def test_no_spi_out_of_range(network: int, node: int, number: int) -> None:
    with pytest.raises(ValueError, match="no SPI"):
        spi(network, node, number)


@pytest.mark.parametrize(("number", "length"), [(0, 32), (1, 31), (1, 33)])
def test_a_secret_has_32_bytes_and_epochs_start_at_1(number: int, length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        EpochSecret("net", number, SecretBytes(bytes(length)))


def test_epochs_are_kept_in_order_and_name_the_one_to_send_with() -> None:
    live = epochs(
        "net", [Epoch(epoch(6), Role.NEXT), Epoch(epoch(5), Role.CURRENT), Epoch(epoch(4), Role.PREVIOUS)]
    )
    assert live.numbers() == (4, 5, 6)
    assert live.current is not None
    assert live.current.number == 5
    assert epochs("net", [Epoch(epoch(1), Role.NEXT)]).current is None


@pytest.mark.parametrize(
    "live",
    [
        [Epoch(epoch(n), Role.PREVIOUS) for n in (1, 2, 3, 4)],
        [Epoch(epoch(1), Role.CURRENT), Epoch(epoch(2), Role.CURRENT)],
        [Epoch(epoch(1), Role.CURRENT), Epoch(epoch(1), Role.NEXT)],
        [Epoch(epoch(1, scope="other"), Role.CURRENT)],
    ],
)
def test_roles_that_make_no_sense_together_are_refused(live: list[Epoch]) -> None:
    with pytest.raises(ValueError, match="net"):
        Epochs("net", tuple(live))


def test_two_nodes_that_had_one_index_share_an_spi_and_no_key() -> None:
    """An index may be given out again one day: keys are made of ids, so no nonce comes twice under one."""
    secret = EpochSecret("net", 17, SecretBytes(bytes(range(32))))
    assert spi(1, 7, 17) == spi(1, 7, 1)
    keys = [
        esp_key(secret, *ends).reveal()
        for node in ("removed", "new")
        for ends in ((node, "peer"), ("peer", node))
    ]
    assert len({key[:32] for key in keys}) == len({key[32:] for key in keys}) == 4
