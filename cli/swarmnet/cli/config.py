"""`swarmnet config`: create, ls, inspect, rm."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.arguments import parse_pairs, request_id
from swarmnet.cli.durations import ago, rfc3339
from swarmnet.cli.filters import Filter, Matcher, has_label
from swarmnet.cli.output import Listing, Row, act_on_each, inspect_each, labels_text, list_options, ordered
from swarmnet.cli.session import Session
from swarmnet.core.errors import InvalidArgument

CONFIGS: Final = Listing(
    {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED", "Labels": "LABELS"},
    shown=("ID", "Name", "CreatedAt", "UpdatedAt"),
)
FILTERS: Final[Mapping[str, Matcher[types.Config]]] = {
    "name": lambda config, text: text in config.name,
    "id": lambda config, text: config.meta.id.startswith(text),
    "label": lambda config, text: has_label(config.labels, text),
}


@click.group()
def config() -> None:
    """Manage configs."""


@config.command()
@click.argument("name")
@click.argument("file", metavar="FILE|-")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="A label of the config.")
@click.pass_obj
def create(session: Session, *, name: str, file: str, labels: tuple[str, ...]) -> None:
    """Create a config from a file, or from standard input (-), and print its id.

    \b
    Example:
      swarmnet config create --label tier=web site.conf ./site.conf
    """
    request = control_pb2.CreateConfigRequest(
        name=name, data=_content(file), labels=parse_pairs(labels, "--label"), request_id=request_id()
    )
    click.echo(session.manager.call(lambda control: control.CreateConfig, request, repeatable=True).id)


@config.command()
@list_options
@click.pass_obj
def ls(session: Session, format_: str, quiet: bool, filters: tuple[str, ...], no_trunc: bool) -> None:
    """List configs.

    \b
    Example:
      swarmnet config ls --filter label=tier=web
    """
    del no_trunc  # ids of configs are whole anyway, as docker has it
    matches = Filter(filters, FILTERS)
    request = control_pb2.ListRequest()
    answer = session.manager.call(lambda control: control.ListConfigs, request, repeatable=True)
    found = sorted(filter(matches, answer.configs), key=lambda each: each.name)
    CONFIGS.print([_row(each) for each in found], format_=format_, quiet=quiet)


@config.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
@click.option("-f", "--format", "format_", default="", metavar="FORMAT", help="json or a template.")
@click.pass_obj
def inspect(session: Session, configs: tuple[str, ...], format_: str) -> None:
    """Show configs in full, as JSON, their data in base64.

    \b
    Example:
      swarmnet config inspect --format '{{.Spec.Data}}' site.conf | base64 -d
    """

    def find(ref: str) -> Mapping[str, Any]:
        request = control_pb2.GetRequest(ref=ref)
        return document(session.manager.call(lambda control: control.GetConfig, request, repeatable=True))

    inspect_each(configs, find, format_)


@config.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
@click.pass_obj
def rm(session: Session, configs: tuple[str, ...]) -> None:
    """Remove configs.

    \b
    Example:
      swarmnet config rm site.conf
    """

    def remove(ref: str) -> str:
        session.manager.call(lambda control: control.RemoveConfig, control_pb2.GetRequest(ref=ref))
        return ref

    act_on_each(configs, remove)


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"error reading content from {file!r}: {error.strerror}",
            hint="Name a file that can be read, or - for standard input.",
        ) from error


def _row(each: types.Config) -> Row:
    return {
        "ID": each.meta.id,
        "Name": each.name,
        "CreatedAt": ago(each.meta.created_at),
        "UpdatedAt": ago(each.meta.updated_at),
        "Labels": labels_text(each.labels),
    }


def document(each: types.Config) -> Mapping[str, Any]:
    """A config as inspect shows it."""
    return {
        "ID": each.meta.id,
        "Version": {"Index": each.meta.version},
        "CreatedAt": rfc3339(each.meta.created_at),
        "UpdatedAt": rfc3339(each.meta.updated_at),
        "Spec": {
            "Name": each.name,
            "Labels": ordered(each.labels),
            "Data": base64.b64encode(each.data).decode("ascii"),
        },
    }
