"""Engines stepped by hand over a wire in memory: messages can be delayed, dropped and delivered late."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import codec, storage
from swarmnet.manager.raft.compaction import Encode
from swarmnet.manager.raft.disk import REAL_DISK, Disk
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


class Replica:
    """One manager. `applied` is its state machine; `acknowledged` what it told its clients is kept."""

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
        self.stored = storage.create(folder / node_id, KEK, members, disk, layout)
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

    def view(self, leader_id: str | None, members: Mapping[str, Member]) -> None:
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

    def read(self) -> list[bool]:
        """Where the answer will be."""
        answers: list[bool] = []
        self.engine.read(answers.append)
        self.engine._step()
        return answers


class Net:
    """All managers are connected; what they send waits in `queues` (from, to) until it is delivered."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        disks: Mapping[str, Disk] | None = None,
        layout: Layout = LAYOUT,
    ) -> None:
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        members = [Member(name, name, name) for name in names]
        self.replicas = {
            name: Replica(self, name, members, folder, (disks or {}).get(name, REAL_DISK), layout)
            for name in names
        }
        for name, replica in self.replicas.items():
            for other in names:
                if other != name:
                    replica.engine.connected(other)

    def __getitem__(self, name: str) -> Replica:
        return self.replicas[name]

    def deliver(self, source: str, target: str, most: int = 1_000_000) -> None:
        """Let up to `most` messages through, and let the receiver act on them."""
        queue = self.queues[source, target]
        engine = self.replicas[target].engine
        for _ in range(min(most, len(queue))):
            message = raft.RaftMessage.FromString(queue.popleft())
            engine.received(source, message.term, codec.decode(message))
        engine._step()

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
        names = names or list(self.replicas)
        for _ in range(rounds):
            for name in names:
                self.replicas[name].step()
            for source in names:
                for target in names:
                    if source != target:
                        self.deliver(source, target)

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.stored.close()
