"""What the commands print: docker's tables, one JSON object a line, templates, and JSON arrays of inspect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from swarmnet.core.errors import SwarmnetError

if TYPE_CHECKING:
    from swarmnet.cli.template import Template

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Row: TypeAlias = Mapping[str, str]
Document: TypeAlias = Mapping[str, Any]

_MIN_WIDTH: Final = 10
_GAP: Final = 3
SHORT_TEXT: Final = 30
"""Longest error message in a table, unless --no-trunc."""


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list command prints: every field with its heading, and those shown unless asked otherwise."""

    headings: Mapping[str, str]
    shown: Sequence[str]
    quiet: str = "ID"
    marked: str = ""
    """A field; where it is "true", the table's first column gets an asterisk."""

    def print(self, rows: Sequence[Row], *, format_: str = "", quiet: bool = False) -> None:
        """Print the rows as `--format` and `-q` ask; InvalidArgument for a field that there is not."""
        click.echo("".join(f"{line}\n" for line in self.lines(rows, format_, quiet=quiet)), nl=False)

    def lines(self, rows: Sequence[Row], format_: str, *, quiet: bool) -> list[str]:
        if quiet and not format_:
            return [row[self.quiet] for row in rows]
        if format_ == "json":
            return [_json(row) for row in rows]
        if format_.startswith("table ") or format_ in {"", "table"}:
            return self._table(rows, format_.removeprefix("table").strip())
        template = _parse(format_)
        template.render(self.headings)  # an unknown field is an error even when there is no row
        return [template.render(row) for row in rows]

    def _table(self, rows: Sequence[Row], fields: str) -> list[str]:
        if not fields:
            heading = [self.headings[name] for name in self.shown]
            return align([heading, *(self._cells(row) for row in rows)])
        template = _parse(fields)
        return align([template.render(row).split("\t") for row in (self.headings, *rows)])

    def _cells(self, row: Row) -> list[str]:
        first, *others = (row[name] for name in self.shown)
        return [f"{first} *" if self.marked and row[self.marked] == "true" else first, *others]


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns at least ten wide and three apart, the last one as long as it is."""
    count = max(map(len, table), default=0)
    widths = [
        max([_MIN_WIDTH, *(len(cells[i]) + _GAP for cells in table if i < len(cells))]) for i in range(count)
    ]
    return ["".join(_pad(cells, widths)).rstrip() for cells in table]


def _pad(cells: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    return (text.ljust(width) for text, width in zip(cells, widths, strict=False))


def shorten(text: str, longest: int = SHORT_TEXT) -> str:
    """One line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def ordered(pairs: Mapping[str, str]) -> dict[str, str]:
    """A protobuf map as inspect shows it: its own order is a different one in every process."""
    return dict(sorted(pairs.items()))


def labels_text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def list_options(command: F) -> F:
    """`--format`, `-q/--quiet`, `--filter`, `--no-trunc`: the options of every list command."""
    for option in (
        click.option("--no-trunc", is_flag=True, help="Do not shorten ids and messages."),
        click.option("-q", "--quiet", is_flag=True, help="Only print ids."),
        click.option("--format", "format_", default="", metavar="FORMAT", help="json, table, or a template."),
        click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those."),
    ):
        command = option(command)
    return command


def inspect_each(refs: Iterable[str], find: Callable[[str], Document], format_: str = "") -> None:
    """Print a JSON array, or a line by the template for each; errors go to stderr, with status 1."""
    template = _parse(format_) if format_ and format_ != "json" else None
    found, errors = gather(refs, find)
    if template is not None:
        for each in found:
            click.echo(template.render(each))
    else:
        click.echo(_json(found, indent=None if format_ == "json" else 4))
    fail_with(errors)


def gather(items: Iterable[T], act: Callable[[T], R]) -> tuple[list[R], list[SwarmnetError]]:
    """What `act` gave for each, and the errors of those that failed; one failure does not stop the others."""
    results, errors = [], []
    for item in items:
        try:
            results.append(act(item))
        except SwarmnetError as error:
            errors.append(error)
    return results, errors


def act_on_each(refs: Iterable[str], act: Callable[[str], str]) -> None:
    """Print what `act` returns for each as it is done, as `rm` does; the errors come last, with status 1."""

    def act_and_print(ref: str) -> None:
        click.echo(act(ref))

    fail_with(gather(refs, act_and_print)[1])


def fail_with(errors: Sequence[SwarmnetError]) -> None:
    """Tell each error; exit status 1 if there was any."""
    for error in errors:
        print_error(error)
    if errors:
        raise SystemExit(1)


def print_error(error: SwarmnetError) -> None:
    click.echo(f"Error: {error}", err=True)


def print_pairs(pairs: Iterable[tuple[str, object]], indent: str = "") -> None:
    """`--pretty`: a heading and its value a line, mappings and lists indented below their heading."""
    for heading, value in pairs:
        if isinstance(value, Mapping):
            click.echo(f"{indent}{heading}:")
            print_pairs(value.items(), indent + " ")
        elif isinstance(value, list | tuple):
            click.echo(f"{indent}{heading}:")
            for element in value:
                click.echo(f"{indent} - {_text(element)}")
        else:
            click.echo(f"{indent}{heading + ':':<20} {_text(value)}".rstrip())


# json and our templates are imported when something is printed with them: most commands print a line of text.


def _parse(format_: str) -> Template:
    from swarmnet.cli.template import parse

    return parse(format_)


def _text(value: object) -> str:
    from swarmnet.cli.template import to_text

    return to_text(value)


def _json(value: object, indent: int | None = None) -> str:
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False)
