"""Rotations under streams of datagrams, none of which may be lost to them.

    make hitless ROTATIONS=1000 SEED=1

Tells what happens on standard error, and on standard output one JSON object a figure. The exit status is 1 if
anything did not hold. The figures known so far are in figures.jsonl beside the logs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.hitless.stage import ATTACKER

from swarmnet.cli.lab import linux

_SWARMNET: Final = str(Path(sys.executable).with_name("swarmnet"))
FIGURES: Final = "figures.jsonl"
_ROOT: Final = Path(__file__).parents[2]


def hitless(
    rotations: int,
    faulty: int,
    seed: int,
    workers: int,
    logs: Path,
    *,
    kernel: str = "auto",
    scale: str = "long",
) -> int:
    """The exit status; the figures are in `logs`/figures.jsonl."""
    logs.mkdir(parents=True, exist_ok=True)
    figures = logs / FIGURES
    figures.unlink(missing_ok=True)
    lab = [_SWARMNET, "lab", "run", "--kernel", kernel, "--managers", "3", "--workers", str(workers)]
    lab += ["--host", ATTACKER, "--logs", str(logs), "--"]
    story = [sys.executable, "-m", "tests.hitless.story", str(figures)]
    story += [str(rotations), str(faulty), str(seed), scale]
    return subprocess.run(
        [*lab, *story],
        cwd=_ROOT,
        stdout=sys.stderr,
        check=False,
        preexec_fn=linux.die_with_parent,
    ).returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rotations", type=int, default=1000)
    parser.add_argument("--faulty", type=int, help="of them, while daemons are killed (default: one in 20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--logs", type=Path, default=Path("out/hitless"))
    arguments = parser.parse_args()
    faulty = arguments.rotations // 20 if arguments.faulty is None else arguments.faulty
    logs = (arguments.logs / f"seed-{arguments.seed}").absolute()
    status = hitless(arguments.rotations, faulty, arguments.seed, arguments.workers, logs)
    figures = logs / FIGURES
    print(figures.read_text() if figures.exists() else "", end="")
    sys.exit(status)


if __name__ == "__main__":
    main()
