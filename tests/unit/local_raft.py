"""A swarm of one manager in memory: what the control loops need, without Raft, disks or clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.core.state import Applied, M, State, Transaction
from swarmnet.core.timestamps import duration, stamp
from swarmnet.manager.keymanager import create_scope
from swarmnet.manager.loop import Plan
from swarmnet.manager.store import Store

T = TypeVar("T")
NOW = 1_700_000_000.0
PERIOD_S = 12 * 3600.0


class LocalRaft:
    """Applies what is proposed at once; `failures` are raised first, one for each proposal."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failures: list[SwarmnetError] = []

    async def propose(self, command: bytes, timeout_s: float = 5.0) -> object:
        if self.failures:
            raise self.failures.pop(0)
        return self._store.apply(self._store.state.index + 1, command)

    async def read_barrier(self, timeout_s: float = 5.0) -> None:
        pass


def commit(state: State, decide: Callable[[Transaction], T], now: float = NOW) -> T:
    """One transaction, applied."""
    transaction = Transaction(state)
    result = decide(transaction)
    if (command := transaction.command(stamp(now))) is not None:
        raw = command.SerializeToString()
        assert len(raw) <= MAX_COMMAND_BYTES
        outcome = state.apply(state.index + 1, raw)
        assert isinstance(outcome, Applied), outcome
    return result


def settle(state: State, *plans: Plan, now: float = NOW) -> float | None:
    """Run the plans by turns until none changes anything; the earliest time that one wants to run again."""
    for _ in range(200):
        before = state.index
        due = [commit(state, lambda t, plan=plan: plan(t, now), now) for plan in plans]  # type: ignore[misc]
        if state.index == before:
            return min((each for each in due if each is not None), default=None)
    raise AssertionError("the plans never come to rest")


def put(state: State, *objects: object) -> None:
    def decide(transaction: Transaction) -> None:
        for each in objects:
            transaction.put(each)  # type: ignore[arg-type]

    commit(state, decide)


def edit(state: State, kind: type[M], id_: str, change: Callable[[M], object]) -> None:
    """Change one object in place, as its own transaction."""

    def decide(transaction: Transaction) -> None:
        found = transaction.get(kind, id_)
        assert found is not None
        changed = transaction.edit(found)
        change(changed)
        transaction.put(changed)

    commit(state, decide)


def remove(state: State, kind: type[M], id_: str) -> None:
    def decide(transaction: Transaction) -> None:
        found = transaction.get(kind, id_)
        assert found is not None
        transaction.remove(found)

    commit(state, decide)


def node(name: str, index: int, **fields: object) -> types.Node:
    """A ready worker with ESP and the image "host", id "node-NAME"."""
    made = types.Node(
        meta=types.Meta(id=f"node-{name}"),
        role=types.ROLE_WORKER,
        hostname=name,
        index=index,
        state=types.NODE_STATE_READY,
        address=f"192.0.2.{index}:7946",
        data_path_address=f"192.0.2.{index}",
        capabilities=types.NodeCapabilities(esp=True, images=["host"], kernel="6.1", executors=["process"]),
    )
    made.MergeFrom(types.Node(**fields))  # type: ignore[arg-type]
    return made


def network(name: str, cidr: str = "10.0.1.0/24", index: int = 1, *, encrypted: bool = True) -> types.Network:
    """Allocated, id "net-NAME"."""
    return types.Network(
        meta=types.Meta(id=f"net-{name}"),
        name=name,
        driver="overlay",
        encrypted=encrypted,
        subnets=[types.Subnet(cidr=cidr, gateway="")],
        index=index,
        vni=4096 + index,
        port=20000 + index,
    )


def service(name: str, replicas: int = 1, networks: Iterable[str] = (), **spec: object) -> types.Service:
    """Replicated, id "svc-NAME", image "host"."""
    made = types.ServiceSpec(name=name, image="host", replicas=replicas, networks=networks)
    made.MergeFrom(types.ServiceSpec(**spec))  # type: ignore[arg-type]
    return types.Service(meta=types.Meta(id=f"svc-{name}"), spec=made, spec_version=1)


def fill(state: State, *objects: object) -> None:
    """A cluster with its secrets and the gossip scope, and these objects; networks get their key scopes."""
    put(
        state,
        types.Cluster(
            meta=types.Meta(id="cluster"),
            endpoint_public_key=bytes(32),
            key_rotation_period=duration(PERIOD_S),
            rotation_deadline=duration(300),
        ),
        store.ClusterSecrets(meta=types.Meta(id="cluster"), endpoint_private_key=bytes(range(32))),
        *objects,
    )
    scopes = [GOSSIP_SCOPE, *(each.meta.id for each in state.all(types.Network))]
    for scope in scopes:
        commit(state, lambda t, scope=scope: create_scope(t, scope, NOW, PERIOD_S))  # type: ignore[misc]


def tasks(state: State, *, ended: bool = False) -> list[types.Task]:
    """Those that have not ended, or all."""
    return [t for t in state.all(types.Task) if ended or t.state < types.TASK_STATE_COMPLETE]


def report(state: State, task_id: str, to: types.TaskState.ValueType) -> None:
    """As if the worker had reported it."""
    edit(state, types.Task, task_id, lambda t: setattr(t, "state", to))
