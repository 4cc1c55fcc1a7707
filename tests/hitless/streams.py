"""Streams of numbered UDP datagrams between tasks: the sender's process and the receiver's.

    python -m tests.hitless.streams send|receive LEDGER PLAN

PLAN: {"tasks": {name: [network namespace, address]}, "streams": [[from, to], ...]}. Datagram number n is that
of sequence n // streams of stream n % streams, so that all streams have the same rate. Each tells its stream,
its sequence, when it was sent (ns, of the clock that all processes share), and a marker for sniffers.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.hitless.ledger import Field, Ledger

from swarmnet.cli.demo.wire import MARKER, inside

PORT: Final = 7000
HEAD: Final = struct.Struct("!IIQ")
_FILLER: Final = MARKER + bytes(160 - HEAD.size - len(MARKER))
_SO_RCVBUFFORCE: Final = 33  # <asm-generic/socket.h>
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8
_BUFFER_BYTES: Final = 16 << 20
_BURST: Final = 128
"""At most so many at once, when the sender was not let run for a while."""
_BEHIND_S: Final = 1.0
"""What it is behind by more than this is not sent at all: the rate of a stretch is what was sent of it."""
_PAUSE_S: Final = 0.002
_LOOK_S: Final = 0.5
_NICE: Final = 3
"""The lab's one CPU is all the hosts' CPUs: tasks that use up theirs must not keep daemons from running."""


@dataclass(frozen=True, slots=True)
class Plan:
    tasks: Mapping[str, tuple[str, str]]
    streams: Sequence[tuple[str, str]]

    @classmethod
    def load(cls, file: Path) -> Plan:
        fields = json.loads(file.read_text())
        tasks = {name: (namespace, address) for name, (namespace, address) in fields["tasks"].items()}
        return cls(tasks, [(source, target) for source, target in fields["streams"]])

    def save(self, file: Path) -> None:
        file.write_text(json.dumps({"tasks": self.tasks, "streams": self.streams}))

    def sockets(self, port: int) -> dict[str, socket.socket]:
        """A UDP socket in each task."""
        return {name: inside(namespace, lambda: _bound(port)) for name, (namespace, _) in self.tasks.items()}


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    made.setblocking(False)
    made.bind(("0.0.0.0", port))
    return made


class Sender:
    """Sends what is due at the ledger's rate, for ever. A sender that wakes up late sends all that is due."""

    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        self._ledger = ledger
        sockets = plan.sockets(0)
        self._streams = [(sockets[source], (plan.tasks[target][1], PORT)) for source, target in plan.streams]
        self._sent = 0
        self._rate = 0.0
        self._since, self._base = time.monotonic(), 0

    def run(self) -> None:
        while True:
            self._send(min(self._due(), self._sent + _BURST))
            time.sleep(_PAUSE_S)

    def _due(self) -> int:
        now = time.monotonic()
        if self._ledger.rate_per_s != self._rate:
            self._rate, self._since, self._base = self._ledger.rate_per_s, now, self._sent
        due = self._base + int((now - self._since) * self._rate)
        if due - self._sent > max(self._rate * _BEHIND_S, _BURST):
            self._since, self._base = now, self._sent
            return self._sent
        return due

    def _send(self, end: int) -> None:
        for number in range(self._sent, end):
            sequence, stream = divmod(number, len(self._streams))
            source, target = self._streams[stream]
            try:
                source.sendto(HEAD.pack(stream, sequence, time.monotonic_ns()) + _FILLER, target)
            except OSError:  # the task's network is gone, or full: it counts as sent, and is lost
                continue
        self._sent = max(end, self._sent)
        self._ledger.put(Field.SENT, self._sent)


class Receiver:
    """Notes what comes, for ever."""

    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        self._ledger = ledger
        sockets = plan.sockets(PORT)
        self._sockets = {each.fileno(): each for each in sockets.values()}
        self._meant = [sockets[target].fileno() for _, target in plan.streams]
        self._latest = [-1] * len(plan.streams)
        self._mark = 0
        self._counts = dict.fromkeys((Field.REORDERED, Field.STRAYED, Field.DELAY_NS), 0)

    def run(self) -> None:
        poll = select.epoll()
        for number in self._sockets:
            poll.register(number, select.EPOLLIN)
        look_at = 0.0
        while True:
            for number, _ in poll.poll(_LOOK_S):
                self._drain(number)
            self._tell()
            if time.monotonic() >= look_at:
                self._ledger.put(Field.DROPPED, sum(map(_dropped, self._sockets.values())))
                look_at = time.monotonic() + _LOOK_S

    def _drain(self, number: int) -> None:
        try:
            for _ in range(_BURST):
                self._take(number, self._sockets[number].recv(2048))
        except BlockingIOError:
            return

    def _take(self, number: int, data: bytes) -> None:
        stream, sequence, sent_ns = HEAD.unpack_from(data)
        if self._meant[stream] != number:
            self._counts[Field.STRAYED] += 1
            return
        self._ledger.came(sequence * len(self._meant) + stream)
        if sequence < self._latest[stream]:
            self._counts[Field.REORDERED] += 1
        self._latest[stream] = max(sequence, self._latest[stream])
        self._counts[Field.DELAY_NS] = max(self._counts[Field.DELAY_NS], time.monotonic_ns() - sent_ns)

    def _tell(self) -> None:
        if (mark := self._ledger.get(Field.MARK)) != self._mark:
            self._mark, self._counts[Field.DELAY_NS] = mark, 0
        for field, value in self._counts.items():
            self._ledger.put(field, value)


def _dropped(receiver: socket.socket) -> int:
    info: Any = receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return int(struct.unpack("=9I", info)[_MEMINFO_DROPS])


def main() -> None:
    os.nice(_NICE)
    what, ledger, plan = sys.argv[1], Ledger(Path(sys.argv[2])), Plan.load(Path(sys.argv[3]))
    (Sender if what == "send" else Receiver)(ledger, plan).run()


if __name__ == "__main__":
    main()
