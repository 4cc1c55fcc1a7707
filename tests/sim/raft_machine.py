"""One simulated machine: a disk that outlives its processes, and a manager's engine running on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from tests.sim.memory_disk import MemoryDisk, PowerCut
from tests.sim.raft_net import Network
from tests.sim.raft_oracle import Oracle, State
from tests.sim.raft_world import World
from tests.unit.raft_opened import files_of, keys_in

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import OutcomeUnknown, SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import codec, frames, storage
from swarmnet.manager.raft.compaction import Encode
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.engine import Engine
from swarmnet.manager.raft.entries import Entry
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.library import Tuning
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.segments import Layout, Segments
from swarmnet.manager.raft.storage import Storage

_KEK: Final = SecretBytes(b"k" * 32)
_FOLDER: Final = Path("/raft")
_LAYOUT: Final = Layout(segment_bytes=64 * 1024, reserve_bytes=8 * 1024, frame_bytes=32 * 1024)
_WAKE_S: Final = (0.0001, 0.001)
_SNAPSHOT_S: Final = (0.001, 0.2)


class Machine:
    """`process` runs or is None; a crash leaves the disk."""

    def __init__(
        self, name: str, world: World, network: Network, oracle: Oracle, tuning: Tuning, batch_bytes: int
    ) -> None:
        self.name = name
        self.world = world
        self.network = network
        self.oracle = oracle
        self.tuning = tuning
        self.batch_bytes = batch_bytes
        self.disk = MemoryDisk(Random(world.random.getrandbits(32)))
        self.process: Process | None = None
        self.restart_due = False
        self._founders: list[Member] = []
        self._joined_at: LogEnd | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether it is to run: it was made a member, and not cleared since."""
        return self._founders != []

    def found(self, founders: Iterable[str], joined_at: LogEnd | None = None) -> None:
        """Start it; should there be nothing on its disk, as one of these."""
        self._founders = [Member(each, each, each) for each in founders]
        self._joined_at = joined_at
        self.start()

    def start(self) -> None:
        """Go on from the disk; nothing if it runs, or is not wanted."""
        self.restart_due = False
        if self.process is not None or not self.is_wanted:
            return
        try:
            stored = self._open()
            self.process = Process(self, stored)
        except PowerCut:
            self.world.note(self.name, "the power went while it started")
            self.disk.restart()
            return
        except OSError as error:
            self.excuse(error)
            self.disk.kill()
            return
        except SwarmnetError as error:
            self.world.fail(f"{self.name} cannot start: {error.message}")
            return
        self.world.note(self.name, f"starts at entry {stored.journal.last.index}")
        self.process.begin()

    def crash(self, *, power: bool) -> None:
        if (process := self.process) is None:
            return
        self.world.note(self.name, "loses power" if power else "is killed")
        self.process, process.dead = None, True
        self.network.gone(self.name)
        if power:
            self.disk.restart()
        else:
            self.disk.kill()

    def clear(self) -> None:
        """Stop it and empty its disk: it is no member any more."""
        self.crash(power=False)
        self._founders = []
        self.disk = MemoryDisk(Random(self.world.random.getrandbits(32)))
        self.oracle.durable[self.name] = {}

    def excuse(self, error: OSError) -> None:
        """A full disk may stop a manager; nothing else may."""
        if self.disk.capacity_bytes > self.disk.used_bytes() + 4096:
            self.world.fail(f"{self.name} stops for its disk: {error}")
        self.world.note(self.name, f"stops: {error}")

    def _open(self) -> Storage:
        took_part = self.oracle.durable.get(self.name) or Segments.exist(self.disk, _FOLDER / "journal")
        if not took_part:
            return storage.create(
                _FOLDER, _KEK, self._founders, self.disk, _LAYOUT, joined_at=self._joined_at
            )
        return storage.open_existing(_FOLDER, _KEK, self.disk, _LAYOUT)


