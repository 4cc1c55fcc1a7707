"""The replicated state: commands apply whole or not at all, once, and the same everywhere."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.state import Applied, Rejected, State, Transaction

AT = Timestamp(seconds=1_700_000_000)


def network(name: str) -> types.Network:
    return types.Network(meta=types.Meta(id=name), name=name)


def commit(state: State, transaction: Transaction, request_id: str = "") -> Applied | Rejected | None:
    command = transaction.command(AT, request_id)
    return state.apply(state.index + 1, command.SerializeToString()) if command else None


def put(state: State, *names: str, request_id: str = "") -> Applied | Rejected | None:
    transaction = Transaction(state)
    for name in names:
        transaction.put(network(name))
    return commit(state, transaction, request_id)


def test_an_object_knows_the_index_and_time_of_its_changes() -> None:
    state = State()
    put(state, "a")
    transaction = Transaction(state)
    found = transaction.get(types.Network, "a")
    assert found is not None
    edited = transaction.edit(found)
    edited.vni = 4096
    transaction.put(edited)
    assert isinstance(commit(state, transaction), Applied)
    now = state.get(types.Network, "a")
    assert now is not None
    assert (now.meta.version, now.vni, now.meta.created_at, found.vni) == (2, 4096, AT, 0)


def test_what_a_decision_read_must_still_be_so() -> None:
    state = State()
    put(state, "a")
    late = Transaction(state)
    assert late.get(types.Network, "a") is not None
    late.put(network("b"))
    remover = Transaction(state)
    remover.remove(next(iter(state.all(types.Network))))
    assert isinstance(commit(state, remover), Applied)
    assert commit(state, late) == Rejected("network", "a")
    assert list(state.all(types.Network)) == []


def test_absence_is_a_precondition_too() -> None:
    state = State()
    first, second = Transaction(state), Transaction(state)
    for each in (first, second):
        assert each.get(types.Network, "a") is None
        each.put(network("a"))
    assert isinstance(commit(state, first), Applied)
    assert commit(state, second) == Rejected("network", "a")


def test_reading_a_whole_table_is_a_precondition_and_scanning_it_is_none() -> None:
    state = State()
    strict, loose = Transaction(state), Transaction(state)
    assert strict.all(types.Network) == []
    assert loose.scan(types.Network) == []
    strict.put(network("x"))
    loose.put(network("y"))
    put(state, "a")
    assert commit(state, strict) == Rejected("network", "")
    assert isinstance(commit(state, loose), Applied)


def test_a_repeated_request_is_applied_once_and_answered_alike() -> None:
    state = State()
    first = put(state, "a", request_id="r1")
    again = put(state, "b", request_id="r1")
    assert isinstance(first, Applied)
    assert again == Applied(first.index)
    assert [each.name for each in state.all(types.Network)] == ["a"]


def test_a_transaction_sees_its_own_changes() -> None:
    state = State()
    put(state, "a", "b")
    transaction = Transaction(state)
    transaction.put(network("c"))
    transaction.remove(next(iter(state.all(types.Network))))
    assert {each.name for each in transaction.scan(types.Network)} == {"b", "c"}
    assert transaction.get(types.Network, "a") is None
    assert transaction.get(types.Network, "c") is not None


def test_nothing_changed_is_no_command() -> None:
    transaction = Transaction(State())
    transaction.all(types.Network)
    assert transaction.command(AT) is None


def test_events_tell_the_old_and_the_new() -> None:
    state = State()
    made = put(state, "a")
    assert isinstance(made, Applied)
    event, _ = made.events
    assert (event.kind, event.old) == (types.Network, None)
    transaction = Transaction(state)
    transaction.remove(next(iter(state.all(types.Network))))
    gone = commit(state, transaction)
    assert isinstance(gone, Applied)
    assert gone.events[0].new is None
    assert gone.events[0].old == event.new


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), max_size=12))
def test_a_restored_snapshot_is_the_state_it_was_taken_of(puts: list[list[str]]) -> None:
    state, copy = State(), State()
    for number, names in enumerate(puts):
        put(state, *names, request_id=f"r{number}")
    encode = state.freeze()
    put(state, "later")
    copy.restore(encode())
    put(copy, "later")
    assert copy.freeze()() == state.freeze()()


@pytest.mark.parametrize("kind", [store.ClusterSecrets, store.ScopeSecrets])
def test_every_secret_field_is_marked_for_redaction(
    kind: type[store.ClusterSecrets | store.ScopeSecrets],
) -> None:
    open_fields = [f.name for f in kind.DESCRIPTOR.fields if not f.GetOptions().debug_redact]
    assert open_fields == ["meta"]


def names(reader: State | Transaction, *asked: str) -> list[list[str]]:
    return [[each.meta.id for each in reader.named(types.Network, name)] for name in asked]


def test_objects_are_found_by_the_names_they_have_now() -> None:
    state = State()
    put(state, "a", "b")
    transaction = Transaction(state)
    renamed = transaction.edit(transaction.scan(types.Network)[0])
    renamed.name = "b"
    transaction.put(renamed)
    assert names(state, "a", "b") == [["a"], ["b"]]
    assert names(transaction, "a", "b") == [[], ["b", "a"]]
    commit(state, transaction)
    assert names(state, "a", "b") == [[], ["b", "a"]]
    remover = Transaction(state)
    remover.remove(next(iter(state.named(types.Network, "b"))))
    assert names(remover, "b") == [["a"]]
    commit(state, remover)
    copy = State()
    copy.restore(state.freeze()())
    assert names(state, "a", "b", "c") == names(copy, "a", "b", "c") == [[], ["a"], []]


def test_looking_without_reading_is_no_precondition() -> None:
    state = State()
    put(state, "a")
    late = Transaction(state)
    assert late.peek(types.Network, "a") is not None
    assert late.peek(types.Network, "none") is None
    assert names(late, "a") == [["a"]]
    late.put(network("b"))
    assert late.peek(types.Network, "b") is not None
    remover = Transaction(state)
    remover.remove(next(iter(state.all(types.Network))))
    assert isinstance(commit(state, remover), Applied)
    assert isinstance(commit(state, late), Applied)
