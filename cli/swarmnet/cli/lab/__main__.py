"""`python -m swarmnet.cli.lab` is `swarmnet lab`."""

from swarmnet.cli.lab.commands import lab

lab(prog_name="swarmnet lab")
