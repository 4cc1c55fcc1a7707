"""Many calls over one stream: `Control.Pipeline`.

A unary call costs gRPC's Python server three times what the call itself does; in a message of many it costs
next to nothing. Each call is a task of its own, held against the same guard and answered by the same gateway
as a call by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.client.deadlines import Deadlines
from swarmnet.client.outbox import Outbox
from swarmnet.core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    ResourceExhausted,
    SwarmnetError,
    Unavailable,
)
from swarmnet.core.limits import PIPELINE_CALL_BYTES, PIPELINE_CALLS
from swarmnet.core.status import encode
from swarmnet.manager.admission import FORWARDED_NODE, FORWARDED_ROLE
from swarmnet.manager.forward import Gateway
from swarmnet.manager.guard import Guard
from swarmnet.manager.identity import set_caller
from swarmnet.manager.rpcs import RPCS, Rpc

_SERVICE: Final = control.DESCRIPTOR.services_by_name["Control"].full_name
PIPELINE: Final = f"/{_SERVICE}/Pipeline"
_CALLABLE: Final = {
    rpc.name: rpc
    for rpc in RPCS.values()
    if rpc.service == _SERVICE and not rpc.client_streams and not rpc.server_streams
}
_FLUSH_S: Final = 0.2
_AT_ONCE: Final = 64
"""Calls begun in a turn of the event loop: Raft and the followers work on these while the next are begun."""
_STOPPING: Final = "this manager is stopping"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Pipelines:
    """The streams that are open at the servers of a process."""

    def __init__(self) -> None:
        self._open: set[_Stream] = set()

    async def serve(self, stream: _Stream) -> None:
        self._open.add(stream)
        try:
            await stream.serve()
        finally:
            self._open.discard(stream)

    async def end(self, grace_s: float) -> None:
        """Before their servers stop: answer what is done by then, and say of the rest what is known of it."""
        await asyncio.gather(*(each.stop(grace_s) for each in self._open))


class PipelineHandler(grpc.GenericRpcHandler):
    """Serves the rpc at one server."""

    def __init__(self, guard: Guard, gateway: Gateway, pipelines: Pipelines) -> None:
        self._guard = guard
        self._gateway = gateway
        self._pipelines = pipelines

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != PIPELINE:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, requests: object, context: Context) -> None:
        await self._pipelines.serve(_Stream(self._guard, self._gateway, context))


class _Peer:
    """What admission reads of the connection, looked up once: it stays the same as long as that lives."""

    def __init__(self, context: Context) -> None:
        self.facts: Mapping[str, Iterable[bytes]] = context.auth_context()
        self.name = context.peer()


class _Call:
    """One call, and what the guard and the gateway ask of its context."""

    def __init__(self, peer: _Peer, asked: control.PipelineCall) -> None:
        self.id = asked.id
        self.rpc: Rpc | None = _CALLABLE.get(asked.method)
        self.method = asked.method
        self.request = asked.request
        self.timeout_s = asked.timeout_ms / 1e3 if asked.timeout_ms else None
        self.overdue = False
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._metadata: Metadata = ()
        if asked.HasField("forwarded"):
            whom = asked.forwarded
            self._metadata = ((FORWARDED_NODE, whom.node_id), (FORWARDED_ROLE, whom.role))

    @property
    def path(self) -> str:
        return f"/{_SERVICE}/{self.method}"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._peer.facts

    def peer(self) -> str:
        return self._peer.name

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float | None:
        if self.timeout_s is None:
            return None
        return max(0.0, self._started + self.timeout_s - self._loop.time())


class _Stream:
    def __init__(self, guard: Guard, gateway: Gateway, context: Context) -> None:
        self._guard = guard
        self._gateway = gateway
        self._context = context
        self._peer = _Peer(context)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unwritten = 0
        """Calls that are not answered, or whose answers are not written yet."""
        self._fewer = asyncio.Event()
        self._deadlines = Deadlines(self._expire)
        self._outbox = Outbox(control.PipelineResponse)
        self._stop = asyncio.Event()
        self._grace_s = 0.0
        self._ended = asyncio.Event()

    async def stop(self, grace_s: float) -> None:
        """Returns when the stream has ended, a little more than that later at most."""
        self._grace_s = grace_s
        self._stop.set()
        await self._ended.wait()

    async def serve(self) -> None:
        """Until the client has said all and is answered; raises what the stream ends with otherwise."""
        work, writer, stop = (
            asyncio.create_task(each) for each in (self._work(), self._write(), self._stop.wait())
        )
        try:
            await asyncio.wait((writer, stop), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                work.cancel()
                await self._wind_up()
                await asyncio.wait((writer,), timeout=_FLUSH_S)
                raise Unavailable(_STOPPING, hint="Ask another manager.")
            await writer
            await work
        finally:
            tasks = (work, writer, stop, *self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._deadlines.close()
            self._ended.set()

    async def _wind_up(self) -> None:
        """What is not answered by then is told what is known of it."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()), timeout=self._grace_s)
        rest = tuple(self._tasks.values())
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        self._outbox.close()

    async def _work(self) -> None:
        """Take calls until there are no more, or one that cannot be; those before it are answered."""
        wrong = None
        try:
            await self._take()
        except InvalidArgument as error:
            wrong = error
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
        self._outbox.close()
        if wrong is not None:
            raise wrong

    async def _take(self) -> None:
        while (raw := await self._context.read()) is not grpc.aio.EOF:
            for number, asked in enumerate(_decoded(raw).calls, start=1):
                await self._room()
                self._begin(asked)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _room(self) -> None:
        while self._unwritten >= PIPELINE_CALLS:
            self._fewer.clear()
            await self._fewer.wait()

    def _begin(self, asked: control.PipelineCall) -> None:
        if asked.id in self._tasks:
            raise InvalidArgument(
                f"a call with the id {asked.id} is still in progress in this stream",
                hint="Count the calls of a stream.",
            )
        call = _Call(self._peer, asked)
        self._unwritten += 1
        self._tasks[call.id] = asyncio.create_task(self._run(call))

    async def _run(self, call: _Call) -> None:
        if call.timeout_s is not None:
            self._deadlines.add(call, call.timeout_s)
        try:
            self._answer(call, response=await self._response(call))
        except asyncio.CancelledError:
            if (known := self._known_of(call)) is None:
                raise  # the client has gone
            self._answer(call, error=encode(self._guard.say(call.path, known, call)))
        except Exception as error:
            self._answer(call, error=encode(self._guard.say(call.path, error, call)))
        finally:
            del self._tasks[call.id]
            self._deadlines.discard(call)

    async def _response(self, call: _Call) -> bytes:
        if (rpc := call.rpc) is None:
            raise InvalidArgument(
                f"there is no {call.path} with one request and one answer",
                hint="A pipeline takes the unary calls of the control API.",
            )
        _check_size("a request", call.request, "Make it in smaller steps.")
        set_caller(self._guard.admit(rpc.path, call))
        response = await self._gateway.unary(rpc, call.request, call)
        _check_size("an answer", response, "Ask for less at once, by name.")
        return response

    def _answer(self, call: _Call, *, response: bytes | None = None, error: bytes | None = None) -> None:
        size_bytes = len(response or b"") + len(error or b"")
        self._outbox.place(size_bytes).answers.add(id=call.id, response=response, error=error)

    def _expire(self, call: _Call) -> None:
        call.overdue = True
        self._tasks[call.id].cancel()

    def _known_of(self, call: _Call) -> SwarmnetError | None:
        """Of a call that was not let finish; None if nobody is there to be told."""
        reads = call.rpc is not None and call.rpc.reads
        unknown = "It may or may not have taken effect. Look first, or repeat it with the same request id."
        if call.overdue:
            return DeadlineExceeded(
                f"{call.path} did not end within {call.timeout_s:g} s",
                hint="Ask again, with more time." if reads else unknown,
            )
        if not self._stop.is_set():
            return None
        if reads:
            return Unavailable(_STOPPING, hint="Ask another manager.")
        return OutcomeUnknown(f"{_STOPPING} before {call.path} ended", hint=unknown)

    async def _write(self) -> None:
        while (message := await self._outbox.take()) is not None:
            await self._context.write(message.SerializeToString())
            self._unwritten -= len(message.answers)
            self._fewer.set()


def _decoded(raw: bytes) -> control.PipelineRequest:
    try:
        return control.PipelineRequest.FromString(raw)
    except DecodeError:
        raise InvalidArgument(
            "the message is no PipelineRequest", hint="Use the stubs of this version's API."
        ) from None


def _check_size(what: str, encoded: bytes, hint: str) -> None:
    if len(encoded) > PIPELINE_CALL_BYTES:
        raise ResourceExhausted(
            f"{what} of {len(encoded)} bytes is above the limit of {PIPELINE_CALL_BYTES}", hint=hint
        )
