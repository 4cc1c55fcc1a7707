"""`swarmnet info`: what the daemons of this host are, in a swarm or not. Health checks ask it."""

from __future__ import annotations

from typing import Final

import click

from swarmnet.api.v1 import local_pb2, types_pb2
from swarmnet.cli.daemons import Kind, find_daemon
from swarmnet.cli.output import print_pairs
from swarmnet.cli.session import Session
from swarmnet.core.errors import Unavailable

_ROLES: Final = {types_pb2.ROLE_MANAGER: "manager", types_pb2.ROLE_WORKER: "worker"}


@click.command()
@click.option("--manager", "kind", flag_value="manager", help="The manager, if both daemons run here.")
@click.option("--worker", "kind", flag_value="worker", help="The worker, if both daemons run here.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing: the exit status tells whether all is well.")
@click.pass_obj
def info(session: Session, *, kind: Kind | None, quiet: bool) -> None:
    """Tell what this host's daemon is: its role, its swarm, and whether it works.

    Exit status 1 if the daemon does not answer or reports an error. A daemon outside any swarm is well.

    \b
    Example:
      swarmnet info
    """
    daemon = find_daemon(session.run_dir, kind)
    found = daemon.call(lambda local: local.GetInfo, local_pb2.GetInfoRequest())
    if not quiet:
        print_pairs(_described(found))
    if found.state == "error":
        raise Unavailable(
            f"swarmnet-{daemon.kind} reports: {found.error}", hint="Its log on this host tells more."
        )


def _described(found: local_pb2.LocalInfo) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [
        ("Version", found.version),
        ("Role", _ROLES.get(found.role, "unknown")),
        ("Swarm", found.state),
    ]
    if found.error:
        pairs.append(("Error", found.error))
    if found.node_id:
        pairs += [("NodeID", found.node_id), ("ClusterID", found.cluster_id)]
    if found.role == types_pb2.ROLE_WORKER and found.node_id:
        pairs += [("Manager", found.manager_id or "none"), ("Running tasks", found.running_tasks)]
    if found.refused:
        pairs.append(("Refused", {name.lower(): found.refused[name] for name in sorted(found.refused)}))
    return pairs
