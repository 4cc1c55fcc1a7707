"""Joining in a crowd, and rotating more scopes than one command has room for."""

from __future__ import annotations

import asyncio

from tests.unit import local_raft as local
from tests.unit.control_api import NO_CONTEXT, MadeUpManagers, make_api

from swarmnet.api.v1 import ca_pb2, control_pb2
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.timestamps import stamp
from swarmnet.manager.bootstrap import BootstrapService, Issuer
from swarmnet.manager.ca.authority import Authority, new_key, signing_request
from swarmnet.manager.ca.tokens import token_of
from swarmnet.manager.store import Store

CROWD = 50


class SlowRaft(local.LocalRaft):
    """Takes a moment, in which others propose, too."""

    async def propose(self, command: bytes, timeout_s: float = 5.0) -> object:
        await asyncio.sleep(0)
        return await super().propose(command, timeout_s)


def swarm() -> Store:
    made = Store(lambda: local.NOW)
    made.attach(SlowRaft(made))
    local.fill(made.state)
    root = Authority.create("cluster", stamp(local.NOW).ToDatetime())
    local.edit(
        made.state,
        types.Cluster,
        "cluster",
        lambda c: c.MergeFrom(
            types.Cluster(root_certificate_pem=root.root_pem.decode(), root_digest=root.digest)
        ),
    )
    local.edit(
        made.state,
        store.ClusterSecrets,
        "cluster",
        lambda s: s.MergeFrom(
            store.ClusterSecrets(root_key_pem=root.key_pem.reveal(), worker_token_secret=bytes(range(16)))
        ),
    )
    return made


async def test_a_crowd_joins_at_once_each_with_an_index_of_its_own() -> None:
    made = swarm()
    service = BootstrapService(made, Issuer(made, list), lambda: b"")
    secrets = made.state.get(store.ClusterSecrets, "cluster")
    cluster = made.state.cluster()
    assert secrets is not None
    assert cluster is not None
    token = token_of(types.ROLE_WORKER, cluster, secrets).text()
    csr = signing_request(new_key()).decode()
    requests = [
        ca_pb2.IssueCertificateRequest(token=token, csr_pem=csr, hostname=f"w{n}") for n in range(CROWD)
    ]
    await asyncio.gather(*(service.IssueCertificate(each, NO_CONTEXT) for each in requests))
    assert {each.index for each in made.state.all(types.Node)} == set(range(1, CROWD + 1))


async def test_all_of_very_many_scopes_rotate() -> None:
    made = Store()
    made.attach(local.LocalRaft(made))
    count = 4000
    local.fill(made.state)

    def put_scopes(first: int) -> None:
        scopes = [
            types.KeyScope(
                meta=types.Meta(id=f"scope-{n:019}"),
                epochs=[types.Epoch(number=1, role=types.EPOCH_ROLE_CURRENT, created_at=stamp(local.NOW))],
                due_at=stamp(local.NOW + local.PERIOD_S),
                phase_started_at=stamp(local.NOW),
            )
            for n in range(first, first + 1000)
        ]
        local.put(made.state, *scopes)

    for first in range(0, count, 1000):
        put_scopes(first)
    api = make_api(made, MadeUpManagers())
    answer = await api.RotateKeys(control_pb2.RotateKeysRequest(), NO_CONTEXT)
    assert len(answer.scopes) == count + 1
    assert all(each.again for each in made.state.all(types.KeyScope))
