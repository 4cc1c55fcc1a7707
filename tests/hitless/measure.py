"""Stretches of time, and what became of the datagrams that were sent in them."""

from __future__ import annotations

import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.hitless.ledger import Field, Ledger
from tests.hitless.streams import Plan
from tests.hitless.swarm import Broken

from swarmnet.cli.lab.place import Host, Lab

_ON_ITS_WAY_S: Final = 5.0
"""No datagram is longer on its way than this: what has not come by then is lost."""
_PAUSE_S: Final = 0.05
_SHOWN: Final = 5


@dataclass(slots=True)
class Stretch:
    """What came of what was sent in it. `causes`: what the kernels counted meanwhile, where it is not 0."""

    name: str
    seconds: float = 0.0
    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    strayed: int = 0
    delay_ms: float = 0.0
    """The longest that one was on its way."""
    rotations: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    where: list[str] = field(default_factory=list)
    """Of the lost ones: between whom, and at what moment of the journal."""

    @property
    def rate_per_s(self) -> float:
        return self.sent / self.seconds

    @property
    def refused(self) -> int:
        """Packets that XFRM of any worker refused, for want of a key or a policy or for another reason."""
        return sum(n for name, n in self.causes.items() if " Xfrm" in name)

    @property
    def crowded_out(self) -> int:
        """Packets, whatever they were, that one CPU for all hosts had no room for: the lab's own loss."""
        return self.causes.get(_NO_ROOM, 0)

    def words(self) -> str:
        found = [
            f"{self.name}: {self.lost} of {self.sent} lost in {self.seconds:.1f} s",
            f"{self.rate_per_s:.0f}/s, {self.duplicated} twice, {self.reordered} out of order",
            f"at most {self.delay_ms:.0f} ms on its way",
        ]
        found += [f"{self.rotations} rotations"] if self.rotations else []
        found += [f"counted {self.causes}"] if self.causes else []
        return "; ".join([*found, *self.where])


class Streams:
    """The two processes of streams.py, and what they did so far."""

    def __init__(self, lab: Lab, folder: Path, plan: Plan) -> None:
        self._lab = lab
        self._plan = plan
        plan.save(folder / "plan.json")
        self.ledger = Ledger(folder / "ledger")
        self._processes = {
            what: subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.hitless.streams",
                    what,
                    str(folder / "ledger"),
                    str(folder / "plan.json"),
                ]
            )
            for what in ("receive", "send")
        }
        self.journal: list[tuple[int, str]] = []
        """(datagrams sent, what the story did then), in order."""

    def note(self, what: str) -> None:
        self.journal.append((self.ledger.get(Field.SENT), what))

    def start(self, rate_per_s: float, patience_s: float) -> None:
        """Returns when a datagram of every stream has come."""
        self.ledger.rate_per_s = rate_per_s
        deadline = time.monotonic() + patience_s
        while missing := self._silent():
            self._check()
            if time.monotonic() > deadline:
                raise Broken(f"{len(missing)} streams never arrive, such as {missing[0]}")
            time.sleep(_PAUSE_S)

    def wait_for(self, count: int) -> None:
        """Returns when so many more were sent."""
        end = self.ledger.get(Field.SENT) + count
        while self.ledger.get(Field.SENT) < end:
            self._check()
            time.sleep(_PAUSE_S)

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _silent(self) -> list[tuple[str, str]]:
        count = len(self._plan.streams)
        times = self.ledger.times(0, self.ledger.get(Field.SENT))
        return [pair for number, pair in enumerate(self._plan.streams) if not any(times[number::count])]

    def _check(self) -> None:
        for what, process in self._processes.items():
            if process.poll() is not None:
                raise Broken(f"the process that is to {what} ended with {process.returncode}")

    @contextmanager
    def stretch(self, name: str) -> Iterator[Stretch]:
        """Complete once the block has ended, and what was on its way has come."""
        made = Stretch(name)
        first, begun, before = self.ledger.get(Field.SENT), time.monotonic(), self._counted()
        self.ledger.put(Field.MARK, self.ledger.get(Field.MARK) + 1)
        yield made
        end = self.ledger.get(Field.SENT)
        made.seconds, made.sent = time.monotonic() - begun, end - first
        self._await(first, end)
        times = self.ledger.times(first, end)
        made.lost = times.count(0)
        made.duplicated = made.sent - made.lost - times.count(1)
        made.delay_ms = self.ledger.get(Field.DELAY_NS) / 1e6
        after = self._counted()
        made.reordered = after["reordered"] - before["reordered"]
        made.strayed = after["strayed"] - before["strayed"]
        made.causes = {name: n - before[name] for name, n in after.items() if n != before[name]}
        made.where = self._where([first + place for place, n in enumerate(times) if not n])

    def _await(self, first: int, end: int) -> None:
        deadline = time.monotonic() + _ON_ITS_WAY_S
        while time.monotonic() < deadline and 0 in self.ledger.times(first, end):
            time.sleep(_PAUSE_S)
        self._check()

    def _counted(self) -> Counter[str]:
        found = Counter({each.name.lower(): self.ledger.get(each) for each in _COUNTED})
        for host in self._lab.of_kind("worker"):
            found.update({f"{host.name} {name}": n for name, n in xfrm_statistics(host).items()})
        found[_NO_ROOM] = softnet_dropped()
        return found

    def _where(self, lost: Sequence[int]) -> list[str]:
        pairs = Counter(self._plan.streams[number % len(self._plan.streams)] for number in lost)
        moments = Counter(self._moment(number) for number in lost)
        return [
            *(f"{n} from {source} to {target}" for (source, target), n in pairs.most_common(_SHOWN)),
            *(f"{n} {moment}" for moment, n in moments.most_common(_SHOWN)),
        ]

    def _moment(self, number: int) -> str:
        place = bisect_right(self.journal, number, key=lambda entry: entry[0]) - 1
        return f"after {self.journal[place][1]}" if place >= 0 else "before all"


_NO_ROOM: Final = "packets that the CPU's queue had no room for"
_COUNTED: Final = (Field.REORDERED, Field.STRAYED, Field.DROPPED)


def xfrm_statistics(host: Host) -> Mapping[str, int]:
    """/proc/net/xfrm_stat of the host."""
    lines = Path(f"/proc/{host.pid}/net/xfrm_stat").read_text().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def softnet_dropped() -> int:
    """Packets that found a CPU's queue full, of all namespaces."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)
