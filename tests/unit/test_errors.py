from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core import errors, status

ALL = sorted(errors.BY_REASON.values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_travels_as_a_real_grpc_status(kind: type[errors.SwarmnetError]) -> None:
    assert kind.status in grpc.StatusCode.__members__


def test_no_two_causes_share_a_reason() -> None:
    named = [kind for kind in errors.__dict__.values() if isinstance(kind, type)]
    kinds = [kind for kind in named if issubclass(kind, errors.SwarmnetError)]
    reasons = [kind.reason for kind in kinds if kind is not errors.SwarmnetError]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("kind", ALL)
def test_an_error_arrives_as_what_it_was(kind: type[errors.SwarmnetError]) -> None:
    again = status.decode(status.encode(kind("disk full", hint="Free some space.")))
    assert type(again) is kind
    assert (again.message, again.hint) == ("disk full", "Free some space.")


def test_it_prints_the_next_step_on_a_line_of_its_own() -> None:
    assert (
        str(errors.NotFound("no such service: web", hint="List them.")) == "no such service: web\nList them."
    )
    assert str(errors.NotFound("no such service: web")) == "no such service: web"


def test_no_leader_says_what_docker_says() -> None:
    assert "The swarm does not have a leader." in errors.NoLeader().message


@given(st.binary(max_size=300))
def test_a_foreign_status_is_none_of_ours(raw: bytes) -> None:
    assert status.decode(raw) is None
