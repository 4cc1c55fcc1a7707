"""`swarmnet run`: what starts containers elsewhere. A swarm network refuses it, and says what to do."""

from __future__ import annotations

import click

from swarmnet.api.v1 import control_pb2, local_pb2
from swarmnet.cli.daemons import find_daemon
from swarmnet.cli.session import Session
from swarmnet.core.errors import Internal, NotAManager


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--network", "--net", required=True, metavar="NETWORK", help="The network to join.")
@click.argument("image")
@click.argument("command", nargs=-1)
@click.pass_obj
def run(session: Session, *, network: str, image: str, command: tuple[str, ...]) -> None:
    """Ask to join a network from outside any service: always refused, with what to do instead.

    \b
    Example:
      swarmnet run --network my-network my-image
    """
    request = control_pb2.AttachNetworkRequest(ref=network, image=image, command=command)
    try:
        session.manager.call(lambda control: control.AttachNetwork, request)
    except NotAManager:
        local = local_pb2.AttachRequest(network=network, image=image, command=command)
        find_daemon(session.run_dir).call(lambda daemon: daemon.Attach, local)
    raise Internal(
        f"the attachment to network {network} was not refused",
        hint="This is a defect in swarmnet. Only tasks of services may join a network; nothing was started.",
    )
