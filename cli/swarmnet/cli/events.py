"""`swarmnet events`: what has happened in the swarm and what happens, a line each, as docker tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.durations import parse_time
from swarmnet.cli.filters import Filter, Matcher
from swarmnet.cli.follow import RETRY_DELAYS_S
from swarmnet.cli.manager import Manager
from swarmnet.cli.output import Document
from swarmnet.cli.session import Session
from swarmnet.core.errors import InvalidArgument, OutcomeUnknown, Unavailable

NOTHING: Final = "-"
"""Stands for the object of an event that has none, such as a call refused to a stranger."""
_TYPES: Final = {
    name.removeprefix("EVENT_TYPE_").lower(): value for name, value in types.EventType.items() if value
}


@click.command()
@click.option(
    "--since", metavar="TIME", help="Also from then on: 2026-11-25T17:00:00Z, or as 10m how long ago."
)
@click.option("--until", metavar="TIME", help="Leave then; in the same forms.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those; KEY: type, "
              "event, scope, network, service, config, node, name.")  # fmt: skip
@click.option("--format", "format_", default="", metavar="FORMAT", help="json, or a template.")
@click.pass_obj
def events(
    session: Session, since: str | None, until: str | None, filters: tuple[str, ...], format_: str
) -> None:
    """Tell what happens in the swarm: of keys, nodes, networks, services and configs.

    Without --since only what happens from now on. Every key that is made, handed out, switched to, retired
    or withdrawn is there, every node that was fenced and every call that was refused.

    \b
    Example:
      swarmnet events --since 24h --until 0s --filter type=key
    """
    now = time.time()
    kinds = _kinds(filters)
    wanted = Filter(filters, _matchers(_Hostnames(session.manager)))
    show = _line if not format_ else _formatted(format_)
    request = control_pb2.EventsRequest(types=kinds, follow=until is None or _later(until, now))
    request.since.CopyFrom(parse_time(since if since is not None else "0s", now))
    if until is not None:
        request.until.CopyFrom(parse_time(until, now))
    for event in _followed(session.manager, request):
        for document in documents(event):
            if wanted(document):
                click.echo(show(document))


def _later(until: str, now: float) -> bool:
    return parse_time(until, now).ToNanoseconds() > now * 1e9


def _kinds(filters: Iterable[str]) -> list[types.EventType.ValueType]:
    """The types that the managers are asked for; empty for all."""
    wanted = [text.partition("=")[2] for text in filters if text.startswith("type=")]
    if unknown := [name for name in wanted if name not in _TYPES]:
        raise InvalidArgument(f"invalid filter 'type={unknown[0]}'", hint=f"There are: {', '.join(_TYPES)}.")
    return [_TYPES[name] for name in wanted]


def _followed(manager: Manager, request: control_pb2.EventsRequest) -> Iterator[types.Event]:
    """All that there are, in order; a manager that dies is replaced by the next one, which goes on."""
    failures = 0
    while True:
        try:
            for event in manager.events(request):
                failures = 0
                request.after = event.meta.id
                yield event
        except (Unavailable, OutcomeUnknown):
            if failures == len(RETRY_DELAYS_S):
                raise
        else:
            return
        time.sleep(RETRY_DELAYS_S[failures])
        failures += 1
        manager.leave_endpoint()


def documents(event: types.Event) -> Iterator[Document]:
    """One for each thing that it is about, as docker's JSON has it."""
    kind = types.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
    at_ns = event.meta.created_at.ToNanoseconds()
    for subject in event.subjects or [types.EventSubject()]:
        yield {
            "Type": kind,
            "Action": event.action,
            "Actor": {"ID": subject.id or NOTHING, "Attributes": _attributes(event, subject)},
            "scope": "swarm",
            "time": at_ns // 10**9,
            "timeNano": at_ns,
        }


def _attributes(event: types.Event, subject: types.EventSubject) -> Mapping[str, str]:
    """In the order of their names, as docker has them."""
    found = {
        **event.attributes,
        "name": subject.name,
        "epoch": str(subject.epoch or ""),
        "node": ",".join(event.nodes),
        "reason": event.reason,
        "count": str(event.count or ""),
    }
    return {name: value for name, value in sorted(found.items()) if value}


def _line(document: Document) -> str:
    seconds, nanoseconds = divmod(document["timeNano"], 10**9)
    at = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    actor = document["Actor"]
    attributes = ", ".join(f"{name}={value}" for name, value in actor["Attributes"].items())
    told = f"{at}.{nanoseconds:09}Z {document['Type']} {document['Action']} {actor['ID']}"
    return f"{told} ({attributes})" if attributes else told


def _formatted(format_: str) -> Callable[[Document], str]:
    from swarmnet.cli.template import parse

    return parse("{{json .}}" if format_ == "json" else format_).render


class _Hostnames:
    """Node ids by hostname, asked for when a filter names a node."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._known: dict[str, set[str]] | None = None

    def ids(self, hostname: str) -> set[str]:
        if self._known is None:
            self._known = {}
            answer = self._manager.call(
                lambda control: control.ListNodes, control_pb2.ListNodesRequest(), repeatable=True
            )
            for view in answer.nodes:
                self._known.setdefault(view.node.hostname, set()).add(view.node.meta.id)
        return self._known.get(hostname, set())


def _matchers(hostnames: _Hostnames) -> Mapping[str, Matcher[Document]]:
    def node(document: Document, text: str) -> bool:
        attributes = document["Actor"]["Attributes"]
        concerned = set(attributes.get("node", "").split(",")) - {""}
        if document["Type"] == "node":
            concerned.add(document["Actor"]["ID"])
        return any(each.startswith(text) for each in concerned) or bool(concerned & hostnames.ids(text))

    return {
        "type": lambda document, text: document["Type"] == text,
        "event": lambda document, text: document["Action"] == text,
        "scope": lambda document, text: document["Type"] == "key" and _is_named(document, text),
        "network": lambda document, text: (
            document["Type"] in {"network", "key"} and _is_named(document, text)
        ),
        "service": lambda document, text: document["Type"] == "service" and _is_named(document, text),
        "config": lambda document, text: document["Type"] == "config" and _is_named(document, text),
        "node": node,
        "name": lambda document, text: document["Actor"]["Attributes"].get("name") == text,
    }


def _is_named(document: Document, text: str) -> bool:
    """By the start of its id, or its name."""
    actor: Any = document["Actor"]
    return str(actor["ID"]).startswith(text) or actor["Attributes"].get("name") == text
