"""The command `swarmnet`: the groups of commands, and the one place where errors become text and exit status.

A group's module is imported when the group is used, so that `swarmnet --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from swarmnet.cli.output import print_error
from swarmnet.cli.session import Session
from swarmnet.core.errors import Internal, SwarmnetError

INTERRUPTED: Final = 128 + 2
"""Exit status after Ctrl-C, as shells have it."""


class _Lazy(NamedTuple):
    target: str
    help: str


_COMMANDS: Final[Mapping[str, _Lazy]] = {
    "swarm": _Lazy("swarmnet.cli.swarm:swarm", "Make, join and leave a swarm, back it up and restore it."),
    "node": _Lazy("swarmnet.cli.node:node", "Manage the swarm's nodes."),
    "network": _Lazy("swarmnet.cli.network:network", "Manage networks."),
    "config": _Lazy("swarmnet.cli.config:config", "Manage configs: small blobs that all managers keep."),
    "service": _Lazy("swarmnet.cli.service:service", "Manage services and their tasks."),
    "key": _Lazy("swarmnet.cli.key:key", "See and rotate the encryption keys."),
    "encryption": _Lazy("swarmnet.cli.encryption:encryption", "See and prove what is encrypted on the wire."),
    "events": _Lazy("swarmnet.cli.events:events", "Tell what happens in the swarm, to its keys above all."),
    "raft": _Lazy("swarmnet.cli.raft:raft", "See how the managers agree, and who leads them."),
    "run": _Lazy("swarmnet.cli.run:run", "Refused for swarm networks: only tasks of services join them."),
    "info": _Lazy("swarmnet.cli.info:info", "Tell what this host's daemon is, and whether it works."),
    "lab": _Lazy("swarmnet.cli.lab.commands:lab", "Try a whole swarm on this one machine."),
    "demo": _Lazy("swarmnet.cli.demo.commands:demo", "See the main job done in a lab, step by step."),
}


class LazyGroup(click.Group):
    """A group whose commands are known by name and one line of help until one is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (lazy := _COMMANDS.get(cmd_name)) is None:
            return None
        module, name = lazy.target.split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in _COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"swarmnet {version('swarmnet')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-H", "--host", default="", metavar="HOST", help="unix:///PATH or HOST:2377[,HOST:2377...].")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
              help="Print the version and leave.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, host: str) -> None:
    """An encrypted overlay network for a fleet of Linux hosts.

    \b
    A first session, on a manager:
      swarmnet swarm init
      swarmnet network create --driver overlay --opt encrypted my-network
      swarmnet service create --name web --replicas 3 --network my-network my-image
      swarmnet service ps web

    SWARMNET_HOST names the managers to ask (the one on this host unless set); over TCP with the files
    SWARMNET_CACERT, SWARMNET_CERT and SWARMNET_KEY.
    """
    ctx.obj = Session(os.environ, host)
    ctx.call_on_close(ctx.obj.close)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0 or 1, 130 after Ctrl-C; errors go to stderr, with what to do next."""
    try:
        status: Any = cli.main(arguments, prog_name="swarmnet", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
    except click.ClickException as error:
        print_error(SwarmnetError(error.format_message(), hint=_see_help(error)))
    except SwarmnetError as error:
        print_error(error)
    except Exception as error:
        if os.environ.get("SWARMNET_DEBUG"):
            raise
        print_error(
            Internal(
                f"unexpected {type(error).__name__}: {error}",
                hint="This is a defect in swarmnet. SWARMNET_DEBUG=1 shows where it happened.",
            )
        )
    return 1


def _silence_stdout() -> None:
    """The reader has left: what Python still flushes at its end goes nowhere, without another error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _see_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See '{context.command_path} --help'." if isinstance(context, click.Context) else ""
