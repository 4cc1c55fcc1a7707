"""The worker's end of its one stream to the managers.

Whatever manager it leads to, the newest assignment comes down and this node's newest reports go up. When it
breaks, another manager is tried at once; tasks and traffic never notice.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import dispatcher_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import Internal, SwarmnetError, Unavailable
from swarmnet.core.key_chain import KeyChain, KeyOffer
from swarmnet.core.limits import HEARTBEAT_PERIOD_S, MAX_QUESTIONS
from swarmnet.worker.channel import error_of
from swarmnet.worker.places import Managers

log = structlog.get_logger()

ANSWER_TIMEOUT_S: Final = 10.0
"""From Hello to the first assignment; an election may be going on."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
_SHORT_S: Final = 1.0
"""A stream that broke sooner counts as one that failed, so that nothing can make this a busy loop."""
_LEAVE_TIMEOUT_S: Final = 3.0
_KEPT_NOTICES: Final = 64

Answering: TypeAlias = Callable[[dispatcher.Question], Coroutine[Any, Any, dispatcher.Answer]]


async def unexplained(address: str, error: Unavailable) -> SwarmnetError:
    del address
    return error


class Session:
    """`connect` opens a channel to an address, `hello` describes this node as it is then.

    `answer` looks up what is asked of it; `explain` may know more of why there was no stream to an address.
    """

    def __init__(
        self,
        managers: Managers,
        connect: Callable[[str], grpc.aio.Channel],
        hello: Callable[[], dispatcher.Hello],
        assigned: Callable[[dispatcher.Assignment], None],
        rng: random.Random,
        *,
        answer: Answering,
        explain: Callable[[str, Unavailable], Awaitable[SwarmnetError]] = unexplained,
    ) -> None:
        self._managers = managers
        self._explain = explain
        self._connect = connect
        self._hello = hello
        self._assigned = assigned
        self._rng = rng
        self._wake = asyncio.Event()
        self._inquiries = _Inquiries(answer, self._wake.set)
        self._heartbeat_s = HEARTBEAT_PERIOD_S
        self._statuses: Mapping[str, dispatcher.TaskStatus] = {}
        self._keys: dispatcher.KeyReport | None = None
        self._capabilities: types.NodeCapabilities | None = None
        self._notices: deque[dispatcher.NodeNotice] = deque(maxlen=_KEPT_NOTICES)
        self._leaving = False
        self._done = asyncio.Event()
        self._connected = ""
        self.last_error = ""
        """Why there was no stream, last time."""
        self.established = asyncio.Event()
        """Set from the first assignment on."""

    @property
    def manager_id(self) -> str:
        """The manager that the stream leads to; empty while there is none."""
        return self._managers.node_id_at(self._connected)

    def report(self, statuses: Mapping[str, dispatcher.TaskStatus], keys: dispatcher.KeyReport) -> None:
        """The whole of it, by task id; what the managers have not heard yet is sent."""
        self._statuses, self._keys = dict(statuses), keys
        self._wake.set()

    def describe(self, capabilities: types.NodeCapabilities) -> None:
        """What this node can do has changed."""
        self._capabilities = capabilities
        self._wake.set()

    def notice(self, notices: Iterable[dispatcher.NodeNotice]) -> None:
        """Tell the managers what operators should know of; the oldest are dropped if nobody can be told."""
        self._notices.extend(notices)
        self._wake.set()

    async def run(self) -> dispatcher.Removed | None:
        """Until the managers say that this node is removed, or `leave` was called."""
        try:
            return await self._run()
        finally:
            self._done.set()

    async def leave(self) -> bool:
        """Tell the managers. False: none could be reached, and they find out by themselves."""
        told = bool(self._connected)
        self._leaving = True
        self._wake.set()
        try:
            await asyncio.wait_for(self._done.wait(), _LEAVE_TIMEOUT_S)
        except TimeoutError:
            return False
        return told

    async def _run(self) -> dispatcher.Removed | None:
        last, failures = "", 0
        while not self._leaving:
            places = self._managers.order(last)
            if failures >= max(len(places), 1):
                await self._pause(failures - len(places))
            if not places:
                failures += 1
                continue
            last, began = places[0].address, asyncio.get_running_loop().time()
            try:
                removed = await self._visit(places[0])
            except SwarmnetError as error:
                if isinstance(error, Unavailable) and not self._connected:
                    error = await self._explain(last, error)
                self._log_failure(last, error)
            else:
                if removed is not None:
                    return removed
            lasted_s = asyncio.get_running_loop().time() - began
            failures = 0 if self._connected and lasted_s > _SHORT_S else failures + 1
            self._connected = ""
        return None

    async def _pause(self, times: int) -> None:
        """Longer each time, and not the same for every worker of a swarm that lost its managers."""
        longest = min(FIRST_PAUSE_S * 2**times, LONGEST_PAUSE_S)
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wait_for_leave(), longest * self._rng.uniform(0.5, 1))
        except TimeoutError:
            return

    async def _wait_for_leave(self) -> None:
        while not self._leaving:
            await self._wake.wait()
            self._wake.clear()

    async def _visit(self, place: dispatcher.ManagerAddress) -> dispatcher.Removed | None:
        """One stream, until it breaks. None: the manager ended it."""
        async with self._connect(place.address) as channel:
            opener = _Opener()
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Session(self._outgoing(opener.public))
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S) as limit:
                    async for message in call:
                        limit.reschedule(None)
                        if message.HasField("removed"):
                            return message.removed
                        if message.HasField("question"):
                            self._inquiries.ask(message.question)
                        else:
                            self._take(place, opener.opened(message.assignment))
            except TimeoutError:
                raise Unavailable(f"{place.address} gave no assignment in {ANSWER_TIMEOUT_S:g} s") from None
            except grpc.aio.AioRpcError as error:
                raise error_of(error, place.address) from None
            finally:
                call.cancel()
                self._inquiries.forget()
        return None

    def _take(self, place: dispatcher.ManagerAddress, assignment: dispatcher.Assignment) -> None:
        if not self._connected:
            log.info("session established", manager=place.address)
            self._connected, self.last_error = place.address, ""
            self._wake.set()  # for what waited to be told
        if assignment.heartbeat_period_ms:
            self._heartbeat_s = assignment.heartbeat_period_ms / 1000
        self._assigned(assignment)
        self.established.set()

    async def _outgoing(self, key_offer: bytes) -> AsyncIterator[dispatcher.WorkerMessage]:
        """Hello, then reports as they change, and a heartbeat whenever nothing else was said for a period."""
        hello = self._hello()
        hello.key_offer = key_offer
        yield dispatcher.WorkerMessage(hello=hello)
        described = hello.capabilities
        statuses: Mapping[str, dispatcher.TaskStatus] = {}
        keys: dispatcher.KeyReport | None = None
        while not self._leaving:
            self._wake.clear()
            changed = [each for task_id, each in self._statuses.items() if statuses.get(task_id) != each]
            statuses = self._statuses
            if changed:
                yield dispatcher.WorkerMessage(tasks=dispatcher.TaskReport(statuses=changed))
            if self._keys is not None and self._keys != keys:
                keys = self._keys
                yield dispatcher.WorkerMessage(keys=keys)
            if self._capabilities is not None and self._capabilities != described:
                described = self._capabilities
                yield dispatcher.WorkerMessage(capabilities=described)
            for answer in self._inquiries.answers():
                yield dispatcher.WorkerMessage(answer=answer)
            if self._notices and self._connected:
                notices = dispatcher.NodeNotices(notices=self._notices)
                self._notices.clear()
                yield dispatcher.WorkerMessage(notices=notices)
            try:
                await asyncio.wait_for(self._wake.wait(), self._heartbeat_s)
            except TimeoutError:
                yield dispatcher.WorkerMessage(heartbeat=dispatcher.Heartbeat())
        yield dispatcher.WorkerMessage(leave=dispatcher.Leave())

    def _log_failure(self, address: str, error: SwarmnetError) -> None:
        if error.message != self.last_error:
            log.warning("no session", manager=address, error=error.message)
        self.last_error = error.message


