"""The experiment, inside its lab: encrypted networks, streams between all their tasks, rotations, faults.

    python -m tests.hitless.story FIGURES ROTATIONS FAULTY SEED long|short      (run.py makes the lab)

What happens goes to standard error, the figures to the file, a JSON object a line, as soon as they are known.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.report import Reach, line
from tests.hitless.associations import Monitor, leftovers
from tests.hitless.lossy import ControlLoss
from tests.hitless.measure import Streams, Stretch
from tests.hitless.nemesis import Nemesis
from tests.hitless.rotations import Rotations, at_rest
from tests.hitless.sniffer import Sniffer
from tests.hitless.stage import NETWORKS, Stage
from tests.hitless.swarm import Broken, Swarm, eventually

from swarmnet.cli.lab.place import Host, Lab
from swarmnet.core.limits import MAX_LIVE_EPOCHS

GRACE_S: Final = 1
HEARTBEAT_S: Final = 20
"""Workers are down after three of them: to lose a fifth of all packets is not to be away, and a rotation must
wait for whoever is slow."""
BLOCK: Final = 48
"""Rotations between two control stretches, in which as many datagrams are sent."""
INJECTED: Final = 20
_PATIENCE_S: Final = 180.0
_KEPT_UP: Final = 0.95
_TRIES: Final = 3
_TOLD: Final = 12


@dataclass(frozen=True, slots=True)
class Scale:
    """How long it takes beside the rotations: finding the rate, faults without rotation, sending first."""

    first_rate_per_s: float
    faster: float
    tried_s: float
    halvings: int
    beside_s: float
    sending_first: int


SCALES: Final = {"long": Scale(300, 1.5, 5, 3, 120, 48), "short": Scale(100, 3, 2, 1, 10, 6)}


class Story:
    def __init__(self, lab: Lab, figures: Path, scale: Scale, seed: int, folder: Path) -> None:
        self._lab = lab
        self._swarm = Swarm(lab)
        self._stage = Stage(self._swarm)
        self._scale = scale
        self._figures = figures
        self._folder = folder
        self._choose = random.Random(seed)
        self._started = time.monotonic()
        self._rotating: list[Stretch] = []
        self._beside: list[Stretch] = []
        self.ok = True

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def figure(
        self, case: str, unit: str, values: Sequence[float], reach: Reach | float | None = None
    ) -> None:
        told = line("hitless", case, unit, values, reach)
        self.ok = self.ok and '"ok": false' not in told
        with self._figures.open("a") as file:
            file.write(f"{told}\n")
        self.say(told)

    def tell(self, count: int, faulty: int) -> None:
        """Raises Broken where it cannot go on."""
        loss = ControlLoss(self._lab)
        with Monitor(self._lab, self._lab.of_kind("worker")) as monitor, Sniffer() as sniffer:
            self._settle_in()
            plan = self._stage.plan()
            self.figure("streams", "directions", [len(plan.streams)])
            streams = Streams(self._lab, self._folder, plan)
            try:
                streams.start(self._scale.first_rate_per_s, _PATIENCE_S)
                self._see_plaintext(sniffer)
                self._calibrate(streams)
                self._rotate_all(streams, loss, count, faulty)
                self._look_at_the_end(monitor, sniffer)
                self._send_first(streams)
            finally:
                streams.stop()

    def _settle_in(self) -> None:
        self._swarm.update(retire_grace=GRACE_S, heartbeat_period=HEARTBEAT_S)
        self._stage.build()
        self.figure("workers", "hosts", [len(self._swarm.workers)])
        self.figure("encrypted networks", "networks", [len(NETWORKS)])
        self.figure("grace of a retired epoch", "s", [GRACE_S])
        self.figure("heartbeat period", "s", [HEARTBEAT_S])

    def _see_plaintext(self, sniffer: Sniffer) -> None:
        """The sniffer sees plaintext when there is some; what it saw here does not count later."""
        seen = self._stage.show_plaintext(sniffer, INJECTED)
        case = f"plaintext packets overlooked of {INJECTED} that were sent"
        self.figure(case, "packets", [abs(INJECTED - seen)], 0)
        sniffer.counts.plaintext = 0

    # The rate

    def _calibrate(self, streams: Streams) -> None:
        """The highest rate at which none is lost and the sender keeps up, while no keys rotate."""
        good, bad, rate = 0.0, 0.0, self._scale.first_rate_per_s
        while not bad:
            good, bad = (rate, bad) if self._holds(streams, rate) else (good, rate)
            rate *= self._scale.faster
        for _ in range(self._scale.halvings):
            middle = (good + bad) / 2
            good, bad = (middle, bad) if self._holds(streams, middle) else (good, middle)
        if not good:
            raise Broken(f"the lab does not bear {bad:g} datagrams/s, even without rotation")
        streams.ledger.rate_per_s = good
        self.figure("highest rate without loss, no rotation", "datagrams/s", [good])

    def _holds(self, streams: Streams, rate: float) -> bool:
        """A sender that did not keep up is tried again: somebody else may have had the CPU."""
        streams.ledger.rate_per_s = rate
        for _ in range(_TRIES):
            with streams.stretch(f"at {rate:.0f}/s") as tried:
                time.sleep(self._scale.tried_s)
            self.say(tried.words())
            if tried.lost or tried.rate_per_s >= _KEPT_UP * rate:
                break
        return not tried.lost and tried.rate_per_s >= _KEPT_UP * rate

    # The rotations

    def _rotate_all(self, streams: Streams, loss: ControlLoss, count: int, faulty: int) -> None:
        rotations = Rotations(self._swarm, self._stage.scope_ids(), streams.note)
        first = min(BLOCK, count - faulty)
        self._rotate(streams, rotations, first)
        self._rotate_under_faults(streams, rotations, faulty, loss)
        self._rotate(streams, rotations, count - rotations.done)
        self._figures_of("in rotations", self._rotating)
        self._figures_of("beside them, without rotation", self._beside)
        self.figure("rotations of networks", "rotations", [rotations.done], Reach(count, at_least=True))
        self.figure("rotations of gossip beside them", "rotations", [rotations.of_gossip])
        self.figure("from a request until all scopes have rotated", "s", rotations.seconds)
        most = [rotations.most_epochs]
        self.figure("live epochs of a scope at most, in the managers' state", "epochs", most, MAX_LIVE_EPOCHS)

    def _rotate(self, streams: Streams, rotations: Rotations, count: int) -> None:
        """In blocks; after each of them the same without rotation."""
        while count > 0:
            with streams.stretch("rotating") as stretch:
                stretch.rotations = rotations.run(min(BLOCK, count), self._tell_now_and_then)
            count -= stretch.rotations
            self._rotating.append(stretch)
            self.say(f"{stretch.words()}; {rotations.done} in all")
            with streams.stretch("no rotation") as beside:
                streams.note("no rotation")
                streams.wait_for(stretch.sent)
            self._beside.append(beside)
            self.say(beside.words())

    def _tell_now_and_then(self, done: int) -> None:
        if not done % _TOLD:
            self.say(f"{done} rotations of this block")

    def _rotate_under_faults(
        self, streams: Streams, rotations: Rotations, count: int, loss: ControlLoss
    ) -> None:
        def rotate(stretch: Stretch) -> None:
            stretch.rotations = rotations.run(count, lambda done: self.say(f"{done} under faults"))

        stretch = self._under_faults(streams, loss, "rotating under faults", rotate)
        self.figure("rotations under faults", "rotations", [stretch.rotations], Reach(count, at_least=True))
        self._figures_of("in rotations under faults", [stretch])
        beside_s = min(stretch.seconds, self._scale.beside_s)
        beside = self._under_faults(streams, loss, "faults without rotation", lambda _: time.sleep(beside_s))
        self._figures_of("under faults without rotation", [beside])
        moved = len(self._stage.moved())
        self.figure("networks whose tasks did not live through the faults", "networks", [moved], 0)

    def _under_faults(
        self, streams: Streams, loss: ControlLoss, name: str, action: Callable[[Stretch], object]
    ) -> Stretch:
        """Ends when all is well again."""
        lost = loss.lost()
        with streams.stretch(name) as stretch:
            with loss.raging(), Nemesis(self._swarm, self._choose) as nemesis:
                action(stretch)
            streams.note("the end of the faults")
            eventually(self._swarm.all_managers_there, "all managers are reached again")
            eventually(self._swarm.all_workers_ready, "all workers are ready again")
            eventually(lambda: at_rest(self._swarm.keys()), "no rotation is going on")
        self.say(f"{stretch.words()}; killed {dict(nemesis.killed)}")
        self.figure(f"daemons killed: {name}", "kills", [sum(nemesis.killed.values())])
        self.figure(f"control packets lost: {name}", "packets", [loss.lost() - lost])
        return stretch

    def _figures_of(self, where: str, stretches: list[Stretch]) -> None:
        self.figure(f"datagrams sent {where}", "datagrams", [sum(each.sent for each in stretches)])
        self.figure(f"datagrams a second {where}", "datagrams/s", [each.rate_per_s for each in stretches])
        none = Reach(0, of="max") if "in rotations" in where else None
        for name in ("lost", "duplicated", "reordered", "strayed"):
            count = sum(getattr(each, name) for each in stretches)
            self.figure(f"datagrams {name} {where}", "datagrams", [count], none)
        self.figure(
            f"packets that XFRM refused {where}", "packets", [sum(each.refused for each in stretches)], none
        )
        crowded_out = sum(each.crowded_out for each in stretches)
        self.figure(f"packets that the lab's CPU had no room for {where}", "packets", [crowded_out])
        self.figure(f"longest way of a datagram {where}", "ms", [each.delay_ms for each in stretches])

    # The end

    def _look_at_the_end(self, monitor: Monitor, sniffer: Sniffer) -> None:
        left = self._leftovers(monitor)
        most = "live epochs of a network at most,"
        for case, unit, count, reach in (
            ("differences from one SA pair per live direction, at the end", "objects", len(left), 0),
            ("changes of SAs that the kernels announced", "SAs", monitor.changes, None),
            ("announcements missed", "times", monitor.missed, 0),
            (f"{most} on one host", "epochs", monitor.most_on_a_host, MAX_LIVE_EPOCHS),
            (f"{most} in the whole swarm", "epochs", monitor.most_in_the_swarm, MAX_LIVE_EPOCHS),
            ("packets other than ESP looked at", "packets", sniffer.counts.frames, None),
            ("packets overlooked", "packets", sniffer.overlooked(), 0),
            ("plaintext packets on the underlay", "packets", sniffer.counts.plaintext, 0),
        ):
            self.figure(case, unit, [count], reach)

    def _leftovers(self, monitor: Monitor) -> list[str]:
        """Retired SAs may go a moment after the managers call the rotation done."""
        workers = self._lab.of_kind("worker")
        left: list[str] = []

        def clean() -> bool:
            left[:] = leftovers(self._lab, monitor, workers, self._stage.epochs())
            return not left

        try:
            eventually(clean, "one SA pair per live direction", 20)
        except Broken as broken:
            self.say("\n".join([str(broken), *left]))
        return left

    def _send_first(self, streams: Streams) -> None:
        """The same measurement with managers that let senders move before receivers have the key."""
        for host in self._swarm.managers:
            self._lab.kill_daemon(host.name)
        wrong = [self._start_ungated(host) for host in self._swarm.managers]
        try:
            eventually(self._swarm.all_managers_there, "the managers that send first are there")
            eventually(self._swarm.all_workers_ready, "the workers have come to them")
            rotations = Rotations(self._swarm, self._stage.scope_ids(), streams.note)
            with streams.stretch("sending first") as stretch:
                stretch.rotations = rotations.run(self._scale.sending_first)
        finally:
            for process in wrong:
                process.kill()
                process.wait()
        self.say(stretch.words())
        self.figure("rotations with senders first", "rotations", [stretch.rotations])
        self.figure("datagrams sent with senders first", "datagrams", [stretch.sent])
        self.figure("datagrams lost with senders first", "datagrams", [stretch.lost], Reach(1, at_least=True))

    def _start_ungated(self, host: Host) -> subprocess.Popen[bytes]:
        script = str(Path(__file__).with_name("ungated.py"))
        with (self._lab.logs / f"{host.name}.ungated.log").open("ab") as log:
            return self._lab.popen(host.name, [sys.executable, script], stdout=log, stderr=log)


def main() -> int:
    """1 if anything did not hold."""
    figures, scale = Path(sys.argv[1]), SCALES[sys.argv[5]]
    count, faulty, seed = map(int, sys.argv[2:5])
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Lab.load(), figures, scale, seed, Path(folder))
        try:
            story.tell(count, faulty)
        except Broken as broken:
            story.say(f"broken: {broken}")
            return 1
    return 0 if story.ok else 1


if __name__ == "__main__":
    sys.exit(main())
