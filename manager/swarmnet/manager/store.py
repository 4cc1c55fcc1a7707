"""The manager's store: the replicated state, transactions on it, and the events that wake its loops.

Everything here runs on the event loop's thread. One store is the only meeting place of the control loops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Protocol, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import Conflict, Internal, ResourceExhausted, SwarmnetError
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.core.state import Applied, Event, Object, Rejected, State, Transaction
from swarmnet.manager.barrier import SharedBarrier

T = TypeVar("T")
_ATTEMPTS: Final = 20
_BACKLOG_EVENTS: Final = 100_000


class Proposer(Protocol):
    """What the store needs of Raft."""

    async def propose(self, command: bytes, timeout_s: float = 5.0) -> object: ...
    async def read_barrier(self, timeout_s: float = 5.0) -> None: ...


class Subscription:
    """Events of some kinds since it was opened, in order. A reader too slow to keep up is cut off."""

    def __init__(self, kinds: Iterable[type[Object]]) -> None:
        self._kinds = frozenset(kinds)
        self._events: list[Event] = []
        self._wake = asyncio.Event()
        self._lost = False

    def offer(self, events: Collection[Event]) -> None:
        if len(events) == 1 and next(iter(events)).kind not in self._kinds:
            return
        mine = [event for event in events if event.kind in self._kinds]
        if not mine:
            return
        if len(self._events) + len(mine) > _BACKLOG_EVENTS:
            self._lost = True
            self._events.clear()
        else:
            self._events.extend(mine)
        self._wake.set()

    def reset(self) -> None:
        """The state was replaced as a whole: wake the reader, who must read everything again."""
        self._lost = True
        self._wake.set()

    def nudge(self) -> None:
        """Wake the reader, though nothing has changed."""
        self._wake.set()

    async def next(self) -> list[Event] | None:
        """Wait for events and take all of them; None when some were lost: read the state again."""
        await self.wait()
        return self.take()

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._wake.wait()

    def take(self) -> list[Event] | None:
        """What there is now, maybe nothing; None when some were lost."""
        self._wake.clear()
        events, self._events = self._events, []
        if self._lost:
            self._lost = False
            return None
        return events

    async def within(self, longest_s: float) -> None:
        """Wait for events, but not for longer than that; what they were is dropped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self.next()


class Store:
    """A State machine for Raft (apply, freeze, restore), and the transactions of this manager."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.state = State()
        self._raft: Proposer | None = None
        self._barrier: SharedBarrier | None = None
        self._subscriptions: set[Subscription] = set()
        self._clock = clock
        self._contended = asyncio.Lock()

    def attach(self, raft: Proposer) -> None:
        self._raft = raft
        self._barrier = SharedBarrier(raft.read_barrier)

    def now(self) -> Timestamp:
        seconds, nanos = divmod(int(self._clock() * 1e9), 1_000_000_000)
        return Timestamp(seconds=seconds, nanos=nanos)

    # Raft's side

    def apply(self, index: int, command: bytes) -> Applied | Rejected:
        outcome = self.state.apply(index, command)
        if isinstance(outcome, Applied):
            for subscription in self._subscriptions:
                subscription.offer(outcome.events)
        return outcome

    def freeze(self) -> Callable[[], bytes]:
        return self.state.freeze()

    def restore(self, snapshot: bytes) -> None:
        self.state.restore(snapshot)
        for subscription in self._subscriptions:
            subscription.reset()

    # The loops' and the API's side

    @contextmanager
    def subscribe(self, *kinds: type[Object]) -> Iterator[Subscription]:
        """Events of these kinds from now on."""
        subscription = Subscription(kinds)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def transact(self, decide: Callable[[Transaction], T], request_id: str = "") -> T:
        """Run `decide` on the state until its changes commit on what it read; return what it returned.

        `decide` may run several times and has no other effect than through its transaction. Raises what it
        raises; NotLeader, NoLeader and OutcomeUnknown of propose; ResourceExhausted for a change that is
        too large; Conflict.
        """
        return (await self.transact_at(decide, request_id))[0]

    async def tell(self, events: Sequence[types.Event], request_id: str) -> None:
        """Commit events that no change of an object makes; once for the id. Raises as `transact`."""

        def decide(transaction: Transaction) -> None:
            for event in events:
                transaction.tell(event)

        await self.transact(decide, request_id)

    async def transact_at(self, decide: Callable[[Transaction], T], request_id: str = "") -> tuple[T, int]:
        """The same, and the index of the commit: the version of what it wrote; 0 if it changed nothing."""
        if (done := await self._attempt(decide, request_id)) is not None:
            return done
        async with self._contended:  # one after the other: together they would keep each other from it
            for _ in range(_ATTEMPTS):
                if (done := await self._attempt(decide, request_id)) is not None:
                    return done
        raise Conflict("others kept changing the same objects", hint="Run the command again.")

    async def _attempt(self, decide: Callable[[Transaction], T], request_id: str) -> tuple[T, int] | None:
        transaction = Transaction(self.state)
        result = decide(transaction)
        if not transaction.changed:
            return result, 0
        index = await self._commit(transaction, request_id)
        return None if index is None else (result, index)

    async def transact_unconfirmed(
        self, decide: Callable[[Transaction], T], request_id: str = ""
    ) -> tuple[T, int]:
        """The same, without a read barrier before: a commit confirms what it was decided on.

        What changes nothing, or is refused, may rest on an old state: after a barrier it is decided anew.
        """
        transaction = Transaction(self.state)
        try:
            result = decide(transaction)
        except SwarmnetError:
            pass
        else:
            if transaction.changed and (index := await self._commit(transaction, request_id)) is not None:
                return result, index
        await self.read_barrier()
        return await self.transact_at(decide, request_id)

    async def _commit(self, transaction: Transaction, request_id: str) -> int | None:
        """The index; None if what the transaction read has changed."""
        if self._raft is None:
            raise Internal("this manager is not part of a swarm")
        command = transaction.command(self.now(), request_id)
        assert command is not None, "nothing to commit"
        raw = command.SerializeToString()
        if len(raw) > MAX_COMMAND_BYTES:
            raise ResourceExhausted(
                f"a change of {len(raw)} bytes is above the limit of {MAX_COMMAND_BYTES}",
                hint="Make it in smaller steps: fewer tasks, labels or networks at once.",
            )
        outcome = await self._raft.propose(raw)
        return outcome.index if isinstance(outcome, Applied) else None

    async def read_barrier(self) -> None:
        """After this, what the state says is no older than the call. NotLeader or NoLeader otherwise."""
        if self._barrier is None:
            raise Internal("this manager is not part of a swarm")
        await self._barrier.passed()