class _Inquiries:
    """What the manager of one stream asked, while it is looked up, and the answers that are ready."""

    def __init__(self, answer: Answering, wake: Callable[[], None]) -> None:
        self._answer, self._wake = answer, wake
        self._under_way: set[asyncio.Task[dispatcher.Answer]] = set()
        self._ready: list[dispatcher.Answer] = []

    def ask(self, question: dispatcher.Question) -> None:
        if len(self._under_way) >= MAX_QUESTIONS:
            self._ready.append(
                dispatcher.Answer(id=question.id, error="this node has questions enough to answer")
            )
            self._wake()
            return
        job = asyncio.create_task(self._answer(question))
        self._under_way.add(job)
        job.add_done_callback(self._done)

    def answers(self) -> list[dispatcher.Answer]:
        """Those that are ready, once."""
        ready, self._ready = self._ready, []
        return ready

    def forget(self) -> None:
        """The stream is over: nobody waits for the answers any more."""
        for job in self._under_way:
            job.cancel()
        self._ready.clear()

    def _done(self, job: asyncio.Task[dispatcher.Answer]) -> None:
        self._under_way.discard(job)
        if not job.cancelled():
            self._ready.append(job.result())
            self._wake()


class _Opener:
    """Opens the keys of one session's assignments."""

    def __init__(self) -> None:
        offer = KeyOffer(secrets.token_bytes(32))
        self.public = offer.public
        self._offer: KeyOffer | None = offer
        self._chain: KeyChain | None = None

    def opened(self, assignment: dispatcher.Assignment) -> dispatcher.Assignment:
        """The assignment with its keys. Internal for keys that cannot be opened: the session is of no use."""
        if self._offer is not None and assignment.key_offer:
            self._chain, self._offer = self._offer.workers_end(assignment.key_offer), None
        if assignment.sealed_keys:
            try:
                if self._chain is None:
                    raise ValueError("the manager made no offer")
                keys = dispatcher.Keys.FromString(self._chain.open(assignment.sealed_keys))
            except (ValueError, DecodeError) as error:
                raise Internal(
                    f"keys of assignment {assignment.sequence} cannot be opened: {error}",
                    hint="Look at the versions of managers and workers.",
                ) from None
            assignment.keys.extend(keys.scopes)
        return assignment
