"""How a scope's key changes without a packet lost: make before break, each step gated on acknowledgement.

    STABLE   n current
      |  by time, on request, or when an SA wears out
    PREPARE  n current, n+1 next          until every holder has n+1 installed
      |
    SWITCH   n previous, n+1 current      until every holder sends with n+1
      |
    RETIRE   n previous, n+1 current      for the grace time, for packets still under way; less of it when
      |                                   another rotation waits: a node was removed, and knows n+1
      |
    STABLE   n+1 current

The state is a KeyScope; acknowledgements are the holders' latest reports, which may be lost and told again.
So a new leader that knows the state and no reports yet goes on where the old one stopped. A holder that is
silent until the deadline of PREPARE or SWITCH is to be fenced: one node cannot keep a leaked key in use.

Invariants: epochs ascend, at most three, exactly one current. An epoch becomes current only when every
holder that is up can receive it; it is dropped only when every such holder sends with a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.limits import EPOCHS_SKIPPED, HURRIED_GRACE_S, RETIRE_GRACE_S
from swarmnet.core.timestamps import seconds, stamp

STABLE: Final = types.ROTATION_PHASE_STABLE
PREPARE: Final = types.ROTATION_PHASE_PREPARE
SWITCH: Final = types.ROTATION_PHASE_SWITCH
RETIRE: Final = types.ROTATION_PHASE_RETIRE


@dataclass(frozen=True, slots=True)
class Report:
    """What one holder's kernel and gossip really have of a scope."""

    installed: frozenset[int] = frozenset()
    sending: int = 0
    exhausted: bool = False
    error: str = ""


_SILENT: Final = Report()
"""What is known of a holder that has not reported."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How often to rotate; how long a holder may keep a step waiting; how long an old epoch is received."""

    period_s: float
    deadline_s: float
    grace_s: float = RETIRE_GRACE_S


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next. With no new `scope` and nobody to fence: wait until `wake_at`."""

    wake_at: float
    scope: types.KeyScope | None = None
    create: int = 0
    """This epoch of `scope` needs a new secret; 0 = none does."""
    fence: frozenset[str] = frozenset()


def first_epoch(scope_id: str, now: float, period_s: float) -> types.KeyScope:
    """A new scope: epoch 1 is current, the first rotation is due in a period."""
    return types.KeyScope(
        meta=types.Meta(id=scope_id),
        epochs=[types.Epoch(number=1, role=types.EPOCH_ROLE_CURRENT, created_at=stamp(now))],
        due_at=stamp(now + period_s),
        phase_started_at=stamp(now),
    )


def fresh_epoch(scope: types.KeyScope, now: float, period_s: float) -> types.KeyScope:
    """The scope with one new epoch in place of all others, for a state that may be older than its nodes are.

    Nodes may have sent with later epochs than it knows, so none that it knows may be used again: the new
    one's number is above any that can have been made since.
    """
    fresh = first_epoch(scope.meta.id, now, period_s)
    fresh.meta.CopyFrom(scope.meta)
    fresh.epochs[0].number = max((epoch.number for epoch in scope.epochs), default=0) + EPOCHS_SKIPPED
    return fresh


def number_of(scope: types.KeyScope, role: types.EpochRole.ValueType) -> int:
    """The number of the scope's epoch in that role; 0 = there is none."""
    return next((epoch.number for epoch in scope.epochs if epoch.role == role), 0)


def waiting_for(scope: types.KeyScope, up: Iterable[str], reports: Mapping[str, Report]) -> frozenset[str]:
    """The holders in `up` that have not acknowledged the step in progress."""
    if scope.phase == STABLE:
        return frozenset()
    if scope.phase == PREPARE:
        coming = number_of(scope, types.EPOCH_ROLE_NEXT)
        return frozenset(n for n in up if coming not in reports.get(n, _SILENT).installed)
    current = number_of(scope, types.EPOCH_ROLE_CURRENT)
    return frozenset(n for n in up if reports.get(n, _SILENT).sending != current)


