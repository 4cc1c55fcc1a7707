"""The figures of a cluster: three managers and three workers, five times on each kernel.

    python -m bench.cluster [--runs 5] [--kernel host|uml]...

On this machine's kernel with plain networks; in the one with ESP with encrypted ones. Each run is a new lab,
in which cluster_run.py measures. Each figure is one JSON line, exit status 1 if a run failed; a missed reach
says "ok": false.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from bench.report import line

ROOT: Final = Path(__file__).parents[1]
SWARMNET: Final = str(Path(sys.executable).with_name("swarmnet"))

REACH: Final = {
    # case: (unit, this machine's kernel with plain networks, the ESP kernel with encrypted ones)
    "worker joined, by the API": ("s", 0.1, 0.5),
    "worker joined, by the CLI": ("s", 0.25, 1.0),
    "network created, by the CLI": ("s", 0.25, 1.0),
    "service of 3 created until all reach each other": ("s", 1.0, 3.0),
    "scaled up until the new task answers on another host": ("s", 0.7, 2.0),
    "leading manager killed until the next write": ("s", 1.5, 3.0),
    "pings lost in a rotation at 200/s": ("pings", 0, 0),
    "memory of an idle manager": ("MiB", 120, 120),
    "memory of an idle worker": ("MiB", 100, 100),
}


def measure(kernel: str) -> dict[str, list[float]]:
    """The figures of one run in a lab of its own."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        lab = [SWARMNET, "lab", "run", "--managers", "3", "--workers", "3", "--kernel", kernel, "--no-join"]
        inside = [
            sys.executable,
            "-m",
            "bench.cluster_run",
            str(figures),
            "plain" if kernel == "host" else "encrypted",
        ]
        done = subprocess.run(
            [*lab, "--logs", f"{folder}/logs", "--", *inside], stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
        if done.returncode:
            sys.exit(f"a run on the {kernel} kernel failed:\n{done.stderr.decode(errors='replace')}")
        found: dict[str, list[float]] = json.loads(figures.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kernel", choices=("host", "uml"), action="append")
    arguments = parser.parse_args()
    for kernel in arguments.kernel or ("host", "uml"):
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.runs):
            for case, values in measure(kernel).items():
                found[case].extend(values)
        for case, (unit, *reaches) in REACH.items():
            where = "host kernel, plain" if kernel == "host" else "ESP kernel, encrypted"
            print(
                line("cluster", f"{case} ({where})", unit, found[case], reaches[kernel == "uml"]), flush=True
            )


if __name__ == "__main__":
    main()
