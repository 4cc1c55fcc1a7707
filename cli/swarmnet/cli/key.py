"""`swarmnet key`: ls and rotate. Keys themselves are never shown, and no API returns them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.durations import until
from swarmnet.cli.filters import Filter, Matcher
from swarmnet.cli.follow import follow
from swarmnet.cli.output import Listing, Row, list_options
from swarmnet.cli.rotation import Rotation, current_epoch, list_keys
from swarmnet.cli.session import Session
from swarmnet.core.ids import SHORT_ID_LENGTH

KEYS: Final = Listing(
    {
        "ID": "SCOPE",
        "Name": "NAME",
        "Epoch": "EPOCH",
        "Phase": "PHASE",
        "Nodes": "NODES",
        "WaitingFor": "WAITING FOR",
        "DueAt": "NEXT ROTATION",
        "Epochs": "EPOCHS",
        "Reason": "REASON",
    },
    shown=("ID", "Name", "Epoch", "Phase", "Nodes", "WaitingFor", "DueAt"),
)
FILTERS: Final[Mapping[str, Matcher[control_pb2.KeyView]]] = {
    "name": lambda view, text: text in view.name,
    "id": lambda view, text: view.scope.meta.id.startswith(text),
    "phase": lambda view, text: _phase_word(view.scope) == text,
}


def _phase_word(scope: types.KeyScope) -> str:
    return types.RotationPhase.Name(scope.phase).removeprefix("ROTATION_PHASE_").lower()


@click.group()
def key() -> None:
    """See and rotate the encryption keys."""


@key.command()
@list_options
@click.pass_obj
def ls(session: Session, format_: str, quiet: bool, filters: tuple[str, ...], no_trunc: bool) -> None:
    """List the scopes of keys: gossip, and each network.

    \b
    Example:
      swarmnet key ls
    """
    found = filter(Filter(filters, FILTERS), list_keys(session.manager).values())
    ordered = sorted(found, key=lambda view: (view.scope.meta.id != "gossip", view.name))
    KEYS.print([_row(view, no_trunc=no_trunc) for view in ordered], format_=format_, quiet=quiet)


@key.command()
@click.option("--network", default="", metavar="NETWORK", help="Only this network's keys, or `gossip`.")
@click.option("-d", "--detach", is_flag=True, help="Leave at once; do not wait for the nodes.")
@click.pass_obj
def rotate(session: Session, network: str, detach: bool) -> None:
    """Replace keys by new ones without losing a packet: every key unless a network is named.

    \b
    Example:
      swarmnet key rotate --network my-multi-host-network
    """
    before = list_keys(session.manager)
    request = control_pb2.RotateKeysRequest(ref=network)
    scopes = session.manager.call(lambda control: control.RotateKeys, request).scopes
    if detach:
        for scope in scopes:
            click.echo(scope)
        return
    try:
        follow(session.manager, Rotation(scopes, before), sys.stdout)
    except KeyboardInterrupt:
        click.echo("Rotation continuing in background.\nUse `swarmnet key ls` to check progress.", err=True)
        raise
    click.echo("verify: Keys rotated")


def _row(view: control_pb2.KeyView, *, no_trunc: bool) -> Row:
    scope = view.scope
    return {
        "ID": scope.meta.id if no_trunc else scope.meta.id[:SHORT_ID_LENGTH],
        "Name": view.name,
        "Epoch": str(current_epoch(scope)),
        "Phase": _phase_word(scope),
        "Nodes": str(len(view.entitled)),
        "WaitingFor": ",".join(id_ if no_trunc else id_[:SHORT_ID_LENGTH] for id_ in view.waiting_for),
        "DueAt": until(scope.due_at),
        "Epochs": ",".join(str(each.number) for each in scope.epochs),
        "Reason": scope.reason,
    }