def advance(
    scope: types.KeyScope, up: frozenset[str], reports: Mapping[str, Report], now: float, terms: Terms
) -> Step:
    """At most one step of the scope's rotation. `up`: its holders that are not down."""
    if scope.phase == STABLE:
        return _start(scope, up, reports, now, terms)
    started = seconds(scope.phase_started_at)
    waiting = waiting_for(scope, up, reports)
    if scope.phase == RETIRE:
        return _retire(scope, up, reports, now, waiting, grace_s=terms.grace_s)
    if waiting:
        overdue = now >= started + terms.deadline_s
        return Step(started + terms.deadline_s, fence=waiting if overdue else frozenset())
    if scope.phase == PREPARE:
        return _switch(scope, now)
    return Step(now, _in_phase(scope, RETIRE, now))


def _start(
    scope: types.KeyScope, up: frozenset[str], reports: Mapping[str, Report], now: float, terms: Terms
) -> Step:
    reason = _reason_to_rotate(scope, up, reports, now)
    if not reason:
        return _keep_due(scope, now, terms)
    coming = number_of(scope, types.EPOCH_ROLE_CURRENT) + 1
    changed = _in_phase(scope, PREPARE, now)
    changed.epochs.add(number=coming, role=types.EPOCH_ROLE_NEXT, created_at=stamp(now))
    changed.due_at.CopyFrom(stamp(now + terms.period_s))
    changed.reason, changed.again = reason, False
    return Step(now, changed, create=coming)


def _reason_to_rotate(
    scope: types.KeyScope, up: frozenset[str], reports: Mapping[str, Report], now: float
) -> str:
    if scope.again:
        return scope.reason or "requested"
    if now >= seconds(scope.due_at):
        return "scheduled"
    current = number_of(scope, types.EPOCH_ROLE_CURRENT)
    for node in sorted(up):
        report = reports.get(node, _SILENT)
        # A report with another epoch in it may complain of the one that has just been dropped.
        if report.exhausted and report.installed == {current}:
            return "soft limit reached"
    return ""


def _keep_due(scope: types.KeyScope, now: float, terms: Terms) -> Step:
    """A period that was made shorter counts from now, not from the next rotation on."""
    latest = stamp(now + terms.period_s)
    if scope.due_at.ToMicroseconds() <= latest.ToMicroseconds():  # as written down: a float has more digits
        return Step(seconds(scope.due_at))
    changed = _in_phase(scope, STABLE, now)
    changed.due_at.CopyFrom(latest)
    return Step(now, changed)


def _switch(scope: types.KeyScope, now: float) -> Step:
    changed = _in_phase(scope, SWITCH, now)
    moved = {
        types.EPOCH_ROLE_NEXT: types.EPOCH_ROLE_CURRENT,
        types.EPOCH_ROLE_CURRENT: types.EPOCH_ROLE_PREVIOUS,
    }
    for epoch in changed.epochs:
        epoch.role = moved.get(epoch.role, epoch.role)
    return Step(now, changed)


def _retire(
    scope: types.KeyScope,
    up: frozenset[str],
    reports: Mapping[str, Report],
    now: float,
    waiting: frozenset[str],
    *,
    grace_s: float,
) -> Step:
    if any(node in reports for node in waiting):
        return Step(now, _in_phase(scope, SWITCH, now))  # it was down, and still sends with the old one
    hurried = scope.again or any(reports[node].exhausted for node in up & reports.keys())
    over = seconds(scope.phase_started_at) + (min(grace_s, HURRIED_GRACE_S) if hurried else grace_s)
    if up and now < over:
        return Step(over)
    if waiting:  # not heard of since this leader leads: it reports, or it is down soon
        return Step(now + grace_s)
    changed = _in_phase(scope, STABLE, now)
    kept = [epoch for epoch in scope.epochs if epoch.role != types.EPOCH_ROLE_PREVIOUS]
    del changed.epochs[:]
    changed.epochs.extend(kept)
    changed.reason = ""
    return Step(now, changed)


def _in_phase(scope: types.KeyScope, phase: types.RotationPhase.ValueType, now: float) -> types.KeyScope:
    changed = types.KeyScope()
    changed.CopyFrom(scope)
    changed.phase = phase
    changed.phase_started_at.CopyFrom(stamp(now))
    return changed
