"""The dispatcher's picture of the state, kept up with changes: always what a new one would be."""

from __future__ import annotations

import random

import pytest
from tests.unit import local_raft as local

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.state import Event, State
from swarmnet.manager.dispatcher_assignment import KINDS, Picture
from swarmnet.manager.keymanager import request_rotation
from swarmnet.manager.store import Store

NODES, NETWORKS, TASKS = 6, 4, 12


def world() -> Store:
    made = Store()
    local.fill(
        made.state,
        *(local.node(f"w{n}", n) for n in range(1, NODES)),
        *(local.network(f"n{n}", f"10.0.{n}.0/24", n) for n in range(1, NETWORKS)),
        local.service("web"),
    )
    return made


def assignments(picture: Picture, state: State) -> dict[str, dispatcher.Assignment]:
    nodes = (picture.node(each.meta.id) for each in state.all(types.Node))
    return {node.meta.id: picture.assignment(node) for node in nodes if node is not None}


def change(state: State, rng: random.Random) -> None:
    """Something that happens in a swarm."""
    node_id, network_id = f"node-w{rng.randrange(1, NODES)}", f"net-n{rng.randrange(1, NETWORKS)}"
    task_id = f"t{rng.randrange(TASKS)}"
    node, task = state.get(types.Node, node_id), state.get(types.Task, task_id)
    what = rng.randrange(9)
    if what == 0 and node is not None:
        local.edit(state, types.Node, node_id, lambda n: setattr(n, "message", f"said {rng.random()}"))
    elif what == 1 and node is not None:
        flag = rng.choice(["fenced", "drained_by_force"])
        local.edit(state, types.Node, node_id, lambda n: setattr(n, flag, not getattr(n, flag)))
    elif what == 2 and node is not None:
        states = [types.NODE_STATE_READY, types.NODE_STATE_DOWN]
        local.edit(state, types.Node, node_id, lambda n: setattr(n, "state", rng.choice(states)))
    elif what == 3:
        if node is None:
            local.put(state, local.node(node_id.removeprefix("node-"), int(node_id[-1])))
        elif rng.random() < 0.3:
            local.remove(state, types.Node, node_id)
    elif what == 4 and task is None:
        networks = sorted({network_id, f"net-n{rng.randrange(1, NETWORKS)}"})
        local.put(
            state,
            types.Task(
                meta=types.Meta(id=task_id),
                service_id="svc-web",
                node_id=node_id,
                state=types.TASK_STATE_ASSIGNED,
                spec=types.ServiceSpec(networks=networks),
            ),
        )
    elif what == 5 and task is not None:
        after = rng.choice([types.TASK_STATE_RUNNING, types.TASK_STATE_FAILED])
        local.report(state, task_id, after)
    elif what == 6 and task is not None:
        local.remove(state, types.Task, task_id)
    elif what == 7 and state.get(types.KeyScope, network_id) is not None:
        local.commit(state, lambda t: request_rotation(t, [network_id], "requested"))
        step = rotation.number_of(state.get(types.KeyScope, network_id), types.EPOCH_ROLE_CURRENT)  # type: ignore[arg-type]
        local.edit(
            state, store.ScopeSecrets, network_id, lambda s: s.secrets.update({step: rng.randbytes(32)})
        )
    elif what == 8 and state.get(types.Network, network_id) is not None:
        local.edit(state, types.Network, network_id, lambda n: n.labels.update({"a": str(rng.random())}))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_up_is_what_a_new_one_would_be(seed: int) -> None:
    rng = random.Random(seed)
    store_ = world()
    state = store_.state
    with store_.subscribe(*KINDS) as changes:
        events: list[Event] = []
        picture = Picture(state, ())
        known = assignments(picture, state)
        apply = state.apply
        state.apply = lambda index, raw: _offered(apply(index, raw), changes)  # type: ignore[method-assign, no-untyped-call]
        for _ in range(60):
            for _ in range(rng.randrange(1, 4)):
                change(state, rng)
            events = changes.take() or []
            concerned = picture.note(events)
            now = assignments(picture, state)
            assert now == assignments(Picture(state, ()), state)
            if concerned is not None:
                others = {each for each in now if now[each] != known.get(each)} - concerned
                assert not others, "changed, and not named"
            known = now


def _offered(outcome, changes):  # type: ignore[no-untyped-def]
    changes.offer(outcome.events)
    return outcome


def test_a_rotation_concerns_its_holders_only() -> None:
    store_ = world()
    local.put(
        store_.state,
        types.Task(
            meta=types.Meta(id="t"),
            node_id="node-w2",
            state=types.TASK_STATE_RUNNING,
            spec=types.ServiceSpec(networks=["net-n1"]),
        ),
    )
    picture = Picture(store_.state, ())
    scope = store_.state.get(types.KeyScope, "net-n1")
    assert picture.note([Event(types.KeyScope, scope, scope)]) == {"node-w2"}
