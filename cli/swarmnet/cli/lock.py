"""`swarmnet swarm unlock` and `unlock-key`: managers that need a key after a restart."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from swarmnet.api.v1 import control_pb2, local_pb2
from swarmnet.cli.daemons import find_daemon
from swarmnet.cli.session import Session

_MAX_KEY_BYTES: Final = 4096
autolock_option = click.option("--autolock", type=bool, is_flag=False, flag_value=True, default=None,
                               metavar="[true|false]",
                               help="Managers need an unlock key after a restart.")  # fmt: skip


@click.command()
@click.pass_obj
def unlock(session: Session) -> None:
    """Unlock this host's manager, which was restarted, with the swarm's unlock key.

    The key is asked for on a terminal, and else read from stdin: others on this host can read a command line.

    \b
    Example:
      swarmnet swarm unlock
    """
    request = local_pb2.UnlockRequest(unlock_key=_asked_key())
    find_daemon(session.run_dir, "manager").call(lambda daemon: daemon.Unlock, request)


def _asked_key() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Please enter unlock key", hide_input=True, err=True)).strip()
    return sys.stdin.readline(_MAX_KEY_BYTES).strip()


@click.command("unlock-key")
@click.option("--rotate", is_flag=True, help="Make a new key; the managers need that one from now on.")
@click.option("-q", "--quiet", is_flag=True, help="Print the key only.")
@click.pass_obj
def unlock_key(session: Session, rotate: bool, quiet: bool) -> None:
    """Print the key that unlocks this swarm's managers, or replace it by a new one.

    A manager that is down while the key is replaced still needs the old one when it comes back.

    \b
    Example:
      swarmnet swarm unlock-key --rotate
    """
    if rotate:
        request = control_pb2.UpdateClusterRequest(rotate_unlock_key=True)
        session.manager.call(lambda control: control.UpdateCluster, request)
    answer = known_key(session)
    if quiet:
        click.echo(answer.unlock_key)
        return
    if rotate:
        click.echo("Successfully rotated manager unlock key.\n")
    print_unlock_key(answer)


def known_key(session: Session) -> control_pb2.GetUnlockKeyResponse:
    request = control_pb2.GetUnlockKeyRequest()
    return session.manager.call(lambda control: control.GetUnlockKey, request, repeatable=True)


def print_unlock_key(answer: control_pb2.GetUnlockKeyResponse) -> None:
    """Docker's words for it, and who does not need this key yet."""
    click.echo(
        "To unlock a swarm manager after it restarts, run the `swarmnet swarm unlock`\n"
        f"command and provide the following key:\n\n    {answer.unlock_key}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )
    _print_behind(answer.behind)


def _print_behind(managers: Sequence[str]) -> None:
    if managers:
        click.echo(
            f"\nNot there yet: {', '.join(sorted(managers))}. They need what they needed before until\n"
            "`swarmnet node ls --format '{{.Hostname}} {{.Lock}}'` says that they are current."
        )
