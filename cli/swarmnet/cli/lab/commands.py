"""`swarmnet lab`: a swarm of hosts on this machine, each in network namespaces of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from swarmnet.cli.lab import enter, runner, uml
from swarmnet.cli.lab import kernel as kernels
from swarmnet.cli.lab.place import Lab

_COMMAND_SETTINGS: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_KERNEL_OPTION: Final = click.option(
    "--kernel",
    type=click.Choice(["auto", "host", "uml"]),
    default="auto",
    show_default=True,
    help="auto: the running kernel where it has ESP, else user-mode-linux.",
)
_LAB_OPTIONS: Final = (
    click.option("--managers", type=click.IntRange(0), default=3, show_default=True),
    click.option("--workers", type=click.IntRange(0), default=3, show_default=True),
    click.option("--host", "hosts", multiple=True, metavar="NAME", help="One more host, with nothing on it."),
    _KERNEL_OPTION,
    click.option("--no-join", is_flag=True, help="Start the daemons, but make no swarm of them."),
    click.option("--both", is_flag=True,
                 help="Both daemons on every host: nodes can be promoted and demoted."),
    click.option("--logs", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Keep the daemons' logs here (default: a new folder, kept if the command fails)."),
)  # fmt: skip
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _lab_options(command: CommandT) -> CommandT:
    for option in reversed(_LAB_OPTIONS):
        command = option(command)
    return command


@click.group()
def lab() -> None:
    """A swarm on this machine: hosts are network namespaces on one underlay.

    \b
    Example:
      swarmnet lab shell --managers 3 --workers 3
    """


@lab.command(context_settings=_COMMAND_SETTINGS)
@_lab_options
@click.argument("command", nargs=-1, required=True)
def run(command: tuple[str, ...], **options: Any) -> None:
    """Builds a lab, runs COMMAND in it, and gives back its exit status; nothing of the lab stays.

    COMMAND finds the swarm by SWARMNET_HOST. It runs beside the underlay's bridge: 10.133.0.1 of
    10.133.0.0/24, with managers from .11, workers from .21, other hosts from .31.

    \b
    Example:
      swarmnet lab run --managers 3 --workers 2 --host attacker -- swarmnet node ls
    """
    sys.exit(_run(command, **options))


@lab.command()
@_lab_options
def shell(**options: Any) -> None:
    """Builds a lab and opens a prompt in it.

    \b
    Example:
      swarmnet lab shell --managers 1 --workers 2
      lab# swarmnet node ls
      lab# swarmnet lab exec w1 -- ip address
    """
    shell_of_user = os.environ.get("SHELL", "/bin/sh")
    os.environ["PS1"] = "lab# "
    quiet = ["--norc", "--noprofile"] if Path(shell_of_user).name == "bash" else []
    sys.exit(_run((shell_of_user, *quiet, "-i"), **options))


@lab.command("exec", context_settings=_COMMAND_SETTINGS)
@click.argument("host")
@click.argument("command", nargs=-1, required=True)
def exec_(host: str, command: tuple[str, ...]) -> None:
    """Runs COMMAND in one host of the lab that SWARMNET_LAB names.

    \b
    Example:
      swarmnet lab exec w1 -- ip -s xfrm state
    """
    here = Lab.load()
    here.host(host)
    argv = list(command[1:] if command[0] == "--" else command)
    os.environ.pop("SWARMNET_HOST", None)  # a host has managers of its own, or none
    if here.is_inside():
        enter.become(here, host, "", argv)
    sys.exit(enter.enter(here, host, "", argv))


@lab.command(context_settings=_COMMAND_SETTINGS)
@_KERNEL_OPTION
@click.argument("command", nargs=-1, required=True)
def kernel(kernel: str, command: tuple[str, ...]) -> None:
    """Runs COMMAND in a kernel that has ESP, on the same files, and gives back its exit status."""
    if kernels.choose(cast("kernels.Kernel", kernel)) == "uml":
        sys.exit(uml.run(command))
    os.execvp(command[0], command)  # noqa: S606  no shell wanted


def _run(
    command: tuple[str, ...],
    *,
    managers: int,
    workers: int,
    hosts: tuple[str, ...],
    kernel: str,
    no_join: bool,
    both: bool,
    logs: Path | None,
) -> int:
    chosen = kernels.choose(cast("kernels.Kernel", kernel))

    def start(folder: Path) -> int:
        wanted = runner.Wanted(managers, workers, hosts, join=not no_join, both=both, logs=folder)
        if chosen == "host":
            return runner.run(wanted, command, lambda text: click.echo(f"lab: {text}", err=True))
        return uml.run([*_again(wanted), "--", *command])

    return runner.with_logs(logs, start)


def _again(wanted: runner.Wanted) -> list[str]:
    """The same lab, asked for in the other kernel."""
    argv = [sys.executable, "-m", "swarmnet.cli.lab", "run", "--kernel", "host"]
    argv += ["--managers", str(wanted.managers), "--workers", str(wanted.workers)]
    argv += [part for name in wanted.bare for part in ("--host", name)]
    argv += [] if wanted.join else ["--no-join"]
    argv += ["--both"] if wanted.both else []
    return [*argv, "--logs", str(wanted.logs)]
