"""The protocol as its user meets it: networks joined and left, the managers' word on peers, syncs."""

from __future__ import annotations

from random import Random

import pytest
from tests.sim.cluster import MANAGERS_KEY, NETWORK, Cluster, scope_epochs, signed

from swarmnet.core.endpoints import public_key
from swarmnet.core.gossip import sync as syncs
from swarmnet.core.gossip.events import MemberChanged, SyncRequest
from swarmnet.core.gossip.limits import MAX_DATAGRAM_BYTES
from swarmnet.core.gossip.protocol import Gossip
from swarmnet.core.keys import GOSSIP_SCOPE

CHALLENGE = bytes(range(16))


def node(name: str, boot: int = 1) -> Gossip:
    made = Gossip(name, address(name), boot=boot, started_ms=1000, randomness=Random(1))
    made.set_epochs(scope_epochs(GOSSIP_SCOPE, 1))
    made.set_endpoint_key(public_key(MANAGERS_KEY))
    return made


def address(name: str) -> str:
    return f"10.9.0.{ord(name[-1])}:7946"


def ask(asker: Gossip, target: str) -> SyncRequest:
    asker.join([(target, address(target))])
    (request,) = asker.take().syncs
    return request


def sync(asker: Gossip, request: SyncRequest, asked: Gossip, now: float = 0.0) -> bytes | None:
    """The reply, which the asker has yet to hear of."""
    payload = asker.sync_begun(request.ticket, CHALLENGE)
    assert payload is not None
    return asked.receive_sync(payload, CHALLENGE, now)


def meet(asker: Gossip, asked: Gossip) -> None:
    request = ask(asker, asked.node_id)
    asker.sync_answered(request.ticket, sync(asker, request, asked), 0.0)


def who(core: Gossip) -> set[str]:
    return {member.node_id for member in core.members()}


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(5, 3)
    made.publish("n000", "10.0.1.3")
    assert made.converges(1.0)
    made.run(0.5)
    return made


def test_a_sync_shows_both_who_is_there() -> None:
    a, b = node("a"), node("b")
    meet(a, b)
    assert who(a) == who(b) == {"a", "b"}


def test_only_the_one_that_was_asked_may_answer() -> None:
    a, c = node("a"), node("c")
    request = ask(a, "b")
    payload = a.sync_begun(request.ticket, CHALLENGE)
    assert payload is not None
    assert c.receive_sync(payload, CHALLENGE, 0.0) is None
    assert c.counters()["dropped_forged"] == 1


def test_the_reply_to_another_request_is_none() -> None:
    a, b = node("a"), node("b")
    first = ask(a, "b")
    reply = sync(a, first, b)
    a.sync_answered(first.ticket, None, 0.0)
    second = ask(a, "b")
    a.sync_begun(second.ticket, CHALLENGE)
    a.sync_answered(second.ticket, reply, 0.0)
    assert who(a) == {"a"}
    assert a.counters()["dropped_malformed"] == 1


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    a, b = node("a"), node("b")
    request = ask(a, "b")
    payload = a.sync_begun(request.ticket, CHALLENGE)
    assert payload is not None
    reply = b.receive_sync(payload, CHALLENGE, 0.0)
    assert reply is not None
    assert a.receive_sync(reply, CHALLENGE, 0.0) is None
    a.sync_answered(request.ticket, payload, 0.0)
    assert who(a) == {"a"}


def test_who_has_the_same_says_little_and_who_lacks_something_gets_it(cluster: Cluster) -> None:
    one, other = cluster.nodes["n000"], cluster.nodes["n001"]
    now = one.clock.read(cluster.now)
    one.core._exchange.ask(GOSSIP_SCOPE, "n001")
    (request,) = one.core.take().syncs
    payload = one.core.sync_begun(request.ticket, CHALLENGE)
    assert payload is not None
    assert len(payload) < 150
    reply = other.core.receive_sync(payload, CHALLENGE, now)
    assert reply is not None
    assert len(reply) < 150
    fresh = node("x")
    meet(fresh, one.core)
    assert who(fresh) == {"x", "n000", "n001", "n002"}


def test_who_leaves_a_network_says_so_even_right_after_other_news() -> None:
    a, b = node("a"), node("b")
    for each in (a, b):
        each.set_epochs(scope_epochs(NETWORK, 1))
        each.set_peers(NETWORK, frozenset("ab"))
        each.publish(NETWORK, (), 0.0)
    meet(a, b)
    endpoints = [signed("a", f"10.0.1.{last}") for last in range(3, 83)]  # more than one datagram holds
    a.publish(NETWORK, endpoints, 1.0)
    for now in (1.0, 1.1, 1.2):
        a.tick(now)
    a.leave_network(NETWORK, 1.201)
    for datagram in a.take().datagrams:
        b.receive(datagram.payload, 1.3)
    assert b.counters()["received"] > 4
    assert b.endpoints(NETWORK) == ()


def test_what_a_member_says_of_itself_is_known_to_all(cluster: Cluster) -> None:
    speaker = cluster.nodes["n001"]
    speaker.core.set_meta(b"rack 7", speaker.clock.read(cluster.now))
    cluster.settle(speaker)
    cluster.run(0.1)
    for each in cluster.nodes.values():
        assert b"rack 7" in {m.meta for m in each.core.members() if m.node_id == "n001"}
    assert MemberChanged("n001") in [event for _, event in cluster.nodes["n000"].events]
    with pytest.raises(ValueError, match="256"):
        speaker.core.set_meta(bytes(257), 0.0)


