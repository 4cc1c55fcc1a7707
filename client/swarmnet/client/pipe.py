"""The calling end of a pipeline: one stream to one manager for all calls that are made at once.

The calls of one turn of the event loop become one message, and while a message is on its way the next one
gathers. Managers use this among themselves, too: a follower sends on to the leader what its clients ask.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.client.deadlines import Deadlines
from swarmnet.client.outbox import Outbox
from swarmnet.core.errors import (
    Internal,
    OutcomeUnknown,
    PermissionDenied,
    ResourceExhausted,
    SwarmnetError,
    Unauthenticated,
    Unavailable,
)
from swarmnet.core.limits import PIPELINE_CALL_BYTES
from swarmnet.core.status import TRAILER, decode

PIPELINE: Final = "/swarmnet.api.v1.Control/Pipeline"
_LATE_S: Final = 0.2
"""How much later than the manager this end gives up a call: the manager's word is the better one."""


class NotSent(Unavailable):
    """The stream ended before the call was sent: it surely did nothing."""


class Lost(OutcomeUnknown):
    """The stream ended, or the time was over, before the answer came."""


class Pipe:
    """Lives as long as its stream; then `ended` says why, and another one is to be made. Event loop only."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        open_stream: Any = channel.stream_stream(PIPELINE)
        self._stream: Any = open_stream()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._outbox = Outbox(control.PipelineRequest)
        self._deadlines = Deadlines(self._overdue)
        self._number = 0
        self._closing = False
        self.ended: SwarmnetError | None = None
        self._reading = asyncio.create_task(self._read())
        self._writing = asyncio.create_task(self._write())

    async def call(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None = None,
        forwarded: control.PipelineCaller | None = None,
    ) -> bytes:
        """The encoded answer. NotSent, Lost; ResourceExhausted if it is too large; the manager's error."""
        if self.ended is not None or self._closing:
            raise NotSent("the connection to the manager is closed", hint="Ask again.")
        if len(request) > PIPELINE_CALL_BYTES:
            raise ResourceExhausted(
                f"a request of {len(request)} bytes is above the limit of {PIPELINE_CALL_BYTES}",
                hint="Make it in smaller steps.",
            )
        number, answer = self._expect()
        self._add(number, method, request, timeout_s, forwarded)
        if timeout_s is None:
            return await answer
        self._deadlines.add(number, timeout_s + _LATE_S)
        try:
            return await answer
        finally:
            self._deadlines.discard(number)

    async def close(self, grace_s: float = 1.0) -> None:
        """Wait for what is under way that long, then end the stream."""
        self._closing = True
        self._outbox.close()
        await asyncio.wait((self._reading,), timeout=grace_s)
        self._stream.cancel()
        await asyncio.wait((self._reading, self._writing))

    def _expect(self) -> tuple[int, asyncio.Future[bytes]]:
        self._number += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = answer
        return self._number, answer

    def _add(
        self,
        number: int,
        method: str,
        request: bytes,
        timeout_s: float | None,
        forwarded: control.PipelineCaller | None,
    ) -> None:
        timeout_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1e3))
        self._outbox.place(len(request)).calls.add(
            id=number, method=method, request=request, timeout_ms=timeout_ms, forwarded=forwarded
        )

    def _overdue(self, number: int) -> None:
        """The manager, which knows the deadline, would have said so: it is gone, or hangs."""
        if (answer := self._waiting.pop(number, None)) is not None and not answer.done():
            answer.set_exception(Lost("the manager did not answer in time"))

    async def _write(self) -> None:
        try:
            while (message := await self._outbox.take()) is not None:
                await self._stream.write(message.SerializeToString())
            await self._stream.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader learns why

    async def _read(self) -> None:
        ended: SwarmnetError = Unavailable("the manager ended the connection", hint="Ask again.")
        try:
            while (raw := await self._stream.read()) is not grpc.aio.EOF:
                for each in control.PipelineResponse.FromString(raw).answers:
                    self._answered(each)
        except grpc.aio.AioRpcError as error:
            ended = _why(error)
        except DecodeError:
            ended = Internal("the manager's answer is no PipelineResponse")
        except asyncio.CancelledError:
            pass  # by `close`, or by that of the channel
        finally:
            self._end(ended)

    def _answered(self, answer: control.PipelineAnswer) -> None:
        waiting = self._waiting.pop(answer.id, None)
        if waiting is None or waiting.done():
            return
        if answer.HasField("error"):
            said = decode(answer.error) or Internal(
                "the manager answered with an error that is none of its own"
            )
            waiting.set_exception(said)
        else:
            waiting.set_result(answer.response)

    def _end(self, why: SwarmnetError) -> None:
        self.ended = why
        self._writing.cancel()
        self._deadlines.close()
        unsent = {each.id for message in self._outbox.left() for each in message.calls}
        waiting, self._waiting = self._waiting, {}
        for number, answer in waiting.items():
            if not answer.done():
                answer.set_exception(_fate(why, sent=number not in unsent))


def _fate(why: SwarmnetError, *, sent: bool) -> SwarmnetError:
    """Of a call without an answer, when the stream ended."""
    if isinstance(why, PermissionDenied | Unauthenticated):
        return type(why)(why.message, hint=why.hint)
    if not sent:
        return NotSent(why.message, hint=why.hint)
    return Lost(
        f"the connection to the manager broke during the call ({why.message})",
        hint="It may or may not have taken effect. Look first, or repeat it with the same request id.",
    )


def _why(error: grpc.aio.AioRpcError) -> SwarmnetError:
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
            return said
    return Unavailable(f"{error.code().name}: {error.details()}", hint="Ask again, or another manager.")
