"""The shell on real sockets: three workers on the loopback, and strangers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from tests.sim.cluster import MANAGERS_KEY, NETWORK, scope_epochs, signed

from swarmnet.core.endpoints import public_key
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.gossip.limits import MAX_CONNECTIONS_PER_HOST
from swarmnet.core.gossip.members import State
from swarmnet.core.gossip.seal import CHALLENGE_BYTES
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.worker import gossip as shell
from swarmnet.worker.datagrams import split_address
from swarmnet.worker.gossip import Gossip


class Changes:
    """Calls of `changed`, as something to wait for."""

    def __init__(self) -> None:
        self.networks: list[str] = []
        self._event = asyncio.Event()

    def __call__(self, network_id: str) -> None:
        self.networks.append(network_id)
        self._event.set()

    async def until(self, holds: Callable[[], bool], within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                await self._event.wait()
                self._event.clear()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Trio:
    def __init__(self) -> None:
        self.addresses = {name: free_address() for name in "abc"}
        self.changes = {name: Changes() for name in "abc"}
        self.nodes = {
            name: Gossip(name, address, address, self.changes[name])
            for name, address in self.addresses.items()
        }

    async def start(self) -> None:
        for name, node in self.nodes.items():
            await node.start()
            node.set_endpoint_key(public_key(MANAGERS_KEY))
            node.set_epochs(scope_epochs(GOSSIP_SCOPE, 1))
            node.set_epochs(scope_epochs(NETWORK, 1))
            node.join(list(self.addresses.items()))
            node.set_peers(NETWORK, frozenset("abc"))
            node.publish(NETWORK, ())
            assert name in {member.node_id for member in node.members()}

    def knows(self, name: str, *ips: str) -> bool:
        return [str(each.ip) for each in self.nodes[name].endpoints(NETWORK)] == list(ips)


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    made = Trio()
    await made.start()
    yield made
    for node in made.nodes.values():
        await node.stop()


async def test_an_endpoint_reaches_the_others_and_goes_when_it_is_withdrawn(trio: Trio) -> None:
    trio.nodes["a"].publish(NETWORK, [signed("a", "10.0.1.3")])
    for name in "bc":
        await trio.changes[name].until(lambda name=name: trio.knows(name, "10.0.1.3"))  # type: ignore[misc]
    trio.nodes["a"].leave_network(NETWORK)
    for name in "bc":
        await trio.changes[name].until(lambda name=name: trio.knows(name))  # type: ignore[misc]
    assert trio.knows("a")


async def test_who_leaves_is_known_to_have_left(trio: Trio) -> None:
    trio.nodes["a"].publish(NETWORK, [signed("a", "10.0.1.3")])
    await trio.changes["b"].until(lambda: trio.knows("b", "10.0.1.3"))
    await trio.nodes["a"].leave()
    await trio.changes["b"].until(lambda: trio.knows("b"))
    assert State.DEAD not in {member.state for member in trio.nodes["b"].members()}


async def test_it_reports_the_epochs_that_it_holds() -> None:
    node = Gossip("a", "127.0.0.1:0", "127.0.0.1:7946", lambda _: None)
    node.set_epochs(scope_epochs(NETWORK, 4, 5, current=4))
    assert node.installed(NETWORK) == ((4, 5), 4)
    node.forget(NETWORK)
    assert node.installed(NETWORK) == ((), 0)


async def test_junk_by_udp_is_dropped_and_counted(trio: Trio) -> None:
    before = trio.nodes["b"].members()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for junk in (b"", b"x", bytes(1400), bytes(1401), bytes(60_000)):
            stranger.sendto(junk, split_address(trio.addresses["b"]))
    trio.nodes["a"].publish(NETWORK, [signed("a", "10.0.1.3")])
    await trio.changes["b"].until(lambda: trio.knows("b", "10.0.1.3"))
    counters = trio.nodes["b"].counters()
    assert counters["dropped_oversized"] == 2
    assert counters["dropped_malformed"] >= 2
    assert {m.node_id for m in before} <= {m.node_id for m in trio.nodes["b"].members()}


@pytest.mark.parametrize(
    ("junk", "counter"),
    [
        (struct.pack("!I", 0xFFFFFFFF), "dropped_connections"),
        (struct.pack("!I", 4 * 1024 * 1024 + 1), "dropped_connections"),
        (struct.pack("!I", 100) + bytes(100), "dropped_malformed"),
        (struct.pack("!I", 100) + bytes(10), "dropped_connections"),
        (b"GET", "dropped_connections"),
    ],
)
async def test_junk_by_tcp_gets_a_closed_connection(trio: Trio, junk: bytes, counter: str) -> None:
    reader, writer = await asyncio.open_connection(*split_address(trio.addresses["b"]))
    writer.write(junk)
    writer.write_eof()
    async with asyncio.timeout(5):
        assert len(await reader.read()) == CHALLENGE_BYTES
    assert trio.nodes["b"].counters()[counter] == 1
    writer.close()


async def test_a_silent_connection_is_closed_in_time(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "SYNC_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection(*split_address(trio.addresses["b"]))
    async with asyncio.timeout(5):
        assert len(await reader.read()) == CHALLENGE_BYTES
    writer.close()


async def test_one_host_cannot_take_all_connections(trio: Trio) -> None:
    target = split_address(trio.addresses["b"])
    held = [await asyncio.open_connection(*target) for _ in range(MAX_CONNECTIONS_PER_HOST)]
    reader, writer = await asyncio.open_connection(*target)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    for _, each in [*held, (reader, writer)]:
        each.close()


async def test_an_address_in_use_is_named_with_the_flag(trio: Trio) -> None:
    other = Gossip("d", trio.addresses["a"], trio.addresses["a"], lambda _: None)
    with pytest.raises(FailedPrecondition, match=trio.addresses["a"]) as refused:
        await other.start()
    assert "--gossip-addr" in refused.value.hint


@pytest.mark.parametrize(
    ("address", "parts"),
    [("10.0.0.1:7946", ("10.0.0.1", 7946)), ("[fd00::1]:7946", ("fd00::1", 7946))],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
