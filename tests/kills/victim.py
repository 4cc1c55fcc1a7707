"""A worker's data path that dies: a child for each wish, which carries it out and then waits for its end.

Reads one line of JSON for each wish (`Wish.told`) on standard input, and writes one when the child begins
(its process id), when it has done it (with the errors that it reports) and when it is dead. Forked, a child
needs no time for imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.kills.wish import Wish

from swarmnet.cli.lab import linux
from swarmnet.worker.datapath.datapath import Datapath


def main() -> None:
    root = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(_live(root, Wish.of(json.loads(line))))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        _say({"died": os.waitstatus_to_exitcode(status)})


async def _live(root: Path, wish: Wish) -> None:
    linux.die_with_parent()
    _say({"pid": os.getpid()})
    datapath = Datapath(root / "run", root / "state")
    await datapath.start()
    told = await datapath.apply(wish.desired("w1"))
    problems = [each.error for each in told.networks.values() if each.error] + list(told.tasks.values())
    _say({"done": problems})
    signal.pause()


def _say(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
