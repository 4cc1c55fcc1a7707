"""The worker's unix socket: root on this host joins and leaves swarms, and is told what workers cannot do."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog

from swarmnet.api.v1 import local_pb2 as local
from swarmnet.api.v1 import local_pb2_grpc
from swarmnet.core.errors import (
    FailedPrecondition,
    Internal,
    NotAManager,
    NotFound,
    SwarmnetError,
    SwarmScoped,
)
from swarmnet.core.status import TRAILER, encode
from swarmnet.worker.node import Worker

log = structlog.get_logger()

NOT_A_MANAGER: Final = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
_CONTROL_PREFIX: Final = "/swarmnet.api.v1.Control/"
Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class LocalService(local_pb2_grpc.LocalServicer):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def GetInfo(self, request: local.GetInfoRequest, context: object) -> local.LocalInfo:
        return self._worker.info()

    async def Init(self, request: local.InitRequest, context: object) -> local.InitResponse:
        raise NotAManager(NOT_A_MANAGER)

    async def Unlock(self, request: local.UnlockRequest, context: object) -> local.UnlockResponse:
        raise NotAManager(NOT_A_MANAGER)

    async def Restore(self, request_iterator: object, context: object) -> local.RestoreResponse:
        raise NotAManager(NOT_A_MANAGER)

    async def Join(self, request: local.JoinRequest, context: object) -> local.JoinResponse:
        return await self._worker.join(request)

    async def Leave(self, request: local.LeaveRequest, context: object) -> local.LeaveResponse:
        await self._worker.leave()
        return local.LeaveResponse()

    async def PrepareTakeOver(
        self, request: local.PrepareTakeOverRequest, context: object
    ) -> local.PrepareTakeOverResponse:
        return await self._worker.prepare_take_over()

    async def TakeOver(self, request: local.TakeOverRequest, context: object) -> local.TakeOverResponse:
        await self._worker.take_over(request)
        return local.TakeOverResponse()

    async def Attach(self, request: local.AttachRequest, context: object) -> local.LeaveResponse:
        """Refused whatever is asked: only the tasks that managers assign get into a network."""
        if not self._worker.in_swarm:
            raise NotFound(
                f"network {request.network} not found",
                hint="This node is not part of a swarm: see `swarmnet swarm join`.",
            )
        what = shlex.join([request.image, *request.command]) if request.image else "IMAGE COMMAND..."
        raise SwarmScoped(
            f"swarm-scoped network ({request.network}) is not compatible with `swarmnet create` or "
            "`swarmnet run`. This network can only be used by a swarm service.",
            hint=f"swarmnet service create --name NAME --network {request.network} {what}",
        )


class _ControlRefused(grpc.GenericRpcHandler):
    """Every rpc of the control API: its answer is where to ask."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        if not str(handler_call_details.method).startswith(_CONTROL_PREFIX):
            return None

        async def refuse_all(requests: AsyncIterator[bytes], context: Context) -> None:
            raise NotAManager(NOT_A_MANAGER)

        return grpc.stream_stream_rpc_method_handler(refuse_all)


class _Errors(grpc.aio.ServerInterceptor):
    """Turns what a call raises into a status with details; what is none of ours is logged and hidden."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:  # grpc answers UNIMPLEMENTED
            return None
        behaviour: Any = handler.stream_stream or handler.unary_unary

        async def guarded(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except SwarmnetError as error:
                await _refuse(context, error)
            except grpc.aio.AbortError:
                raise
            except Exception:
                log.exception("call failed", rpc=str(handler_call_details.method))
                await _refuse(context, Internal("the worker failed on this call; its log says why"))

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.stream_stream
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def _refuse(context: Context, error: SwarmnetError) -> None:
    await context.abort(grpc.StatusCode[error.status], error.message, ((TRAILER, encode(error)),))


def make_server(path: Path, worker: Worker) -> grpc.aio.Server:
    """Bound to the socket, which root alone may use; not started. FailedPrecondition if that cannot be."""
    server = grpc.aio.server(handlers=(_ControlRefused(),), interceptors=(_Errors(),))
    local_pb2_grpc.add_LocalServicer_to_server(LocalService(worker), server)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise FailedPrecondition(
            f"cannot listen at {path}", hint="Name a directory for it with --run-dir."
        ) from error
    finally:
        os.umask(before)
    return server
