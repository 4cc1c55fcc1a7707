"""Attacks on the data path of three workers, in a kernel with ESP.

    make attack COUNT=50

One JSON object a row on standard output, a table for people on standard error. The exit status is 1 if
anything was delivered or leaked that must not be, or if a control shows that it would not have been seen.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
from tests.attack.row import Result, Row
from tests.attack.rows import ROWS
from tests.attack.scene import Scene

_HEAD: Final = ("attack", "network", "sent", "delivered", "leaked", "ok", "docker swarm 20.10.24")


def attack(directory: Path, rows: Sequence[Row], count: int) -> list[Result]:
    """All rows on one scene, one after the other; their figures are printed."""
    results = []
    with Scene(directory) as scene:
        for row in rows:
            result = row.run(scene, count)
            print(json.dumps(result.figure()), flush=True)
            results.append(result)
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown, as in docs/attacks.md."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(_cells(each) for each in results)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(result: Result) -> tuple[str, ...]:
    figure = result.figure()
    verdict = {True: "yes", False: "**no**", None: "-"}[result.ok]
    numbers = [str(figure[name]) for name in ("sent", "delivered", "leaked")]
    return (figure["case"], figure["network"], *numbers, verdict, figure["docker_swarm"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50, help="packets of each sort")
    parser.add_argument("--only", default="", help="rows with this in their names")
    arguments = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    rows = [row for row in ROWS if arguments.only in row.case]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as directory:
        results = attack(Path(directory), rows, arguments.count)
    print(table(results), file=sys.stderr)
    print(f"{len(results)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(1 if not results or any(each.ok is False for each in results) else 0)


if __name__ == "__main__":
    main()
