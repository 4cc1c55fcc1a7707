"""Addresses as operators write them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from swarmnet.core.errors import InvalidArgument
from swarmnet.manager import settings
from swarmnet.manager.settings import Settings, checked_host, detect_address, port_of, with_port


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1:2378"),
        ("192.0.2.1:99", "192.0.2.1:99"),
        ("m1.example", "m1.example:2378"),
        ("m1.example:99", "m1.example:99"),
        ("2001:db8::1", "[2001:db8::1]:2378"),
        ("[2001:db8::1]", "[2001:db8::1]:2378"),
        ("[2001:db8::1]:99", "[2001:db8::1]:99"),
    ],
)
def test_the_port_may_be_left_out(text: str, address: str) -> None:
    assert with_port(text, 2378) == address
    assert port_of(address, 0) == int(address.rpartition(":")[2])


@pytest.mark.parametrize("text", ["h:0", "h:65536", "h:x", "h:", "h:-1", "h:٣"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port"):
        with_port(text, 2378)


@pytest.mark.parametrize("text", ["", "host", "0.0.0.0", "::", "224.0.0.1", "192.0.2.1:1"])
def test_only_an_address_others_can_reach_is_advertised(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        checked_host(text)
    assert "--advertise-addr" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "address"), [("192.0.2.1", "192.0.2.1:12377"), ("2001:db8::1", "[2001:db8::1]:12377")]
)
def test_the_advertised_host_goes_with_the_listeners_ports(host: str, address: str) -> None:
    given = Settings(Path("s"), Path("r"), "0.0.0.0:12377", "0.0.0.0:12378", "0.0.0.0:12374", host)
    assert given.address == address
    assert given.bootstrap_address == address.replace("12377", "12378")
    assert given.raft_address == address.replace("12377", "12374")


@pytest.fixture
def no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_SOMEWHERE", ("255.255.255.255", 9))  # connecting there is not permitted


@pytest.mark.usefixtures("no_route")
def test_without_a_route_the_only_address_is_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_addresses", lambda _: ["127.0.0.1", "192.0.2.7"])
    assert detect_address() == "192.0.2.7"


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize("seen", [[], ["192.0.2.7", "192.0.2.8"]])
def test_an_unclear_choice_is_the_operators(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_addresses", lambda _: ["127.0.0.1", *seen])
    with pytest.raises(InvalidArgument, match=", ".join(seen) or "none but loopback") as caught:
        detect_address()
    assert "--advertise-addr" in caught.value.hint


def test_loopback_is_among_the_addresses_of_this_host() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        assert "127.0.0.1" in settings._addresses(probe)
