"""Rotations of the root in every order with everything else: at any time any two nodes believe each other."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import pytest
from tests.unit import local_raft as local
from tests.unit.test_root_rotation import A, B, C, begin, cluster, held, run, swarm

from swarmnet.api.v1 import ca_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.certificates import is_anchored
from swarmnet.manager.bootstrap import note_certificate
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.roots import issuing, trusted_roots, wanted_root
from swarmnet.manager.identity import CallerRole

NOW = datetime.now(UTC)
STEPS = 500
KEY = new_key()
CSR = signing_request(KEY)
believes = cache(is_anchored)


class Story:
    """What each node has on its disk, beside the managers' state."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.made = swarm()
        self.have: dict[str, Credentials] = {}
        self.names = 0
        self.ended = 0
        for _ in range(4):
            self.join()

    def issue(self, name: str) -> Credentials:
        now = issuing(cluster(self.made.state), held(self.made.state))
        subject = Subject(f"node-{name}", CallerRole.WORKER, "cluster")
        issued = now.authority.issue(CSR, subject, NOW, now.lifetime_s)
        return Credentials(issued + now.chain_pem, private_pem(KEY), now.roots_pem)

    def anybody(self) -> str:
        return self.rng.choice(sorted(self.have))

    def join(self) -> None:
        if len(self.have) < 6:
            self.names += 1
            name = f"n{self.names}"
            self.have[name] = self.issue(name)
            node = local.node(name, self.names, certificate_root=wanted_root(cluster(self.made.state)))
            local.put(self.made.state, node)

    def leave(self) -> None:
        if len(self.have) > 2:
            name = self.anybody()
            del self.have[name]
            local.remove(self.made.state, types.Node, f"node-{name}")

    def follow(self) -> None:
        """As a node does what it hears from the leader, killed in between at times."""
        name = self.anybody()
        told = replace(self.have[name], root_pem=trusted_roots(cluster(self.made.state)))
        killed_between_roots_and_certificate = self.rng.random() < 0.2
        if told.is_current() or killed_between_roots_and_certificate:
            self.have[name] = told
        else:
            self.have[name] = self.issue(name)

    def report(self, name: str = "") -> None:
        name = name or self.anybody()
        mine = self.have[name]
        request = ca_pb2.ReportCertificateRequest(
            certificate_pem=mine.certificate_pem.decode(), root_certificate_pem=mine.root_pem.decode()
        )
        now = cluster(self.made.state)
        local.edit(
            self.made.state, types.Node, f"node-{name}", lambda each: note_certificate(each, now, request)
        )

    def look(self) -> None:
        """The leader, whoever that is."""
        before = cluster(self.made.state).root_digest
        run(self.made)
        self.ended += cluster(self.made.state).root_digest != before

    def rotate(self) -> None:
        if self.rng.random() < 0.08:
            begin(self.made, self.rng.choice((A, B, C, Authority.create("cluster", NOW))))

    def check(self) -> None:
        for one in self.have.values():
            for other in self.have.values():
                assert believes(one.certificate_pem, other.root_pem)

    def settle(self) -> None:
        for name in self.have:
            self.have[name] = self.issue(name)
            self.report(name)
        self.look()
        for name in self.have:
            told = trusted_roots(cluster(self.made.state))
            self.have[name] = replace(self.have[name], root_pem=told)
        self.check()


@pytest.mark.parametrize("seed", range(8))
def test_any_two_nodes_believe_each_other_at_any_time(seed: int) -> None:
    story = Story(seed)
    actions = (story.follow, story.report, story.follow, story.report, story.look, story.join, story.leave)
    for _ in range(STEPS):
        story.rng.choice((*actions, story.rotate))()
        story.check()
    assert story.ended > 0
    story.settle()
    now = cluster(story.made.state)
    assert not now.HasField("root_rotation")
    assert {each.certificate_root for each in story.made.state.all(types.Node)} == {now.root_digest}
