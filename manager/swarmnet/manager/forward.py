"""Any manager answers any client: what is the leader's to answer goes there, byte for byte.

A call waits a few seconds for a leader, so that a command given during an election just works. It is sent
again only when it surely was not executed: no connection to the leader, or the answer that it does not lead.
A leader that is lost in the middle of a call ends it with Unavailable: the client knows whether to repeat it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from swarmnet.api.v1 import control_pb2
from swarmnet.client.pipe import Lost, NotSent, Pipe
from swarmnet.core.errors import (
    InvalidArgument,
    NoLeader,
    NotLeader,
    PermissionDenied,
    SwarmnetError,
    SwarmScoped,
    Unauthenticated,
    Unavailable,
)
from swarmnet.core.status import TRAILER, decode
from swarmnet.manager.admission import FORWARDED_NODE, FORWARDED_ROLE
from swarmnet.manager.identity import Caller, current_caller
from swarmnet.manager.rpcs import RPCS, Rpc

LEADER_WAIT_S: Final = 3.0
_BY_LEADER: Final = "the leader says so"
_PAUSE_S: Final = 0.02
_CONNECT_S: Final = 0.1
"""Then it is looked again who leads; connecting goes on meanwhile."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
CONTROL: Final = control_pb2.DESCRIPTOR.services_by_name["Control"].full_name


class CallContext(Protocol):
    """What a call with one request and one answer has of grpc's ServicerContext, or of a pipeline's call."""

    def invocation_metadata(self) -> Any: ...
    def time_remaining(self) -> float | None: ...


class Swarm(Protocol):
    """What the gateway needs of this manager's place in the swarm."""

    def servicer(self, service: str) -> object:
        """What answers the service's calls here. FailedPrecondition outside of a swarm."""

    def leads(self) -> bool: ...

    def leader_channel(self) -> grpc.aio.Channel | None:
        """To the manager that leads, as far as this one knows; None if it knows of none."""

    def leader_pipe(self) -> Pipe:
        """Over that channel, once it is connected. NoLeader when it is closed meanwhile."""

    async def admit_leading(self, rpc: Rpc) -> None:
        """Before a call is answered here: the state is current, the caller still of the swarm."""

    def check_known(self, caller: Caller, service: str) -> None:
        """The same for what any manager answers by itself, by the state that is here: Unauthenticated."""

    def serving(self, service: str) -> AbstractContextManager[None]:
        """Around a stream that is answered here: Unauthenticated once its caller is of the swarm no more."""


