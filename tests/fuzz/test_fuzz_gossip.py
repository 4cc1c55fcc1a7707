"""Hostile bytes: from strangers without a key, and from a worker that has the keys and turned bad."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import NETWORK, Cluster, scope_epochs, signed

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.members import State
from swarmnet.core.gossip.messages import of_entry
from swarmnet.core.gossip.protocol import Gossip
from swarmnet.core.gossip.seal import Kind, Sealer
from swarmnet.core.gossip.table import Entry
from swarmnet.core.keys import GOSSIP_SCOPE

SOMEWHERE = "10.6.6.6:1"


@cache
def recordings() -> tuple[bytes, ...]:
    """What three nodes said to each other in some seconds."""
    seen: list[bytes] = []
    cluster = Cluster(1, 3)
    cluster.on_datagram = lambda source, target, payload: seen.append(payload)
    cluster.publish("n001", "10.0.1.3")
    cluster.run(4.0)
    return tuple(seen)


@cache
def node() -> Gossip:
    cluster = Cluster(1, 3)
    cluster.publish("n001", "10.0.1.3")
    assert cluster.converges(2.0)
    return cluster.nodes["n000"].core


def state(core: Gossip) -> object:
    return core.members(), core.endpoints(NETWORK), core.next_deadline()


def dropped(core: Gossip) -> int:
    return sum(value for name, value in core.counters().items() if name.startswith("dropped_"))


def sealed(body: bytes, kind: Kind = Kind.DATAGRAM, scope: str = GOSSIP_SCOPE) -> bytes:
    """By a worker n002 that has turned bad; each time with a boot of its own, so nothing is a replay."""
    sealed.boot += 1  # type: ignore[attr-defined]
    bad = Sealer("n002", sealed.boot)  # type: ignore[attr-defined]
    bad.set_epochs(scope_epochs(scope, 1))
    return bad.seal(scope, kind, body)


sealed.boot = 0  # type: ignore[attr-defined]


@given(st.binary(max_size=200))
def test_junk_changes_nothing_and_is_counted(junk: bytes) -> None:
    before, count = state(node()), dropped(node())
    node().receive(junk, SOMEWHERE, 10.0)
    assert node().receive_sync(junk, 10.0) is None
    assert (state(node()), dropped(node())) == (before, count + 2)


@given(st.data())
def test_a_changed_recording_changes_nothing_and_is_counted(data: st.DataObject) -> None:
    datagram = bytearray(data.draw(st.sampled_from(recordings())))
    position = data.draw(st.integers(0, len(datagram) - 1))
    datagram[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(position + 1, len(datagram)))
    before, count = state(node()), dropped(node())
    node().receive(bytes(datagram[:cut]), SOMEWHERE, 10.0)
    assert (state(node()), dropped(node())) == (before, count + 1)


@given(st.binary(max_size=120), st.sampled_from(Kind), st.sampled_from([GOSSIP_SCOPE, NETWORK]))
def test_a_sealed_body_that_is_none_raises_nothing(body: bytes, kind: Kind, scope: str) -> None:
    members = {member.node_id for member in node().members()}
    node().receive(sealed(body, kind, scope), SOMEWHERE, 10.0)
    node().receive_sync(sealed(body, kind, scope), 10.0)
    node().sync_answered(1, sealed(body, kind, scope), 10.0)
    assert {member.node_id for member in node().members()} == members


rumors = st.builds(
    pb.Rumor,
    node_id=st.sampled_from(["n000", "n001", "n002", "", "x\ny"]),
    address=st.sampled_from(["10.0.0.9:7946", "evil.example:7946", ""]),
    incarnation=st.integers(0, 2**64 - 1),
    state=st.integers(0, 9),
    suspected_by=st.sampled_from(["", "n001", "\x00"]),
)
table_entries = st.builds(
    pb.TableEntry,
    node_id=st.sampled_from(["n000", "n001", "n002", "n009", ""]),
    task_id=st.sampled_from(["task-10.0.1.3", "t", ""]),
    time=st.integers(0, 2**64 - 1),
    deleted=st.booleans(),
    ip=st.sampled_from([b"", bytes(4), bytes(5), bytes(16)]),
    mac=st.sampled_from([b"", bytes(6)]),
    signature=st.sampled_from([b"", bytes(64)]),
)


@given(st.lists(rumors, max_size=4), st.lists(table_entries, max_size=4), st.integers(0, 2**64 - 1))
def test_no_well_formed_lie_raises_or_plants_an_endpoint(
    lies: list[pb.Rumor], entries: list[pb.TableEntry], digest: int
) -> None:
    core = Cluster(1, 3).nodes["n000"].core
    for body, scope in (
        (pb.ClusterDatagram(rumors=lies).SerializeToString(), GOSSIP_SCOPE),
        (pb.NetworkDatagram(entries=entries, digest=digest).SerializeToString(), NETWORK),
    ):
        core.receive(sealed(body, scope=scope), SOMEWHERE, 10.0)
    core.receive_sync(
        sealed(pb.ClusterSync(rumors=lies).SerializeToString(), Kind.SYNC_REQUEST, GOSSIP_SCOPE), 10.0
    )
    core.receive_sync(
        sealed(pb.NetworkSync(entries=entries).SerializeToString(), Kind.SYNC_REQUEST, NETWORK), 10.0
    )
    core.tick(10.0)
    assert core.endpoints(NETWORK) == ()
    assert core.members()[0].state is State.ALIVE


class BadWorker:
    """n002 with all its keys, in a cluster where n001 runs a task."""

    def __init__(self) -> None:
        self.cluster = Cluster(7, 4)
        self.cluster.publish("n001", "10.0.1.3")
        assert self.cluster.converges(2.0)
        self.cluster.run(2.0)

    def says(self, target: str, body: bytes, scope: str) -> None:
        node = self.cluster.nodes[target]
        node.core.receive(sealed(body, scope=scope), self.cluster.nodes["n002"].address, self.cluster.now)
        self.cluster.settle(target)

    def gossips(self, *entries: Entry) -> None:
        body = pb.NetworkDatagram(entries=[of_entry(each) for each in entries]).SerializeToString()
        for target in ("n000", "n003"):
            self.says(target, body, NETWORK)

    def accuses(self, rumor: pb.Rumor) -> None:
        body = pb.ClusterDatagram(rumors=[rumor]).SerializeToString()
        for target in ("n000", "n003"):
            self.says(target, body, GOSSIP_SCOPE)


@pytest.fixture
def bad() -> BadWorker:
    return BadWorker()


FAR_AHEAD = 1_800_000_000_000


def test_an_address_that_was_given_to_another_cannot_be_taken_over(bad: BadWorker) -> None:
    real, signature = signed("n001", "10.0.1.3")
    mine = Endpoint(NETWORK, "task-of-mine", real.ip, real.mac, "n002")
    for owner, endpoint in (("n002", mine), ("n001", mine), ("n002", real)):
        bad.gossips(Entry(owner, endpoint.task_id, FAR_AHEAD, endpoint, signature))
    assert bad.cluster.agree_on_endpoints()
    assert bad.cluster.nodes["n000"].core.counters()["dropped_unsigned_endpoint"] == 3


def test_anothers_endpoint_that_was_deleted_is_put_back_by_its_owner(bad: BadWorker) -> None:
    bad.gossips(Entry("n001", "task-10.0.1.3", FAR_AHEAD))
    assert bad.cluster.nodes["n000"].core.endpoints(NETWORK) == ()
    assert bad.cluster.run(0.1, bad.cluster.agree_on_endpoints)
    assert bad.cluster.nodes["n001"].core.counters()["entries_refuted"] == 1


@pytest.mark.parametrize("lie", [pb.MEMBER_STATE_SUSPECT, pb.MEMBER_STATE_DEAD, pb.MEMBER_STATE_LEFT])
def test_nobody_is_talked_dead(bad: BadWorker, lie: pb.MemberState.ValueType) -> None:
    victim = next(m for m in bad.cluster.nodes["n000"].core.members() if m.node_id == "n001")
    for number in range(5):
        bad.accuses(
            pb.Rumor(
                node_id="n001",
                address=victim.address,
                incarnation=FAR_AHEAD + number,
                state=lie,
                suspected_by=f"n00{number}",
            )
        )
        assert bad.cluster.run(0.5, bad.cluster.agree)
    events = [event for node in bad.cluster.nodes.values() for event in node.events]
    assert not [event for event in events if type(event).__name__ == "MemberDown"]


def test_anothers_address_that_was_bent_is_set_right(bad: BadWorker) -> None:
    lie = pb.Rumor(
        node_id="n001", address="10.66.66.66:7946", incarnation=FAR_AHEAD, state=pb.MEMBER_STATE_ALIVE
    )
    bad.accuses(lie)

    def right() -> bool:
        return all(
            member.address == bad.cluster.nodes["n001"].address
            for name in bad.cluster.nodes
            for member in bad.cluster.nodes[name].core.members()
            if member.node_id == "n001"
        )

    assert not right()
    assert bad.cluster.run(8.0, lambda: right() and bad.cluster.agree())


def test_an_old_endpoint_of_the_victims_own_cannot_be_revived(bad: BadWorker) -> None:
    """Signed by the managers, withdrawn since: the owner denies it."""
    endpoint, signature = signed("n001", "10.0.1.3")
    bad.cluster.publish("n001")
    assert bad.cluster.converges(2.0)
    bad.gossips(Entry("n001", endpoint.task_id, FAR_AHEAD, endpoint, signature))
    assert bad.cluster.nodes["n000"].core.endpoints(NETWORK) == (endpoint,)
    assert bad.cluster.run(2.0, bad.cluster.agree_on_endpoints)
