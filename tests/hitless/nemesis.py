"""Kills managers and workers, the leading manager among them, and starts them again: round after round."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from tests.hitless.swarm import Swarm, eventually

from swarmnet.cli.lab.place import Host

_KINDS: Final = ("leader", "manager", "worker", "two workers", "leader and worker")
_DEAD_S: Final = (0.1, 1.5)
_PAUSE_S: Final = (0.2, 2.0)


class Nemesis:
    """From entering the context to its end, when all that it killed runs again.

    Never two managers at once: a majority that is gone stops a swarm, and no rotation would be seen.
    """

    def __init__(self, swarm: Swarm, choose: random.Random) -> None:
        self._swarm = swarm
        self._choose = choose
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._rage, daemon=True)
        self._failure: Exception | None = None
        self.killed: Counter[str] = Counter()
        """By host."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _rage(self) -> None:
        try:
            while True:
                self._round(self._victims(self._choose.choice(_KINDS)))
                if self._stop.wait(self._choose.uniform(*_PAUSE_S)):
                    return
        except Exception as failure:
            self._failure = failure  # told where the context ends

    def _victims(self, kind: str) -> Sequence[Host]:
        managers, workers = list(self._swarm.managers), list(self._swarm.workers)
        leader = [host for host in managers if host.name == self._swarm.leader()]
        found = {
            "leader": leader,
            "manager": self._choose.sample(managers, 1),
            "worker": self._choose.sample(workers, 1),
            "two workers": self._choose.sample(workers, 2),
            "leader and worker": [*leader, *self._choose.sample(workers, 1)],
        }
        return found[kind]

    def _round(self, victims: Sequence[Host]) -> None:
        lab = self._swarm.lab
        for host in victims:
            lab.kill_daemon(host.name)
            lab.socket(host).unlink(missing_ok=True)  # so that it is there again when the daemon is
            self.killed[host.name] += 1
        time.sleep(self._choose.uniform(*_DEAD_S))
        for host in victims:
            lab.start_daemon(host)
        for host in victims:
            eventually(lab.socket(host).exists, f"{host.name} is up again")
        if any(host.kind == "manager" for host in victims):
            eventually(self._swarm.all_managers_there, "every manager is reached again")
