"""When a manager replaces its data key: as soon as a secret left the state, and at most once a minute."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.unit.local_raft import NOW, commit, fill, network, node

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.secrecy import secrets_in
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import State, Transaction
from swarmnet.manager.forgetting import PERIOD_S, keep_forgetting
from swarmnet.manager.keymanager import create_scope, replace_keys
from swarmnet.manager.raft.seal import DataKey
from swarmnet.manager.store import Store


def made() -> State:
    state = State()
    fill(state, node("w1", 1), network("front"))
    return state


def rekey(state: State) -> None:
    def decide(transaction: Transaction) -> None:
        for scope in transaction.scan(types.KeyScope):
            replace_keys(transaction, scope, NOW, 60.0)

    commit(state, decide)


def test_the_state_knows_when_a_secret_left_it_last() -> None:
    state = made()
    assert state.erased_index == 0
    commit(state, lambda transaction: create_scope(transaction, "other", NOW, 60.0))
    assert state.erased_index == 0, "one that comes is none that goes"
    rekey(state)
    after = state.index
    assert state.erased_index == after
    commit(state, lambda transaction: transaction.put(types.Network(meta=types.Meta(id="n"), name="n")))
    assert state.erased_index == after
    restored = State()
    restored.restore(state.freeze()())
    assert restored.erased_index == after
    commit(state, lambda t: t.remove(store.ScopeSecrets(meta=types.Meta(id="other", version=after))))
    assert state.erased_index == state.index > after


def test_all_marked_fields_of_secret_objects_are_secrets_and_no_others() -> None:
    cluster = store.ClusterSecrets(meta=types.Meta(id="c"))
    fields = [each for each in cluster.DESCRIPTOR.fields if each.name != "meta"]
    for number, field in enumerate(fields):
        setattr(cluster, field.name, b"secret %d" % number)
    assert secrets_in(cluster) == {b"secret %d" % number for number in range(len(fields))}
    assert secrets_in(store.ScopeSecrets(secrets={1: b"one", 2: b"two"})) == {b"one", b"two"}
    assert secrets_in(types.Config(data=b"not secret")) == frozenset()


class Files:
    def __init__(self, state: State) -> None:
        self._state = state
        self.data_key = DataKey(SecretBytes(bytes(32)))
        self.renewed = 0

    def renew_data_key(self) -> None:
        self.renewed += 1
        self.data_key = DataKey(SecretBytes(bytes(32)), 1 + self.renewed, self._state.index)


async def test_many_retirements_are_one_renewal_and_a_later_one_waits_its_turn() -> None:
    shop = Store()
    shop.state = made()
    files, waits = Files(shop.state), asyncio.Queue[float]()
    go_on = asyncio.Event()

    async def wait(seconds: float) -> None:
        waits.put_nowait(seconds)
        await go_on.wait()
        go_on.clear()

    running = asyncio.create_task(keep_forgetting(shop, files, wait))
    rekey(shop.state)
    wake(shop)
    assert await waits.get() == PERIOD_S
    assert files.renewed == 1
    for _ in range(3):
        rekey(shop.state)
        wake(shop)
    await asyncio.sleep(0)
    assert files.renewed == 1
    go_on.set()
    await waits.get()
    assert files.renewed == 2
    go_on.set()
    for _ in range(5):
        wake(shop)
        await asyncio.sleep(0)
    assert (files.renewed, waits.empty()) == (2, True)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def wake(shop: Store) -> None:
    for subscription in shop._subscriptions:
        subscription.reset()
