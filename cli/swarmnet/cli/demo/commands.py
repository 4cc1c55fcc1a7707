"""`swarmnet demo`: the main job, shown in a lab on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import click

from swarmnet.cli.demo.attacks import ATTACKER, STRANGER
from swarmnet.cli.lab import kernel as kernels
from swarmnet.cli.lab import runner, uml

_STORY = (sys.executable, "-m", "swarmnet.cli.demo.story")


@click.command()
@click.option("--kernel", type=click.Choice(["auto", "host", "uml"]), default="auto", show_default=True,
              help="auto: the running kernel where it has ESP, else user-mode-linux.")  # fmt: skip
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Keep the daemons' logs here (default: a new folder, kept on failure).")  # fmt: skip
def demo(kernel: str, logs: Path | None) -> None:
    """Three managers, three workers, an attacker: an encrypted network between them, and what it withstands.

    The last line is a JSON object of every figure, the one before `demo: ok`. Exit status 1 after any miss.

    \b
    Example:
      swarmnet demo
    """
    chosen = kernels.choose(cast("kernels.Kernel", kernel))
    if chosen == "uml":
        click.echo("This kernel has no ESP: booting Debian's user-mode-linux on the same files.")

    def start(folder: Path) -> int:
        if chosen == "uml":
            again = [
                str(Path(sys.executable).with_name("swarmnet")),
                "demo",
                "--kernel",
                "host",
                "--logs",
                str(folder),
            ]
            return uml.run(again)
        wanted = runner.Wanted(3, 3, (ATTACKER, STRANGER), join=False, logs=folder)
        return runner.run(wanted, _STORY, lambda text: click.echo(f"lab: {text}"))

    sys.exit(runner.with_logs(logs, start))
