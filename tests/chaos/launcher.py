"""swarmnet-manager as it is, on a disk and a clock that can be made to misbehave.

    python -m tests.chaos.launcher CONTROLS STATE-FILE LOG-ENTRIES [swarmnet-manager's arguments…]

Starts a manager, a process of its own, for each line on standard input; says its process number, and when
it has ended, its status. All that a manager imports is loaded beforehand: on a busy machine, Python's start
would take longer than the managers need to agree.

SIGUSR1 has a manager write its index and a digest of its whole state machine to STATE-FILE. LOG-ENTRIES is
how many entries make a snapshot due: so few that snapshots are taken, sent and interrupted all the time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos.control import Controls, DieAt


def misbehave(controls: Controls) -> None:
    """Put our clock and disk in the place of the system's; before anything else has taken hold of those."""
    of_day = time.time
    time.time = lambda: of_day() + controls.clock_offset_s
    for name in ("fsync", "fdatasync"):
        setattr(os, name, partial(_sync, controls, getattr(os, name)))


def _sync(controls: Controls, sync: Callable[[int], None], descriptor: int) -> None:
    if (when := controls.die_at) is not DieAt.NEVER:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if when is DieAt.ANY_SYNC or "snapshot" in path:
            controls.die_at = DieAt.NEVER
            os.kill(os.getpid(), signal.SIGKILL)
    if (delay_s := controls.sync_delay_s) > 0:
        time.sleep(delay_s)
    sync(descriptor)


def main() -> None:
    file, state_file, log_entries, *arguments = sys.argv[1:]
    misbehave(Controls(Path(file)))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until it can tell
    from swarmnet.manager import main as program

    program.prepare_grpc()
    stores = _watch_stores(int(log_entries))
    program._serve = _telling(program._serve, partial(_tell, stores, Path(state_file)))
    sys.argv = ["swarmnet-manager", *arguments]
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(program.main)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(manager: Callable[[], None]) -> NoReturn:
    """Standard input and output are the launcher's."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.setsid()
    try:
        manager()
    except SystemExit as leaving:
        print(leaving, file=sys.stderr)
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _watch_stores(log_entries: int) -> list[Any]:
    """The store of every swarm that this manager is part of, as it comes up; and shorter logs."""
    from swarmnet.manager import active, daemon, store  # noqa: F401  the daemon: all that it imports
    from swarmnet.manager.raft import node

    made: list[Any] = []

    def watched() -> store.Store:
        made.append(store.Store())
        return made[-1]  # type: ignore[no-any-return]

    vars(active)["Store"] = watched
    vars(node)["Tuning"] = partial(node.Tuning, log_entries=log_entries)
    return made


def _telling(serve: Callable[..., Any], tell: Callable[[], None]) -> Callable[..., Any]:
    async def served(settings: object) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
        await serve(settings)

    return served


def _tell(stores: list[Any], file: Path) -> None:
    """Whole or not at all; a manager that has not taken its state over yet says index 0."""
    from swarmnet.api.v1 import store_pb2

    snapshot = store_pb2.Snapshot.FromString(stores[-1].freeze()()) if stores else store_pb2.Snapshot()
    digest = hashlib.sha256(snapshot.SerializeToString(deterministic=True)).hexdigest()
    new = file.with_suffix(".new")
    new.write_text(f"{snapshot.index} {digest}")
    new.rename(file)


if __name__ == "__main__":
    main()
