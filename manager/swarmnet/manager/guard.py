"""The one interceptor of every server: who calls, may they, and what an error looks like on the wire."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog

from swarmnet.core.errors import Internal, SwarmnetError
from swarmnet.core.status import RENEW, TRAILER, encode
from swarmnet.manager.admission import Admit, PeerContext
from swarmnet.manager.forward import is_leaders
from swarmnet.manager.identity import Caller, set_caller

log = structlog.get_logger()

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Note: TypeAlias = Callable[[SwarmnetError, PeerContext], None]
_INTERNAL: Final = Internal(
    "the manager failed on this call; its log says why", hint="Look at the log of the leading manager."
)


class Guard(grpc.aio.ServerInterceptor):
    """Admits each call, sets its caller, and turns errors into a status with details.

    An error that is none of ours is a defect: it is logged, and the client learns only that it happened.
    `refused` counts the errors by their reasons; `note` hears of those that were raised here, and not by the
    leader that the call was forwarded to. `should_renew`: whether the answer tells the caller to renew its
    certificate.
    """

    def __init__(
        self,
        admit: Admit,
        refused: Counter[str] | None = None,
        should_renew: Callable[[Caller, PeerContext], bool] = lambda *_: False,
        note: Note = lambda error, context: None,
    ) -> None:
        self._admit = admit
        self._should_renew = should_renew
        self._refused: Counter[str] = Counter() if refused is None else refused
        self._note = note
        self._guarded: dict[str, Handler] = {}

    def admit(self, path: str, peer: PeerContext) -> Caller:
        """Who may call that rpc; Unauthenticated, PermissionDenied."""
        return self._admit(path, peer)

    def say(self, path: str, error: Exception, peer: PeerContext) -> SwarmnetError:
        """What the caller is told of an error, which is counted, or logged if it is a defect."""
        if isinstance(error, SwarmnetError):
            self._refused[error.reason] += 1
            if not is_leaders(error):
                self._note(error, peer)
            return error
        log.error("call failed", rpc=path, exc_info=error)
        return _INTERNAL

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        path = str(handler_call_details.method)
        if (guarded := self._guarded.get(path)) is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # grpc answers UNIMPLEMENTED
                return None
            guarded = self._guarded[path] = self._guard(path, handler)
        return guarded

    def _guard(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Handler:
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.stream_stream is not None:
            streaming = self._streaming(path, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(streaming, **serializers)
        if handler.unary_stream is not None:
            streaming = self._streaming(path, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(streaming, **serializers)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                self._single(path, handler.stream_unary), **serializers
            )
        return grpc.unary_unary_rpc_method_handler(self._single(path, handler.unary_unary), **serializers)

    def _single(self, path: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                self._let_in(path, context)
                return await behaviour(request, context)
            except Exception as error:
                await self._end(path, context, error)

        return call

    def _streaming(self, path: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> None:
            try:
                self._let_in(path, context)
                responses = behaviour(request, context)
                if inspect.isawaitable(responses):  # it writes to the context itself
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)
            except Exception as error:
                await self._end(path, context, error)

        return call

    def _let_in(self, path: str, context: Context) -> None:
        caller = self._admit(path, context)
        set_caller(caller)
        if self._should_renew(caller, context):
            context.set_trailing_metadata(((RENEW, "1"),))

    async def _end(self, path: str, context: Context, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        await refuse(context, self.say(path, error, context))
        raise error


async def refuse(context: Context, error: SwarmnetError) -> None:
    """End the call with the error's status, and its reason and hint in the trailer."""
    code = grpc.StatusCode[error.status]
    try:
        await context.abort(code, error.message, ((TRAILER, encode(error)),))
    except grpc.aio.InternalError:  # the call is over: its caller has gone, or its time is
        raise asyncio.CancelledError from None
