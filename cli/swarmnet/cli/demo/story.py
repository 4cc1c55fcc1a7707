"""Tells the demo, inside its lab: every step in order, and the figures at the end.

python -m swarmnet.cli.demo.story
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from swarmnet.cli.demo.attacks import INJECTION, OUTSIDERS
from swarmnet.cli.demo.screen import Screen
from swarmnet.cli.demo.stage import Miss, Stage
from swarmnet.cli.demo.steps import MAIN_JOB, UNDER_STRESS
from swarmnet.cli.lab.place import Lab


def tell() -> int:
    """0 when everything came out as promised, else 1."""
    steps = (*MAIN_JOB, *OUTSIDERS, *UNDER_STRESS, *INJECTION)
    screen = Screen(len(steps))
    stage = Stage(Lab.load(), screen)
    started = time.monotonic()
    try:
        for step in steps:
            with screen.step(step.title) as facts:
                step.act(stage, facts)
    except (Miss, OSError, subprocess.TimeoutExpired) as miss:
        screen.line(f"\ndemo: failed: {miss}", "bold red")
        return 1
    stage.figure("total_s", time.monotonic() - started)
    screen.line("\ndemo: ok", "bold green")
    print(json.dumps(stage.figures))
    return 0


if __name__ == "__main__":
    sys.exit(tell())
