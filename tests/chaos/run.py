"""Managers under random faults, in a lab of this kernel.

    make chaos-raft MINUTES=10 SEED=1

Prints what happens, and at the end one JSON object with the figures. The exit status is 1 if anything did not
hold: see the logs, and run the same seed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

_SWARMNET: Final = str(Path(sys.executable).with_name("swarmnet"))


def chaos(seconds: float, seed: int, managers: int, logs: Path) -> dict[str, Any]:
    """The figures of one run; `violations` holds all that did not hold."""
    lab = [_SWARMNET, "lab", "run", "--kernel", "host", "--managers", "0", "--workers", "0"]
    lab += [part for number in range(managers) for part in ("--host", f"m{number + 1}")]
    program = [sys.executable, "-m", "tests.chaos.experiment", str(seconds), str(seed)]
    logs.mkdir(parents=True, exist_ok=True)
    summary = logs / "summary.json"
    summary.unlink(missing_ok=True)
    subprocess.run([*lab, "--logs", str(logs), "--", *program], check=False)
    if not summary.exists():
        return {"seed": seed, "faults": 0, "violations": [f"the run broke off: see {logs}"]}
    return dict(json.loads(summary.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--managers", type=int, choices=(3, 5), default=3)
    parser.add_argument("--logs", type=Path, default=Path("out/chaos-raft"))
    arguments = parser.parse_args()
    logs = (arguments.logs / f"seed-{arguments.seed}").absolute()
    figures = chaos(arguments.minutes * 60, arguments.seed, arguments.managers, logs)
    print(json.dumps(figures))
    sys.exit(1 if figures["violations"] else 0)


if __name__ == "__main__":
    main()
