"""Hostile bytes at every parser of gossip: datagram, stream frame, table entry, signature.

Any bytes whatsoever leave the state as it was, cost at most one decryption, and are counted by their reason.
How long each target runs is FUZZ_SECONDS (`make fuzz SECONDS=600`); the seed is FUZZ_SEED.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import MANAGERS_KEY, NETWORK, Cluster, scope_epochs, shared_cipher, signed

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint, public_key, verify
from swarmnet.core.gossip import messages
from swarmnet.core.gossip.limits import MAX_DATAGRAM_BYTES
from swarmnet.core.gossip.members import State
from swarmnet.core.gossip.names import Malformed
from swarmnet.core.gossip.seal import Sealer, receiver
from swarmnet.core.gossip.verify import Verifier
from swarmnet.core.keys import GOSSIP_SCOPE, EpochSecret

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
CHALLENGE = bytes(16)


class Opened:
    """Counts decryptions: a cipher in place of the real one."""

    def __init__(self) -> None:
        self.count = 0

    def derive(self, secret: EpochSecret, sender: str) -> object:
        cipher, opened = shared_cipher(secret, sender), self

        class Counting:
            def encrypt(self, *arguments: bytes) -> bytes:
                return cipher.encrypt(*arguments)

            def decrypt(self, *arguments: bytes) -> bytes:
                opened.count += 1
                return cipher.decrypt(*arguments)

        return Counting()


class Target:
    """A node n000 among others, what they said to it, and how much it has opened."""

    def __init__(self) -> None:
        self.recorded: list[bytes] = []
        self.opened = Opened()
        cluster = Cluster(1, 3)
        cluster.on_datagram = lambda source, target, payload: self._record(target, payload)
        self.core = cluster.nodes["n000"].core
        self.core._sealer._derive = self.opened.derive  # type: ignore[assignment]
        cluster.publish("n001", "10.0.1.3")
        cluster.run(4.0)
        self.core._sealer._channels.drop_ciphers(b"")
        self.boots = {member.node_id: member.boot for member in self.core.members()}
        self.cluster = cluster

    def _record(self, target: str, payload: bytes) -> None:
        if target == "n000":
            self.recorded.append(payload)

    def state(self) -> object:
        core = self.core
        return (
            core.members(),
            core.endpoints(NETWORK),
            core.next_deadline(),
            core.sizes(),
            core.installed(NETWORK),
        )

    def dropped(self) -> int:
        return sum(value for name, value in self.core.counters().items() if name.startswith("dropped_"))

    def insider(self, name: str = "n002") -> Sealer:
        """A worker that has turned bad: it holds the keys of all scopes, and so any other's, too."""
        bad = Sealer(name, self.boots[name])
        bad._counter = 1 << 40
        for scope in (GOSSIP_SCOPE, NETWORK):
            bad.set_epochs(scope_epochs(scope, 1))
        return bad


@cache
def target() -> Target:
    return Target()


