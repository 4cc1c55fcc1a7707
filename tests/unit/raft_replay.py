"""Engines stepped by hand over a wire in memory: messages can be delayed, dropped and delivered late."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import codec, storage
from swarmnet.manager.raft.compaction import Encode
from swarmnet.manager.raft.disk import REAL_DISK, Disk
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.engine import Engine
from swarmnet.manager.raft.journal import LAYOUT
from swarmnet.manager.raft.library import Tuning
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.segments import Layout

KEK = SecretBytes(b"k" * 32)
NEVER_S = 1e6
PATIENT = Tuning(election_min_s=NEVER_S, election_max_s=2 * NEVER_S, fallback_s=NEVER_S, heartbeat_s=0.1)


class SteppedEngine(Engine):
    """Without a thread; what it hands to the loop, and snapshots, happen at once."""

    def _to_loop(self, act: Callable[[], None]) -> None:
        act()


class Stepped(Protocol):
    """One manager of a Played cluster. `acknowledged`: what it told its clients is kept."""

    acknowledged: list[bytes]

    def connect(self, other: str) -> None: ...
    def step(self) -> None: ...
    def campaign(self) -> None: ...
    def put(self, command: bytes) -> None: ...
    def receive(self, source: str, messages: list[bytes]) -> None: ...
    def kill(self) -> None: ...


P = TypeVar("P", bound=Stepped)


class Replica:
    """One manager. `applied` is its state machine."""

    def __init__(
        self,
        net: Net,
        node_id: str,
        members: Iterable[Member],
        folder: Path,
        disk: Disk = REAL_DISK,
        layout: Layout = LAYOUT,
    ) -> None:
        self.net = net
        self.node_id = node_id
        if disk.is_folder(folder / node_id):
            self.stored = storage.open_existing(folder / node_id, KEK, disk, layout)
        else:
            at = net.joined_at.get(node_id)
            self.stored = storage.create(folder / node_id, KEK, members, disk, layout, joined_at=at)
        self.applied: list[bytes] = []
        self.acknowledged: list[bytes] = []
        self.refused: list[SwarmnetError] = []
        self.leading: list[bool] = []
        me = Member(node_id, node_id, node_id)
        self.engine = SteppedEngine(me, self.stored, self, PATIENT, run_aside=lambda work: work())
        self.raft = self.engine._raft

    def transmit(self, messages: list[tuple[str, raft.RaftMessage]]) -> None:
        for node_id, message in messages:
            self.net.queues[self.node_id, node_id].append(message.SerializeToString())

    def apply(self, index: int, command: bytes) -> None:
        self.applied.append(command)

    def restore(self, state: bytes) -> None:
        self.applied = state.split(b"\n") if state else []

    def freeze(self, done: Callable[[Encode], None]) -> None:
        frozen = b"\n".join(self.applied)
        done(lambda: frozen)

    def elected(self, leads: bool) -> None:
        self.leading.append(leads)

    def view(
        self, leader_id: str | None, members: Mapping[str, Member], acquaintances: Mapping[str, Member]
    ) -> None:
        pass

    def failed_with(self, error: Exception) -> None:
        raise error

    def step(self) -> None:
        """One step, with what followers lack sent now."""
        self.raft.append_soon()
        self.engine._step()

    def campaign(self) -> None:
        """As if its leader had handed over to it: others vote although they still hear that leader."""
        self.engine._handed_over = True
        self.raft.campaign()
        self.engine._step()

    def forget_leader(self) -> None:
        """As if its connection to the leader had broken."""
        self.engine._election.lost(time.monotonic(), 1_000_000)

    def miss_leader(self) -> None:
        """As if it had not heard of a leader for too long."""
        self.forget_leader()
        self.engine._election.hurry(time.monotonic())
        self.engine._step()

    def put(self, command: bytes) -> None:
        def told(error: SwarmnetError | None) -> None:
            if error is None:
                self.acknowledged.append(command)
            else:
                self.refused.append(error)

        self.engine.propose(command, told)
        self.engine._step()

    def connect(self, other: str) -> None:
        self.engine.connected(other)

    def receive(self, source: str, messages: list[bytes]) -> None:
        for each in messages:
            message = raft.RaftMessage.FromString(each)
            self.engine.received(source, message.term, codec.decode(message))
        self.engine._step()

    def kill(self) -> None:
        self.stored.close()

    def limit_batches(self, size: int) -> None:
        """Bytes of an append, at most; not our own limit, but the library's."""
        self.raft._library.conf.appendEntriesBatchSizeBytes = size

    def read(self) -> list[bool]:
        """Where the answer will be."""
        answers: list[bool] = []
        self.engine.read(answers.append)
        self.engine._step()
        return answers


class Played(Generic[P]):
    """All managers are connected; what they send waits in `queues` (from, to) until it is delivered."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.replicas: dict[str, P] = {}
        for name in names:
            self.start(name)

    def make(self, name: str) -> P:
        raise NotImplementedError

    def start(self, name: str) -> None:
        """Start it, or start it again with what its disk has."""
        replica = self.replicas[name] = self.make(name)
        for other in self.names:
            if other != name:
                replica.connect(other)

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL: what they had sent is gone, too."""
        for name in names:
            self.replicas.pop(name).kill()
            for link in [each for each in self.queues if name in each]:
                del self.queues[link]

    def __getitem__(self, name: str) -> P:
        return self.replicas[name]

    def deliver(self, source: str, target: str, most: int = 1_000_000) -> None:
        """Let up to `most` messages through, and let the receiver act on them."""
        queue = self.queues[source, target]
        messages = [queue.popleft() for _ in range(min(most, len(queue)))]
        self.replicas[target].receive(source, messages)

    def exchange(self, one: str, other: str) -> None:
        self.deliver(one, other)
        self.deliver(other, one)

    def drop(self, source: str, targets: str) -> None:
        for target in targets:
            self.queues[source, target].clear()

    def drop_all(self) -> None:
        for queue in self.queues.values():
            queue.clear()

    def settle(self, names: Sequence[str] = "", rounds: int = 6) -> None:
        """Let these (or all) managers talk until there is nothing new."""
        names = names or self.names
        for _ in range(rounds):
            for name in names:
                self.replicas[name].step()
            for source in names:
                for target in names:
                    if source != target:
                        self.deliver(source, target)

    def close(self) -> None:
        self.kill(list(self.replicas))


class Net(Played[Replica]):
    """Our engines."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        disks: Mapping[str, Disk] | None = None,
        layout: Layout = LAYOUT,
    ) -> None:
        self.joined_at: dict[str, LogEnd] = {}
        self._folder = folder
        self._disks = disks or {}
        self._layout = layout
        super().__init__(names)

    def make(self, name: str) -> Replica:
        members = [Member(each, each, each) for each in self.names]
        disk = self._disks.get(name, REAL_DISK)
        return Replica(self, name, members, self._folder, disk, self._layout)