class _SteppedEngine(Engine):
    """Without a thread: its process steps it."""

    def __init__(self, process: Process, stored: Storage) -> None:
        self._process = process
        world = process.machine.world
        super().__init__(
            Member(process.name, process.name, process.name),
            stored,
            process,
            process.machine.tuning,
            clock=world.clock,
            uniform=world.random.uniform,
            run_aside=process.run_aside,
        )

    def post(self, *acts: Callable[[], None]) -> None:
        self._posted.extend(acts)
        self._process.wake()

    def _to_loop(self, act: Callable[[], None]) -> None:
        self._process.on_loop(act)


class Process:
    """A manager from its start to its end: outlet.Outlet and raft_net.Host."""

    def __init__(self, machine: Machine, stored: Storage) -> None:
        self.machine = machine
        self.name = machine.name
        self.dead = False
        self.leads = False
        self.state = State()
        self.members: Mapping[str, Member] = stored.journal.members()
        self._known = self.members
        self.paused_until = 0.0
        self.loop_free_at = 0.0
        self._world = machine.world
        self._checked = 0
        self._led_term = 0
        self._counted: Collection[str] = set(self.members)
        self._step_at: float | None = None
        self._on_loop: deque[Callable[[], None]] = deque()
        self._journal = stored.journal
        self._keys = stored.keys
        self.admission_of = stored.journal.admission_of
        _watch(stored.journal, machine)
        self.engine = _SteppedEngine(self, stored)
        self.raft = self.engine._raft
        self.raft._library.conf.appendEntriesBatchSizeBytes = machine.batch_bytes

    def begin(self) -> None:
        self.machine.network.joined(self)
        self.wake()

    # Time

    def wake(self) -> None:
        self._step_within(self._world.random.uniform(*_WAKE_S))

    def run_aside(self, work: Callable[[], None]) -> None:
        """The thread that writes snapshots."""
        self._world.after(self._world.random.uniform(*_SNAPSHOT_S), partial(self._guarded, work))

    def on_loop(self, act: Callable[[], None]) -> None:
        """The event loop: at once, unless it has something else to do."""
        if self.dead:
            return
        if self._on_loop or self._world.now < self.loop_free_at:
            self._on_loop.append(act)
            self._world.at(max(self._world.now, self.loop_free_at), self._run_loop)
        else:
            act()

    def _run_loop(self) -> None:
        while self._on_loop and not self.dead and self._world.now >= self.loop_free_at:
            self._on_loop.popleft()()

    def _step_within(self, delay_s: float) -> None:
        when = max(self._world.now + delay_s, self.paused_until)
        if self._step_at is None or when < self._step_at:
            self._step_at = when
            self._world.at(when, partial(self._step, when))

    def _step(self, planned: float) -> None:
        if self.dead or planned != self._step_at:
            return
        self._step_at = None
        if self._world.now < self.paused_until:
            self._step_within(0.0)
            return
        self._guarded(self.engine._step)
        if not self.dead:
            self._check()
            self._step_within(self.engine._pause_s() + 0.0001)

    def _guarded(self, work: Callable[[], None]) -> None:
        """What a thread of this process does: it may end by its disk, and in no other way."""
        if self.dead:
            return
        try:
            work()
        except PowerCut:
            self.machine.crash(power=True)
        except OSError as error:
            self.machine.excuse(error)
            self.machine.crash(power=False)
        except Exception as error:
            self._world.fail(f"{self.name} breaks: {type(error).__name__}: {error}")

    def _check(self) -> None:
        oracle, journal, raft_ = self.machine.oracle, self._journal, self.raft
        counted = {self.name, *raft_.peers}
        if counted != self._counted and counted != {self.name, *journal.members()}:
            self._world.fail(
                f"{self.name} counts {sorted(counted)}, its log says {sorted(journal.members())}"
            )
        if raft_.leads and raft_.term != self._led_term:
            self._led_term = raft_.term
            self._world.note(self.name, f"leads in term {raft_.term}")
            oracle.leads(self.name, raft_.term, journal)
        if journal.last.index < self._checked:
            self._world.fail(f"{self.name} drops committed entries: {journal.last.index} < {self._checked}")
        if raft_.commit_index > self._checked:
            new = range(max(self._checked + 1, journal.first.index), raft_.commit_index + 1)
            oracle.committed(
                self.name,
                journal,
                new,
                in_term=raft_.term,
                leads=raft_.leads,
                members=(self._counted, counted),
            )
            self._checked = raft_.commit_index
        self._counted = counted

    # The network's side

    def knows(self, peer: str) -> bool:
        return peer in self._known

    def connected(self, peer: str) -> None:
        self.engine.post(partial(self.engine.connected, peer))

    def disconnected(self, peer: str, *, refused: bool) -> None:
        self.engine.post(partial(self.engine.disconnected, peer, refused=refused))

    def received(self, peer: str, message: raft.RaftMessage) -> None:
        self.engine.post(partial(self.engine.received, peer, message.term, codec.decode(message)))

    # The engine's side

    def transmit(self, messages: list[tuple[str, raft.RaftMessage]]) -> None:
        for target, message in messages:
            self.machine.network.send(self.name, target, message)

    def apply(self, index: int, command: bytes) -> None:
        self.machine.oracle.applied(self.name, self.state, index, command)

    def restore(self, state: bytes) -> None:
        self.state = State.decode(state)
        self._world.note(self.name, f"restores {self.state.index}")
        self.machine.oracle.restored(self.name, self.state)

    def freeze(self, done: Callable[[Encode], None]) -> None:
        frozen = self.state.encode()
        done(lambda: frozen)

    def elected(self, leads: bool) -> None:
        self.leads = leads

    def view(
        self, leader_id: str | None, members: Mapping[str, Member], acquaintances: Mapping[str, Member]
    ) -> None:
        self.members = members
        self._known = {**members, **acquaintances}
        self.machine.network.placed(self.name)

    def failed_with(self, error: Exception) -> None:
        self._world.fail(f"{self.name} cannot take over what was agreed on: {error!r}")

    # What the disk shows

    def renew_data_key(self) -> None:
        self.engine.post(self.engine.renew_data_key)

    @property
    def data_key(self) -> int:
        """The newest one's number."""
        return self._keys.newest.number

    @property
    def keys_to_destroy(self) -> int:
        return len(self._keys.old)

    def has_old_data(self) -> bool:
        """Whether an entry on the disk was in the state already when the newest data key was made."""
        disk, newest = self.machine.disk, self._keys.newest
        for path, raw in files_of(_FOLDER, disk).items():
            if path.parent.name == "journal" and not path.name.startswith("spare"):
                bodies = frames.read(path, raw, keys_in(_FOLDER, _KEK, disk)).bodies
                records = [each for body in bodies for each in raft.RaftJournalFrame.FromString(body).records]
                if any(0 < each.entry.index <= newest.made_at for each in records):
                    return True
        return False

    # The clients' side

    def propose(self, command: bytes) -> None:
        def told(error: SwarmnetError | None) -> None:
            if error is None:
                self.machine.oracle.told_done(command, self.state.index)
            elif not isinstance(error, OutcomeUnknown):
                self.machine.oracle.told_refused(command)

        self.engine.post(partial(self.engine.propose, command, told))

    def read(self) -> None:
        floor = self.machine.oracle.shown_index

        def told(current: bool) -> None:
            if current:
                self.machine.oracle.read(self.name, self.state, floor)

        self.engine.post(partial(self.engine.read, told))


def _watch(journal: Journal, machine: Machine) -> None:
    """Tell the oracle what is written and what is on disk."""
    append, sync = journal.append, journal.sync

    def watched_append(entry: Entry) -> None:
        machine.oracle.appended(machine.name, entry)
        append(entry)

    def watched_sync() -> None:
        dirty = journal.dirty
        sync()
        if dirty:
            machine.oracle.synced(machine.name, journal)

    journal.append, journal.sync = watched_append, watched_sync  # type: ignore[method-assign]
    machine.oracle.synced(machine.name, journal)