def test_a_path_that_carries_less_makes_all_datagrams_shorter(cluster: Cluster) -> None:
    longest = 0

    def measure(source: str, target: str, payload: bytes) -> None:
        nonlocal longest
        longest = max(longest, len(payload))

    cluster.on_datagram = measure
    for each in cluster.nodes.values():
        each.core.limit_datagrams(1300)
        each.core.limit_datagrams(1350)
    cluster.publish("n000", *(f"10.0.1.{index + 1}" for index in range(100)))
    assert cluster.converges(3.0)
    assert longest <= 1300
    for each in cluster.nodes.values():
        each.core.limit_datagrams(68)  # no path of IP's carries less than this, and nobody can use it
    cluster.publish("n001", *(f"10.0.2.{index + 1}" for index in range(100)))
    assert cluster.converges(3.0)


def test_without_keys_nothing_is_said() -> None:
    mute = Gossip("a", "10.9.0.97:7946", boot=1, started_ms=1, randomness=Random(1))
    mute.start(0.0)
    mute.join([("b", "10.9.0.98:7946")])
    mute.publish(NETWORK, [signed("a", "10.0.1.3")], 0.0)
    for now in range(20):
        mute.tick(float(now))
    out = mute.take()
    assert (out.datagrams, out.syncs) == ([], [])


def test_the_seeds_are_tried_as_soon_as_the_key_is_there() -> None:
    late = Gossip("a", "10.9.0.97:7946", boot=1, started_ms=1, randomness=Random(1))
    late.join([("b", "10.9.0.98:7946")])
    late.set_epochs(scope_epochs(GOSSIP_SCOPE, 1))
    assert [request.address for request in late.take().syncs] == ["10.9.0.98:7946"]


def test_a_seed_that_does_not_answer_is_asked_again_and_again() -> None:
    a = node("a")
    a.start(0.0)
    unanswered, now, asked = [ask(a, "b")], 0.0, 0
    while asked < 5:
        for request in unanswered:
            a.sync_answered(request.ticket, None, now)
        now = a.next_deadline()
        a.tick(now)
        unanswered = a.take().syncs
        asked += len(unanswered)
    assert now < 4.0


def test_leaving_a_network_withdraws_its_endpoints_at_once(cluster: Cluster) -> None:
    node = cluster.nodes["n000"]
    node.published = ()
    node.core.leave_network(NETWORK, node.clock.read(cluster.now))
    cluster.settle(node)
    assert cluster.run(0.05, cluster.agree_on_endpoints)
    assert cluster.nodes["n000"].core.endpoints(NETWORK) == ()


def test_a_node_that_the_managers_take_off_the_network_loses_its_endpoints_there(cluster: Cluster) -> None:
    """Even when its goodbye was lost."""
    core = cluster.nodes["n001"].core
    core.set_peers(NETWORK, frozenset({"n002"}))
    assert core.endpoints(NETWORK) == ()


def test_nothing_of_a_network_goes_to_nodes_that_are_not_on_it(cluster: Cluster) -> None:
    sent: list[tuple[str, bytes]] = []
    cluster.nodes["n000"].core.set_peers(NETWORK, frozenset({"n001"}))
    cluster.settle(cluster.nodes["n000"])
    cluster.nodes["n002"].core.forget(NETWORK)
    cluster.on_datagram = lambda source, target, payload: sent.append((target, payload))
    cluster.publish("n000", "10.0.1.4")
    assert [target for target, _ in sent] == ["n001"]


def test_a_forgotten_network_is_not_known_any_more(cluster: Cluster) -> None:
    core = cluster.nodes["n001"].core
    core.forget(NETWORK)
    assert core.endpoints(NETWORK) == ()
    assert core.installed(NETWORK) == ((), 0)
    cluster.publish("n000", "10.0.1.4")
    cluster.run(0.5)
    assert core.counters()["dropped_unknown_scope"] > 0


def test_no_datagram_is_longer_than_allowed() -> None:
    cluster = Cluster(5)
    cluster.peers = frozenset(f"n{index:03}" for index in range(30))
    longest = 0

    def measure(source: str, target: str, payload: bytes) -> None:
        nonlocal longest
        longest = max(longest, len(payload))

    cluster.on_datagram = measure
    for name in sorted(cluster.peers):
        cluster.start(name)
    cluster.publish("n000", *(f"10.0.1.{index + 1}" for index in range(100)))
    assert cluster.converges(3.0)
    assert MAX_DATAGRAM_BYTES - 450 < longest <= MAX_DATAGRAM_BYTES


def test_one_node_is_asked_once_at_a_time_and_few_at_once() -> None:
    tickets = syncs.Tickets()
    first = tickets.issue("net", "a")
    assert first is not None
    assert tickets.issue("net", "a") is None
    assert [tickets.issue("net", other) is None for other in "bcde"] == [False, False, False, True]
    assert tickets.issue(GOSSIP_SCOPE, "a") is not None
    assert tickets.redeem(first.number) == first
    assert tickets.redeem(first.number) is None
    assert tickets.issue("net", "a") is not None


def test_a_sync_carries_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncs, "_ROOM", 10)
    assert syncs.fitting([b"aaaa", b"bbbb", b"cccc"]) == b"aaaabbbb"
    assert syncs.fitting([b"aaaa", b"bbbb", b"cccc"], taken=3) == b"aaaa"
