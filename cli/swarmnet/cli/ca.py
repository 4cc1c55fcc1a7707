"""`swarmnet swarm ca`: show the root certificate, and replace it while everything goes on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.cli.arguments import request_id
from swarmnet.cli.durations import duration_option
from swarmnet.cli.follow import follow
from swarmnet.cli.manager import Manager
from swarmnet.cli.root_rotation import RootRotation
from swarmnet.cli.session import Session
from swarmnet.core.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration


@click.command()
@click.option("--rotate", is_flag=True, help="Replace the root certificate, and every node's with it.")
@click.option("--ca-cert", default="", metavar="FILE", help="The new root, PEM. [default: one is made]")
@click.option("--ca-key", default="", metavar="FILE", help="Its private key, PEM.")
@click.option("--cert-expiry", callback=duration_option, metavar="TIME",
              help="How long certificates of nodes last.")  # fmt: skip
@click.option("-d", "--detach", is_flag=True, help="Leave at once; do not wait for the nodes.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@click.pass_obj
def ca(
    session: Session,
    *,
    rotate: bool,
    ca_cert: str,
    ca_key: str,
    cert_expiry: Duration | None,
    detach: bool,
    quiet: bool,
) -> None:
    """Print the swarm's root certificate, or replace it.

    While it is replaced the old root vouches for the new one; once every node has moved, the old one counts
    for nothing any more, and the join tokens are new. A node that is away is waited for; `swarmnet node rm`
    gives it up.

    \b
    Example:
      swarmnet swarm ca --rotate
    """
    given = {"--ca-cert": ca_cert, "--ca-key": ca_key, "--cert-expiry": cert_expiry, "--detach": detach}
    if not rotate:
        _check_alone([name for name, value in given.items() if value])
        _print_root(session.manager)
        return
    request = control_pb2.RotateRootCertificateRequest(
        root_certificate_pem=_read(ca_cert),
        root_key_pem=_read(ca_key),
        certificate_lifetime=cert_expiry,
        request_id=request_id(),
    )
    answer = session.manager.call(lambda control: control.RotateRootCertificate, request, repeatable=True)
    if detach:
        return
    try:
        follow(session.manager, RootRotation(answer.cluster), None if quiet else sys.stdout)
    except KeyboardInterrupt:
        click.echo(
            "Operation continuing in background.\nUse `swarmnet swarm ca` to check progress.", err=True
        )
        raise
    _print_root(session.manager)


def _check_alone(given: list[str]) -> None:
    if given:
        raise InvalidArgument(
            f"{given[0]} requires --rotate",
            hint="`swarmnet swarm ca --rotate` replaces the root certificate.",
        )


def _print_root(manager: Manager) -> None:
    """The root goes to stdout, what is going on to stderr."""
    request = control_pb2.GetClusterRequest()
    cluster = manager.call(lambda control: control.GetCluster, request, repeatable=True).cluster
    click.echo(cluster.root_certificate_pem, nl=False)
    if cluster.HasField("root_rotation"):
        progress = RootRotation(cluster)
        progress.load(manager)
        click.echo(
            "\n".join(("The root certificate is being replaced.", *progress.lines(bars=False))), err=True
        )


def _read(file: str) -> str:
    if not file:
        return ""
    try:
        with open(file, encoding="ascii") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not PEM"
        raise InvalidArgument(f"cannot read {file}: {why}", hint="Give a PEM file.") from None