def mutated(random: Random, samples: list[bytes]) -> bytes:
    """Junk, or something that was real, changed in one of the usual ways."""
    if random.random() < 0.2:
        return random.randbytes(random.randrange(MAX_DATAGRAM_BYTES + 1))
    data = bytearray(random.choice(samples))
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0 if place < len(data):
                data[place] ^= 1 << random.randrange(8)
            case 1 if place < len(data):
                data[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del data[place:]
            case 3:
                data[place:place] = random.randbytes(random.randint(1, 9))
            case _:
                other = random.choice(samples)
                data[place:] = other[random.randrange(len(other) + 1) :]
        if not data:
            return b""
    return bytes(data)


def rounds() -> Iterator[Random]:
    """One randomness for each round until the time is over."""
    end, random = time.monotonic() + SECONDS, Random(SEED)
    while time.monotonic() < end:
        yield random


def test_datagrams_that_nobody_sealed() -> None:
    node, count = target(), 0
    before, samples = node.state(), node.recorded
    for random in rounds():
        junk = mutated(random, samples)
        dropped, opened = node.dropped(), node.opened.count
        node.core.receive(junk, 10.0)
        assert node.dropped() == dropped + 1, junk
        assert node.opened.count <= opened + 1, junk
        count += 1
    assert node.state() == before
    assert count > 100


def test_streams_that_nobody_sealed() -> None:
    node, count = target(), 0
    request = node.insider().seal_request(GOSSIP_SCOPE, b"", "n000", CHALLENGE)
    reply = node.insider().seal_reply(NETWORK, b"", receiver("n000", 1), CHALLENGE)
    before = node.state()
    for random in rounds():
        junk = mutated(random, [request, reply, *node.recorded])
        if junk == request:
            continue
        dropped, opened = node.dropped(), node.opened.count
        assert node.core.receive_sync(junk, CHALLENGE, 10.0) is None, junk
        assert node.dropped() == dropped + 1, junk
        assert node.opened.count <= opened + 1, junk
        count += 1
    assert node.state() == before
    assert count > 100


def test_bodies_that_an_insider_has_sealed() -> None:
    """They are opened; none raises, and none plants an endpoint or kills anybody."""
    node, count = Target(), 0
    entry, signature = signed("n001", "10.0.1.3")
    samples = [
        pb.ClusterDatagram(
            ping=pb.Ping(sequence=7, members=9, network=8, table=7),
            rumors=[messages.of_rumor(each) for each in node.core.members()],
        ).SerializeToString(),
        pb.ClusterDatagram(ping_request=pb.PingRequest(sequence=7, target=b"n001")).SerializeToString(),
        pb.NetworkDatagram(
            deltas=[_delta(entry, signature)],
            vector=pb.Vector(owners=[1, 2], times=[3, 4], answer=True),
        ).SerializeToString(),
        pb.ClusterSync(ticket=1, members=3).SerializeToString(),
        pb.NetworkSync(ticket=1, vector=pb.Vector(owners=[1], times=[2])).SerializeToString(),
    ]
    bad, to = node.insider(), receiver("n000", node.boots["n000"])
    for random in rounds():
        body, scope = mutated(random, samples), random.choice([GOSSIP_SCOPE, NETWORK])
        node.core.receive(bad.seal(scope, body, to), 10.0)
        node.core.receive_sync(bad.seal_request(scope, body, "n000", CHALLENGE), CHALLENGE, 10.0)
        node.core.take()
        count += 1
    assert {each.ip.compressed for each in node.core.endpoints(NETWORK)} <= {"10.0.1.3"}
    assert node.core.members()[0].state is State.ALIVE
    assert count > 100


def test_table_entries_and_signatures() -> None:
    endpoint, signature = signed("n001", "10.0.1.3")
    verifier, key, real = Verifier(), public_key(MANAGERS_KEY), _delta(endpoint, signature)
    verifier.set_key(key)
    accepted = 0
    for random in rounds():
        raw = mutated(random, [real])
        try:
            told = messages.delta(NETWORK, raw)
        except Malformed:
            continue
        for entry in told.entries:
            if entry.endpoint is not None and verifier.believes(entry.endpoint, entry.signature):
                assert (entry.endpoint, entry.signature) == (endpoint, signature), raw
                accepted += 1
    assert accepted


def test_signatures_in_any_form() -> None:
    endpoint, signature = signed("n001", "10.0.1.3")
    key = public_key(MANAGERS_KEY)
    for random in rounds():
        junk = mutated(random, [signature])
        assert verify(key, endpoint, junk) == (junk == signature), junk


def _delta(endpoint: Endpoint, signature: bytes) -> bytes:
    entry = pb.TableEntry(task_id=endpoint.task_id.encode(), ip=endpoint.ip.packed, signature=signature)
    owner = endpoint.node_id.encode()
    return pb.TableDelta(owner=owner, until=1 << 41, span=9, entries=[entry]).SerializeToString()


@given(st.binary(max_size=200))
def test_junk_changes_nothing_and_is_counted(junk: bytes) -> None:
    node = target()
    before, count = node.state(), node.dropped()
    node.core.receive(junk, 10.0)
    assert node.core.receive_sync(junk, CHALLENGE, 10.0) is None
    assert (node.state(), node.dropped()) == (before, count + 2)


PARSERS: list[Callable[[bytes], object]] = [
    messages.rumor,
    lambda junk: messages.delta(NETWORK, junk),
    lambda junk: messages.parse(pb.ClusterDatagram, junk),
    lambda junk: messages.parse(pb.NetworkDatagram, junk),
    lambda junk: messages.parse(pb.ClusterSync, junk),
    lambda junk: messages.parse(pb.NetworkSync, junk),
]


@pytest.mark.parametrize("parser", PARSERS)
@given(junk=st.binary(max_size=200))
def test_a_parser_says_malformed_and_nothing_else(parser: Callable[[bytes], object], junk: bytes) -> None:
    with contextlib.suppress(Malformed):
        parser(junk)
