"""`swarmnet events`: docker's lines, filters, times, and going on with another manager."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_swarm import BREAK, END, FakeSwarm, Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.durations import parse_time
from swarmnet.core.errors import InvalidArgument

NET, W1, W2 = "netfr" + "0" * 20, "w1" + "0" * 23, "w2" + "0" * 23


def event(
    action: str, number: int = 1, type_: types.EventType.ValueType = types.EVENT_TYPE_KEY, **fields: object
) -> types.Event:
    made = types.Event(meta=types.Meta(id=f"{number:020x}"), type=type_, action=action, **fields)  # type: ignore[arg-type]
    made.meta.created_at.FromNanoseconds(1_764_090_000_000_000_123)
    return made


def about(id_: str = NET, name: str = "front", epoch: int = 3) -> types.EventSubject:
    return types.EventSubject(id=id_, name=name, epoch=epoch)


SWITCH = event("switch", 1, subjects=[about("gossip", "gossip", 7), about()], reason="scheduled")
ISSUE = event("issue", 2, subjects=[about()], nodes=[W1, W2], reason="task assigned")
REFUSE = event(
    "refuse", 3, reason="A valid join token", count=12,
    attributes={"address": "203.0.113.9", "code": "BAD_TOKEN"},
)  # fmt: skip
DOWN = event(
    "update", 4, types.EVENT_TYPE_NODE, subjects=[about(W1, "w1", 0)],
    attributes={"state.old": "ready", "state.new": "down"},
)  # fmt: skip


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    monkeypatch.setattr("swarmnet.cli.events.RETRY_DELAYS_S", (0.0, 0.0))
    yield from make_host(tmp_path, capsys, monkeypatch)


def told(host: Host, *events: object) -> FakeSwarm:
    fake = host.manager()
    for each in events:
        fake.events.put(each)
    return fake


def test_lines_are_dockers(host: Host) -> None:
    told(host, SWITCH, ISSUE, REFUSE, DOWN, END)
    at = "2025-11-25T17:00:00.000000123Z"
    assert host.swarmnet("events", "--since", "24h", "--until", "0s").out.splitlines() == [
        f"{at} key switch gossip (epoch=7, name=gossip, reason=scheduled)",
        f"{at} key switch {NET} (epoch=3, name=front, reason=scheduled)",
        f"{at} key issue {NET} (epoch=3, name=front, node={W1},{W2}, reason=task assigned)",
        f"{at} key refuse - (address=203.0.113.9, code=BAD_TOKEN, count=12, reason=A valid join token)",
        f"{at} node update {W1} (name=w1, state.new=down, state.old=ready)",
    ]


def test_json_is_dockers(host: Host) -> None:
    told(host, ISSUE, END)
    assert json.loads(host.swarmnet("events", "--format", "json").out) == {
        "Type": "key",
        "Action": "issue",
        "Actor": {
            "ID": NET,
            "Attributes": {"epoch": "3", "name": "front", "node": f"{W1},{W2}", "reason": "task assigned"},
        },
        "scope": "swarm",
        "time": 1_764_090_000,
        "timeNano": 1_764_090_000_000_000_123,
    }


def test_a_template_names_fields(host: Host) -> None:
    told(host, SWITCH, END)
    assert (
        host.swarmnet("events", "--format", "{{.Action}} {{.Actor.Attributes.epoch}}").out
        == "switch 7\nswitch 3\n"
    )


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        (["event=issue", "event=refuse"], ["issue", "refuse"]),
        (["scope=front"], ["switch", "issue"]),
        (["scope=gossip"], ["switch"]),
        ([f"network={NET[:6]}", "event=issue"], ["issue"]),
        (["node=w1"], ["issue", "update"]),
        ([f"node={W2[:4]}"], ["issue"]),
        (["name=w1"], ["update"]),
        (["service=front"], []),
    ],
)
def test_filters(host: Host, filters: list[str], actions: list[str]) -> None:
    fake = told(host, SWITCH, ISSUE, REFUSE, DOWN, END)
    node = types.Node(meta=types.Meta(id=W1), hostname="w1")
    fake.answers["ListNodes"] = [control.ListNodesResponse(nodes=[control.NodeView(node=node)])]
    options = [word for text in filters for word in ("--filter", text)]
    assert host.swarmnet("events", *options, "--format", "{{.Action}}").out.split() == actions


def test_the_managers_are_asked_for_the_types_wanted(host: Host) -> None:
    fake = told(host, SWITCH, END)
    assert host.swarmnet("events", "-f", "type=key").out.count("\n") == 2
    assert list(fake.requests["Events"][0].types) == [types.EVENT_TYPE_KEY]
    wrong = host.swarmnet("events", "-f", "type=container")
    assert wrong.err.startswith("Error: invalid filter 'type=container'\nThere are: key, node, network,")


def test_without_since_only_what_is_to_come_and_with_a_past_until_no_waiting(host: Host) -> None:
    fake = told(host, END, END)
    host.swarmnet("events")
    host.swarmnet("events", "--since", "2025-11-25T17:00:00+01:00", "--until", "1s")
    following, past = fake.requests["Events"]
    assert following.follow
    assert following.since.seconds > 1_764_090_000
    assert not past.follow
    assert past.since.seconds == 1_764_086_400


def test_a_manager_that_dies_is_replaced_and_nothing_is_told_twice(host: Host) -> None:
    fake = told(host, SWITCH, BREAK, ISSUE, END)
    assert host.swarmnet("events", "--format", "{{.Action}}").out.split() == ["switch", "switch", "issue"]
    assert [each.after for each in fake.requests["Events"]] == ["", SWITCH.meta.id]


def test_when_no_manager_answers_any_more_it_says_so(host: Host) -> None:
    told(host, *[BREAK] * 5)
    result = host.swarmnet("events")
    assert (result.status, result.err) == (1, "Error: the manager is leaving\n")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10m", 400 * 10**9),
        ("1700000000", 1_700_000_000 * 10**9),
        ("1700000000.000000001", 1_700_000_000 * 10**9 + 1),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * 10**9),
        ("2023-11-14T22:13:20", 1_700_000_000 * 10**9),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000 * 10**9),
        ("2023-11-14", 1_699_920_000 * 10**9),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time(text, 1000).ToNanoseconds() == ns


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "10 m", "2023-13-01", "1e9"])
def test_other_times(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid time"):
        parse_time(text, 1000)
