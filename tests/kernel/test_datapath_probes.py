"""Probes between two hosts in the ESP kernel: encrypted ones are proved, ones in clear are caught."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.hosts import NETWORK, Host, Lab, desired

from swarmnet.core.errors import FailedPrecondition
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.probes import PROBES, PeerProbes

pytestmark = pytest.mark.kernel
PROVED = (PROBES, PROBES, PROBES, PROBES, PROBES, 0, 0)


@pytest.fixture(params=[(4, False), (6, True)], ids=["ipv4", "ipv6 in udp"])
def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    version, encap = request.param
    lab = Lab(tmp_path, version)
    try:
        one, two = lab.host("w1"), lab.host("w2")
        for host, other in ((one, two), (two, one)):
            assert host.apply(replace(desired(host, other), encap=encap)).networks[NETWORK].error == ""
        yield one, two
    finally:
        lab.close()


def probe(hosts: tuple[Host, Host]) -> list[PeerProbes]:
    """Both at the same time, as the managers have it done."""
    started = [asyncio.run_coroutine_threadsafe(h.datapath.probe(NETWORK), h._loop) for h in hosts]
    return [found for future in started for found in future.result(30)]


def counts(found: PeerProbes) -> tuple[int, ...]:
    return (
        found.sent,
        found.encrypted,
        found.seen_out,
        found.seen_in,
        found.decrypted,
        found.plaintext_out,
        found.plaintext_in,
    )


def test_encrypted_both_ways(hosts: tuple[Host, Host]) -> None:
    first, second = probe(hosts)
    assert (counts(first), counts(second)) == (PROVED, PROVED)
    (network,) = hosts[0].run(hosts[0].datapath.tunnels())
    (tunnel,) = network.tunnels
    assert (network.sending, network.guarded) == (1, True)
    assert tunnel.outbound is not None
    assert tunnel.inbound is not None
    assert (tunnel.outbound.packets, tunnel.inbound.packets) == (PROBES, PROBES)
    assert tunnel.outbound.added_at > 1_700_000_000


def test_without_policies_nothing_leaves_and_without_guards_it_is_caught_in_clear(
    hosts: tuple[Host, Host],
) -> None:
    one, _ = hosts
    netlink = one.xfrm()
    netlink.execute(*(xfrm.delete_policy(each) for each in xfrm.list_policies(netlink)))
    netlink.close()
    first, second = probe(hosts)
    assert counts(first)[1:3] == (0, 0)
    assert counts(second)[3:5] == (0, 0)
    guard = one.datapath._guard
    assert guard is not None
    one.run(guard.remove())
    first, second = probe(hosts)
    assert (first.plaintext_out, second.plaintext_in) == (PROBES, PROBES)


def test_a_network_that_is_not_here_is_refused(hosts: tuple[Host, Host]) -> None:
    with pytest.raises(FailedPrecondition, match="not an encrypted network on this node"):
        hosts[0].run(hosts[0].datapath.probe("another"))
