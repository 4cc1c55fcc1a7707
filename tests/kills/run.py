"""SIGKILL for a worker's data path at any instant, while keys rotate and tasks come and go under traffic.

    make kills KILLS=200 SEED=1

One JSON object a figure. The exit status is 1 if a datagram was lost or anything is left behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import structlog
from bench.report import Reach, line
from tests.kernel.hosts import TASK_PORT, Host, Lab
from tests.kills.wish import Wish, ip, task_id, wishes

from swarmnet.core.datapath.desired import Desired
from swarmnet.core.datapath.layout import layout
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.netlink import NETLINK_ROUTE, Netlink

_ROOT: Final = Path(__file__).parents[2]
_PERIOD_S: Final = 0.01
_ON_ITS_WAY_S: Final = 1.0
_LONGEST_S: Final = 60.0
_CONTROL: Final = 20
"""Datagrams in the control."""
_FIRST_LONGEST_S: Final = 0.5
"""Before a whole change was seen to last: kills fall within twice that of the last one."""


class Flow:
    """Numbered datagrams from one task to another, and which of them arrived."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, to: str) -> None:
        self.sent = 0
        self.heard: set[int] = set()
        self._sender, self._receiver, self._to = sender, receiver, to
        self._stopped, self._quiet = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._hear)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._stopped.set()
        self._threads[0].join()
        self._quiet.wait(_LONGEST_S)
        self._threads[1].join(_LONGEST_S)

    def _send(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            self._sender.sendto(str(self.sent).encode(), (self._to, TASK_PORT))
            self.sent += 1

    def _hear(self) -> None:
        self._receiver.settimeout(_ON_ITS_WAY_S)
        while True:
            try:
                self.heard.add(int(self._receiver.recv(100)))
            except TimeoutError:
                if self._stopped.is_set():
                    self._quiet.set()
                    return

    @property
    def lost(self) -> int:
        return self.sent - len(self.heard)


class Victim:
    """The process of victim.py in the namespace of w1."""

    def __init__(self, lab: Lab, chance: random.Random) -> None:
        self._chance = chance
        self._longest_s = _FIRST_LONGEST_S
        self.broken_off = 0
        namespace = lab.namespaces.path("w1")
        self._process = subprocess.Popen(
            [
                "nsenter",
                f"--net={namespace}",
                sys.executable,
                "-m",
                "tests.kills.victim",
                lab.directory / "w1",
            ],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def try_for(self, wish: Wish, *, kill: bool) -> bool:
        """Whether the wish was carried out; killed at some instant, or when it has been."""
        _pipe(self._process.stdin).write(json.dumps(wish.told()).encode() + b"\n")
        _pipe(self._process.stdin).flush()
        pid = self._hear()["pid"]
        started = time.monotonic()
        timer = threading.Timer(self._chance.uniform(0, 2 * self._longest_s), os.kill, (pid, signal.SIGKILL))
        if kill:
            timer.start()
        said = self._hear()
        done = "done" in said
        if done:
            assert said["done"] == [], said
            self._longest_s = time.monotonic() - started
            timer.cancel()
            with suppress(ProcessLookupError):  # the timer was faster
                os.kill(pid, signal.SIGKILL)
            said = self._hear()
        timer.cancel()
        assert said["died"] == -signal.SIGKILL, said
        self.broken_off += not done
        return done

    def _hear(self) -> dict[str, Any]:
        said = _pipe(self._process.stdout).readline()
        assert said, "the victim's process ended"
        found: dict[str, Any] = json.loads(said) if said.startswith(b"{") else self._hear()
        return found

    def close(self) -> None:
        _pipe(self._process.stdin).close()
        self._process.wait(_LONGEST_S)
        _pipe(self._process.stdout).close()


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None
    return end


@contextmanager
def flowing(one: Host, two: Host) -> Iterator[list[Flow]]:
    """Both ways between the first tasks of the two."""
    with one.task_socket(task_id("w1", 1)) as a, two.task_socket(task_id("w2", 1)) as b:
        flows = [Flow(a, b, ip("w2", 1)), Flow(b, a, ip("w1", 1))]
        for each in flows:
            each.start()
        try:
            yield flows
        finally:
            for each in flows:
                each.stop()


def leftovers(host: Host, wanted: Desired) -> list[str]:
    """What of ours the kernel has beyond what is wanted, or lacks of it."""
    plan = layout(wanted, 1500) if wanted.networks else layout(Desired("w1", 1, host.address), 1500)
    xfrm_socket, route = host.xfrm(), host.here(lambda: Netlink(NETLINK_ROUTE))
    sas = {sa.id for sa, _ in xfrm.list_sas(xfrm_socket)} ^ plan.sas.keys()
    policies = {each.id for each in xfrm.list_policies(xfrm_socket)} ^ plan.policies.keys()
    links = rt.list_links(route).keys() ^ {"lo", "eth0"}
    names = {each.name for each in (host.lab.directory / host.name / "run" / "netns").iterdir()}
    xfrm_socket.close()
    route.close()
    return [str(each) for each in (*sas, *policies, *links, *(names ^ {*plan.networks, *plan.tasks}))]


def lost_without_policies(one: Host, two: Host, wish: Wish) -> int:
    """What is lost while a hand has deleted them: datagrams that are lost are counted."""
    with flowing(one, two) as flows, closing(one.xfrm()) as netlink:
        netlink.execute(*(xfrm.delete_policy(each) for each in xfrm.list_policies(netlink)))
        _wait_for(lambda: flows[0].sent > _CONTROL)
        one.apply(wish.desired("w1"))
        one.run(one.datapath.reconcile())
    return sum(each.lost for each in flows)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LONGEST_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(_PERIOD_S)


def kills(directory: Path, number: int, seed: int) -> list[str]:
    """The figures as lines of JSON."""
    with ExitStack() as stack:
        lab = Lab(directory)
        stack.callback(lab.close)
        one, two = lab.bare("w1"), lab.host("w2")
        victim = Victim(lab, random.Random(seed))
        stack.callback(victim.close)
        story = wishes()
        wish = next(story)
        two.apply(wish.desired("w2"))
        assert victim.try_for(wish, kill=False)
        left: list[str] = []
        with flowing(one, two) as flows:
            for _ in range(number):
                if victim.try_for(wish, kill=True):
                    left += leftovers(one, wish.desired("w1"))
                    wish = next(story)
                    two.apply(wish.desired("w2"))
            assert victim.try_for(wish, kill=False)
        one.start()
        nothing = Desired("w1", 1, one.address)
        unseen = lost_without_policies(one, two, wish)
        present = len(leftovers(one, nothing))
        one.apply(nothing)
        left += leftovers(one, nothing)
    print(*left, sep="\n", file=sys.stderr, end="\n" if left else "")
    figures = {
        "kills": (number, None),
        "kills in the middle of a change": (victim.broken_off, Reach(max(1, number // 10), at_least=True)),
        "datagrams sent": (sum(each.sent for each in flows), None),
        "datagrams lost": (sum(each.lost for each in flows), 0),
        "leftovers": (len(left), 0),
        "control: datagrams lost without policies": (unseen, Reach(1, at_least=True)),
        "control: leftovers where nothing is taken away": (present, Reach(1, at_least=True)),
    }
    return [line("kills", case, "number", [value], reach) for case, (value, reach) in figures.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with tempfile.TemporaryDirectory(prefix="kills-") as directory:
        figures = kills(Path(directory), arguments.kills, arguments.seed)
    print(*figures, sep="\n")
    sys.exit(any(json.loads(each)["ok"] is False for each in figures))


if __name__ == "__main__":
    main()