class Gateway(grpc.GenericRpcHandler):
    """Answers the services that belong to the leader: here if this manager leads, else there."""

    def __init__(
        self, swarm: Callable[[], Swarm], services: frozenset[str], anywhere: frozenset[str] = frozenset()
    ) -> None:
        """`anywhere`: paths of rpcs that any manager answers by itself."""
        self._swarm = swarm
        self._services = services
        self._anywhere = anywhere

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        rpc = RPCS.get(str(handler_call_details.method))
        if rpc is None or rpc.service not in self._services:
            return None
        if not rpc.server_streams:
            return grpc.unary_unary_rpc_method_handler(partial(self.unary, rpc))
        stream = partial(self._stream, rpc)
        if rpc.client_streams:
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=_encoded)
        return grpc.unary_stream_rpc_method_handler(stream, response_serializer=_encoded)

    async def unary(self, rpc: Rpc, raw: bytes, context: CallContext) -> bytes:
        """Answer one request, encoded, with the encoded answer."""
        try:
            return await self._attempt(rpc, raw, context)
        except (NotLeader, NoLeader):
            if is_forwarded(context):
                raise
        deadline = asyncio.get_running_loop().time() + LEADER_WAIT_S
        while True:
            await asyncio.sleep(_PAUSE_S)
            try:
                return await self._attempt(rpc, raw, context)
            except (NotLeader, NoLeader):
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def _attempt(self, rpc: Rpc, raw: bytes, context: CallContext) -> bytes:
        if (channel := await self._leader(rpc, context)) is not None:
            return await self._forwarded(rpc, channel, raw, context)
        behaviour = getattr(self._swarm().servicer(rpc.service), rpc.name)
        return _encoded(await behaviour(_decoded(rpc, raw), context))

    async def _leader(self, rpc: Rpc, context: CallContext) -> grpc.aio.Channel | None:
        """None: it is this manager, and it may answer. NoLeader, NotLeader: ask again in a moment."""
        swarm = self._swarm()
        if rpc.path in self._anywhere:
            return None
        if swarm.leads():
            await swarm.admit_leading(rpc)
            return None
        if is_forwarded(context):
            raise NotLeader("this manager does not lead", hint="Ask again: a new leader is being elected.")
        if (channel := swarm.leader_channel()) is None:
            raise NoLeader
        await _connected(channel)
        return channel

    async def _forwarded(
        self, rpc: Rpc, channel: grpc.aio.Channel, raw: bytes, context: CallContext
    ) -> bytes:
        if rpc.service == CONTROL:
            return await self._through_pipe(rpc, raw, context)
        multi: Any = channel.unary_unary(rpc.path)
        call = multi(raw, metadata=_metadata(), timeout=context.time_remaining())
        try:
            return bytes(await call)
        except grpc.aio.AioRpcError as error:
            raise _said_by_leader(error) from error

    async def _through_pipe(self, rpc: Rpc, raw: bytes, context: CallContext) -> bytes:
        pipe = self._swarm().leader_pipe()
        caller = current_caller()
        whom = control_pb2.PipelineCaller(node_id=caller.node_id, role=caller.role.value)
        try:
            return await pipe.call(rpc.name, raw, context.time_remaining(), whom)
        except NotSent:
            raise NoLeader from None
        except (Unauthenticated, PermissionDenied, SwarmScoped) as error:
            error.add_note(_BY_LEADER)
            raise
        except Lost:
            if not rpc.reads:
                raise
            raise NoLeader from None

    async def _stream(self, rpc: Rpc, request: Any, context: Context) -> AsyncGenerator[object, None]:
        channel = await self._patient_leader(rpc, context)
        source = (
            self._served(rpc, request, context)
            if channel is None
            else self._piped(rpc, channel, request, context)
        )
        async with aclosing(source):
            async for response in source:
                yield response

    async def _patient_leader(self, rpc: Rpc, context: Context) -> grpc.aio.Channel | None:
        deadline = asyncio.get_running_loop().time() + LEADER_WAIT_S
        while True:
            try:
                return await self._leader(rpc, context)
            except (NotLeader, NoLeader):
                if is_forwarded(context) or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _served(self, rpc: Rpc, request: Any, context: Context) -> AsyncGenerator[object, None]:
        behaviour = getattr(self._swarm().servicer(rpc.service), rpc.name)
        decoded = _decoded_each(rpc, request) if rpc.client_streams else _decoded(rpc, request)
        with self._swarm().serving(rpc.service):
            async with aclosing(behaviour(decoded, context)) as responses:
                async for response in responses:
                    yield response

    async def _piped(
        self, rpc: Rpc, channel: grpc.aio.Channel, request: Any, context: Context
    ) -> AsyncGenerator[object, None]:
        multi: Any = channel.stream_stream if rpc.client_streams else channel.unary_stream
        call = multi(rpc.path)(request, metadata=_metadata())
        try:
            await call.initial_metadata()
            await context.send_initial_metadata(())
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _said_by_leader(error) from error
        finally:
            call.cancel()


async def _connected(channel: grpc.aio.Channel) -> None:
    """NoLeader when it takes long."""
    try:
        if channel.get_state() is not grpc.ChannelConnectivity.READY:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
    except (TimeoutError, grpc.aio.UsageError):  # the latter: closed meanwhile, since it leads no more
        raise NoLeader from None


def is_leaders(error: SwarmnetError) -> bool:
    """Whether the leader refused, which a call was forwarded to, and not this manager."""
    return _BY_LEADER in getattr(error, "__notes__", ())


def is_forwarded(context: CallContext) -> bool:
    return any(key == FORWARDED_ROLE for key, _ in context.invocation_metadata() or ())


def _metadata() -> tuple[tuple[str, str], ...]:
    caller = current_caller()
    return ((FORWARDED_NODE, caller.node_id), (FORWARDED_ROLE, caller.role.value))


def _said_by_leader(error: grpc.aio.AioRpcError) -> SwarmnetError:
    """The leader's own words, or that it went away in the middle."""
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
            said.add_note(_BY_LEADER)
            return said
    return Unavailable(
        f"the connection to the leading manager broke during the call ({error.code().name})",
        hint="It may or may not have taken effect. Look first, or repeat it with the same request id.",
    )


def _decoded(rpc: Rpc, raw: bytes) -> Message:
    try:
        return rpc.request.FromString(raw)
    except DecodeError:
        raise InvalidArgument(
            f"the request is no {rpc.request.DESCRIPTOR.full_name}",
            hint="Use the stubs of this version's API.",
        ) from None


async def _decoded_each(rpc: Rpc, requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for raw in requests:
        yield _decoded(rpc, raw)


def _encoded(response: Any) -> bytes:
    return response if isinstance(response, bytes) else bytes(response.SerializeToString())
