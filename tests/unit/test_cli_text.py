"""Templates, durations, filters and tables, by themselves."""

from __future__ import annotations

import inspect
import io
import time
from contextlib import suppress
from importlib.metadata import version

import click
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.cli import durations
from swarmnet.cli.main import cli, main
from swarmnet.cli.output import align, shorten
from swarmnet.cli.template import parse
from swarmnet.core.errors import InvalidArgument

DATA = {
    "ID": "abc",
    "Up": True,
    "N": 3,
    "Spec": {"Name": "web"},
    "List": [{"X": "1"}, {"X": "2"}],
    "None": [],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{.ID}}", "abc"),
        ("{{ .ID }}-{{- .N -}}", "abc-3"),
        ("{{.Spec.Name}}", "web"),
        ("{{.Up}}", "true"),
        ("{{json .Spec}}", '{"Name": "web"}'),
        ("{{json .ID}}", '"abc"'),
        ("{{upper .ID}}{{lower .Spec.Name}}{{len .List}}", "ABCweb2"),
        ("{{range .List}}{{.X}};{{end}}.", "1;2;."),
        ("{{range .None}}{{.X}}{{end}}", ""),
        (r"{{.ID}}\t{{.N}}\n", "abc\t3\n"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert parse(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{.Id}}", "unknown field .Id"),
        ("{{.ID.Name}}", "unknown field .Name"),
        ("{{.Spec.name}}", "unknown field .name"),
        ("{{.ID", "unbalanced"),
        ("ID}}", "unbalanced"),
        ("{{ID}}", "ID is not a field"),
        ("{{}}", "not understood"),
        ("{{print .ID}}", "not understood"),
        ("{{if .Up}}x{{end}}", "not understood"),
        ("{{range .List}}x", "without its"),
        ("{{end}}", "end is not a field"),
        ("{{range .ID}}x{{end}}", ".ID is no list"),
    ],
)
def test_templates_that_are_wrong(template: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid --format") as raised:
        parse(template).render(DATA)
    assert why in raised.value.message
    assert raised.value.hint


@given(st.text(alphabet="{}. aIDrangeend-\\t", max_size=30))
def test_any_template_is_text_or_a_named_error(template: str) -> None:
    with suppress(InvalidArgument):
        assert isinstance(parse(template).render(DATA), str)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("1.5h", 5400), ("2h45m", 9900), ("1m0.5s", 60.5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert durations.parse_duration_ns(text) == round(seconds * 1e9)
    assert durations.parse_duration(text).ToNanoseconds() == round(seconds * 1e9)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5s ", "1d", "1h-2m", "1e3s", "5S"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid duration"):
        durations.parse_duration_ns(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (125, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert durations.human_duration(seconds) == text


def test_times_for_people() -> None:
    at = Timestamp(seconds=1_000_000)
    assert durations.ago(at, 1_000_005.5) == "5 seconds ago"
    assert durations.ago(at, 1_000_000.1) == "less than a second ago"
    assert durations.ago(at, 1_003_600) == "about an hour ago"
    assert durations.ago(at) == durations.ago(at, time.time())
    assert durations.until(at, 1_000_000 - 7200) == "in 2 hours"
    assert durations.until(at, 1_000_001) == "now"
    assert (durations.ago(Timestamp()), durations.until(Timestamp()), durations.rfc3339(Timestamp())) == (
        "",
        "",
        "",
    )
    assert durations.rfc3339(at) == "1970-01-12T13:46:40Z"


def test_columns() -> None:
    assert align([["A", "B"], ["a" * 12, "b"]]) == ["A" + " " * 14 + "B", "a" * 12 + "   b"]
    assert align([]) == []
    assert shorten("two\nlines") == "two lines"
    assert shorten("x" * 31) == "x" * 29 + "…"


def _commands(group: click.Group, path: str = "swarmnet") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        if path == "swarmnet" and name in {"lab", "demo"}:
            continue
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path} {name}", command))
        if isinstance(command, click.Group):
            found += _commands(command, f"{path} {name}")
    return found


def test_every_command_has_help_with_an_example() -> None:
    commands = [(path, each) for path, each in _commands(cli) if not isinstance(each, click.Group)]
    assert len(commands) >= 20
    without = [
        path for path, each in commands if f"Example:\n  {path}" not in inspect.cleandoc(each.help or "")
    ]
    assert without == []
    silent = [
        f"{path} {option.opts[0]}"
        for path, each in commands
        for option in each.params
        if isinstance(option, click.Option) and not option.help and not isinstance(option.type, click.Choice)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 1), (["network"], 1), (["--help"], 0), (["network", "ls", "-h"], 0)]
)
def test_help(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert "Usage: swarmnet" in (printed.err if status else printed.out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swarmnet {version('swarmnet')}\n"


def test_a_reader_that_has_left_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("swarmnet.cli.main._silence_stdout", lambda: None)
    assert main(["--version"]) == 1
    assert capfd.readouterr().err == ""
