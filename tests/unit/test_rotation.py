"""The rotation machine: whatever is lost, late or restarted, no packet is sent that a holder cannot read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.limits import HURRIED_GRACE_S, MAX_LIVE_EPOCHS, RETIRE_GRACE_S
from swarmnet.core.rotation import PREPARE, RETIRE, STABLE, SWITCH, Report, Step, Terms
from swarmnet.core.timestamps import seconds

PERIOD_S, DEADLINE_S = 1000.0, 300.0
TERMS = Terms(PERIOD_S, DEADLINE_S)
START = 1_700_000_000.0


@dataclass
class Holder:
    """A worker that does what the last scope it saw says, when it gets to it."""

    report: Report = field(default_factory=lambda: Report(frozenset({1}), 1))
    is_up: bool = True

    def obey(self, scope: types.KeyScope) -> None:
        current = rotation.number_of(scope, types.EPOCH_ROLE_CURRENT)
        self.report = Report(frozenset(e.number for e in scope.epochs), current)


@dataclass
class World:
    """One scope, its holders, and the reports that the leader has."""

    holders: dict[str, Holder]
    now: float = START
    told: dict[str, Report] = field(default_factory=dict)
    scope: types.KeyScope = field(default_factory=lambda: rotation.first_epoch("net", START, PERIOD_S))

    def up(self) -> frozenset[str]:
        return frozenset(name for name, holder in self.holders.items() if holder.is_up)

    def step(self) -> Step:
        step = rotation.advance(self.scope, self.up(), self.told, self.now, TERMS)
        if step.scope is not None:
            self.check(self.scope, step.scope)
            self.scope = step.scope
        for name in step.fence:
            self.holders[name].is_up = False
        return step

    def check(self, old: types.KeyScope, new: types.KeyScope) -> None:
        """The invariants, by what the holders really have."""
        numbers = [e.number for e in new.epochs]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= MAX_LIVE_EPOCHS
        assert [e.role for e in new.epochs].count(types.EPOCH_ROLE_CURRENT) == 1
        up = [self.holders[name] for name in self.up()]
        current = rotation.number_of(new, types.EPOCH_ROLE_CURRENT)
        if current != rotation.number_of(old, types.EPOCH_ROLE_CURRENT):
            assert all(current in holder.report.installed for holder in up)
        dropped = {e.number for e in old.epochs} - set(numbers)
        assert not any(holder.report.sending in dropped for holder in up)

    def report(self, *names: str) -> None:
        for name in names or tuple(self.holders):
            if self.holders[name].is_up:
                self.holders[name].obey(self.scope)
                self.told[name] = self.holders[name].report


def world(*names: str) -> World:
    made = World({name: Holder() for name in names})
    made.report()
    return made


def roles(scope: types.KeyScope) -> dict[int, str]:
    return {e.number: types.EpochRole.Name(e.role).removeprefix("EPOCH_ROLE_").lower() for e in scope.epochs}


def test_a_rotation_takes_its_three_steps_as_they_are_acknowledged() -> None:
    w = world("a", "b")
    assert w.step().wake_at == START + PERIOD_S
    w.now += PERIOD_S
    assert w.step().create == 2
    assert (w.scope.phase, roles(w.scope)) == (PREPARE, {1: "current", 2: "next"})
    w.report("a")
    assert w.step().scope is None
    w.report("b")
    w.step()
    assert (w.scope.phase, roles(w.scope)) == (SWITCH, {1: "previous", 2: "current"})
    w.report("a")
    assert w.step().scope is None
    w.report("b")
    w.step()
    assert (w.scope.phase, roles(w.scope)) == (RETIRE, {1: "previous", 2: "current"})
    w.now += RETIRE_GRACE_S - 1
    assert w.step().wake_at == w.now + 1
    w.now += 1
    w.step()
    assert (w.scope.phase, roles(w.scope)) == (STABLE, {2: "current"})
    assert seconds(w.scope.due_at) == START + 2 * PERIOD_S


def test_the_grace_time_is_the_one_that_is_set() -> None:
    w = world("a")
    w.scope.again = True
    for _ in range(3):
        w.step()
        w.report()
    terms = replace(TERMS, grace_s=2.0)
    assert rotation.advance(w.scope, w.up(), w.told, w.now, terms).wake_at == w.now + 2
    dropped = rotation.advance(w.scope, w.up(), w.told, w.now + 2, terms).scope
    assert dropped is not None
    assert dropped.phase == STABLE


def test_the_grace_is_short_when_the_next_rotation_waits() -> None:
    """A node that was removed during a rotation knows the new epoch: it is replaced within 10 s, too."""
    w = world("a")
    w.scope.again = True
    for _ in range(3):
        w.step()
        w.report()
    assert w.scope.phase == RETIRE
    w.scope.again = True
    assert w.step().wake_at == START + HURRIED_GRACE_S
    w.now = START + HURRIED_GRACE_S
    w.step()
    assert w.step().create == 3


def test_the_grace_is_short_for_who_cannot_send_with_the_new_epoch_either() -> None:
    """Its host restarted during the rotation: what it had done with that key is not known."""
    w = world("a", "b")
    w.scope.again = True
    for _ in range(3):
        w.step()
        w.report()
    assert w.step().wake_at == START + RETIRE_GRACE_S
    w.told["a"] = replace(w.told["a"], exhausted=True)
    assert w.step().wake_at == START + HURRIED_GRACE_S


def test_with_nobody_to_wait_for_everything_passes_at_once() -> None:
    w = world()
    w.scope.again = True
    phases = []
    while (step := w.step()).scope is not None:
        phases.append(step.scope.phase)
    assert phases == [PREPARE, SWITCH, RETIRE, STABLE]
    assert roles(w.scope) == {2: "current"}


def test_a_request_during_a_rotation_is_another_rotation() -> None:
    w = world("a")
    w.scope.again, w.scope.reason = True, "node removed"
    w.step()
    assert (w.scope.reason, w.scope.again) == ("node removed", False)
    w.scope.again = True
    while w.scope.phase != STABLE:
        w.report()
        w.now = w.step().wake_at
    assert w.step().create == 3
    assert w.scope.reason == "requested"


@pytest.mark.parametrize("phase", [PREPARE, SWITCH])
def test_who_is_silent_until_the_deadline_is_fenced(phase: int) -> None:
    w = world("a", "b")
    w.scope.again = True
    w.step()
    if phase == SWITCH:
        w.report()
        w.step()
    w.report("a")
    assert w.step().fence == frozenset()
    w.now += DEADLINE_S
    assert w.step().fence == {"b"}
    assert w.step().scope is not None


def test_who_comes_back_while_retiring_and_sends_with_the_old_epoch_is_waited_for() -> None:
    w = world("a", "b")
    w.scope.again = True
    w.step()
    w.report()
    w.holders["b"].is_up = False
    w.step()
    w.report()
    w.step()
    assert w.scope.phase == RETIRE
    w.holders["b"].is_up = True
    w.now += RETIRE_GRACE_S
    w.step()
    assert w.scope.phase == SWITCH
    w.report()
    w.step()
    assert (w.scope.phase, seconds(w.scope.phase_started_at)) == (RETIRE, w.now)


def test_a_new_leader_without_reports_drops_nothing() -> None:
    w = world("a")
    w.scope.again = True
    for _ in range(3):
        w.step()
        w.report()
    assert w.scope.phase == RETIRE
    w.told.clear()
    w.now += RETIRE_GRACE_S
    assert w.step().scope is None
    w.report()
    w.step()
    assert w.scope.phase == STABLE


def test_a_worn_out_sa_starts_a_rotation_once() -> None:
    w = world("a")
    w.told["a"] = replace(w.holders["a"].report, exhausted=True)
    assert w.step().create == 2
    assert w.scope.reason == "soft limit reached"
    while w.scope.phase != STABLE:
        w.report()
        w.told["a"] = replace(w.told["a"], exhausted=True)
        w.now = w.step().wake_at
    assert w.step().scope is None  # the last report was about epoch 1, and is told again without it
    w.report()
    assert w.step().scope is None


def test_a_shorter_period_counts_from_now() -> None:
    w = world("a")
    step = rotation.advance(w.scope, w.up(), w.told, START, Terms(60, DEADLINE_S))
    assert step.scope is not None
    assert seconds(step.scope.due_at) == START + 60


actions = st.one_of(
    st.tuples(st.just("report"), st.sampled_from("abc")),
    st.tuples(st.just("down"), st.sampled_from("abc")),
    st.tuples(st.just("back"), st.sampled_from("abc")),
    st.tuples(st.just("leader dies"), st.just("")),
    st.tuples(st.just("asked again"), st.just("")),
    st.tuples(st.just("time passes"), st.sampled_from(["1", "11", "299", "301"])),
)


def act(w: World, action: str, what: str) -> None:
    if action == "report":
        w.report(what)
    elif action == "down":
        w.holders[what].is_up = False
    elif action == "back":  # its session starts anew: what it told before is forgotten
        w.holders[what].is_up = True
        w.told.pop(what, None)
    elif action == "leader dies":
        w.told.clear()
    elif action == "asked again":
        w.scope.again = True
    else:
        w.now += float(what)


@given(st.lists(actions, max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_order_of_events_keeps_the_invariants_and_ends(events: list[tuple[str, str]]) -> None:
    """World.check holds the invariants at each step; every prefix is a place where the leader may die."""
    w = world("a", "b", "c")
    for action, what in events:
        act(w, action, what)
        w.step()
    w.told.clear()
    for _ in range(30):
        w.report()
        step = w.step()
        if step.scope is None and w.scope.phase == STABLE:
            break
        w.now = max(w.now, step.wake_at)
    assert w.scope.phase == STABLE
    assert not w.scope.again
    assert list(roles(w.scope).values()) == ["current"]


@given(st.floats(1e9, 4e9), st.floats(60, 30 * 86400))
def test_a_rotation_that_nobody_holds_comes_to_rest_at_any_time(now: float, period_s: float) -> None:
    scope = rotation.first_epoch("net", now, period_s)
    scope.again = True
    for _ in range(5):  # prepare, switch, retire, stable, at rest
        step = rotation.advance(scope, frozenset(), {}, now, Terms(period_s, DEADLINE_S))
        scope = step.scope or scope
    assert step.scope is None
    assert [each.number for each in scope.epochs] == [2]
