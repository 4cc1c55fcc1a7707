"""The Local service on the manager's unix socket: root on this host makes, joins and leaves swarms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Final, Protocol

from swarmnet.api.v1 import local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.backup import MAX_STATE_BYTES
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.secret import SecretBytes
from swarmnet.core.unlock_key import parse_unlock_key

_MAX_BACKUP_BYTES: Final = MAX_STATE_BYTES + MAX_STATE_BYTES // 1024


class Operations(Protocol):
    """What the daemon can be asked."""

    def info(self) -> local_pb2.LocalInfo: ...

    async def init(self, request: local_pb2.InitRequest) -> local_pb2.InitResponse: ...

    async def restore(self, key: SecretBytes, raw: bytes) -> local_pb2.RestoreResponse: ...

    async def join(self, request: local_pb2.JoinRequest) -> local_pb2.JoinResponse: ...

    async def leave(self, *, force: bool) -> None: ...

    async def unlock(self, unlock_key: SecretBytes) -> None: ...

    def prepare_take_over(self) -> local_pb2.PrepareTakeOverResponse: ...

    async def take_over(self, request: local_pb2.TakeOverRequest) -> None: ...


class LocalService(local_pb2_grpc.LocalServicer):
    def __init__(self, daemon: Operations) -> None:
        self._daemon = daemon

    async def GetInfo(self, request: local_pb2.GetInfoRequest, context: object) -> local_pb2.LocalInfo:
        info = self._daemon.info()
        info.role, info.version = types.ROLE_MANAGER, version("swarmnet")
        return info

    async def Init(self, request: local_pb2.InitRequest, context: object) -> local_pb2.InitResponse:
        return await self._daemon.init(request)

    async def Restore(
        self, request_iterator: AsyncIterator[local_pb2.RestoreRequest], context: object
    ) -> local_pb2.RestoreResponse:
        key, raw = SecretBytes(b""), bytearray()
        async for piece in request_iterator:
            key = SecretBytes(piece.key) if piece.key else key
            raw += piece.data
            if len(raw) > _MAX_BACKUP_BYTES:
                raise InvalidArgument("this file is too large for a backup", hint="Is it the right file?")
        return await self._daemon.restore(key, bytes(raw))

    async def Join(self, request: local_pb2.JoinRequest, context: object) -> local_pb2.JoinResponse:
        return await self._daemon.join(request)

    async def Leave(self, request: local_pb2.LeaveRequest, context: object) -> local_pb2.LeaveResponse:
        await self._daemon.leave(force=request.force)
        return local_pb2.LeaveResponse()

    async def Unlock(self, request: local_pb2.UnlockRequest, context: object) -> local_pb2.UnlockResponse:
        await self._daemon.unlock(parse_unlock_key(request.unlock_key))
        return local_pb2.UnlockResponse()

    async def PrepareTakeOver(
        self, request: local_pb2.PrepareTakeOverRequest, context: object
    ) -> local_pb2.PrepareTakeOverResponse:
        return self._daemon.prepare_take_over()

    async def TakeOver(
        self, request: local_pb2.TakeOverRequest, context: object
    ) -> local_pb2.TakeOverResponse:
        await self._daemon.take_over(request)
        return local_pb2.TakeOverResponse()

    async def Attach(self, request: local_pb2.AttachRequest, context: object) -> local_pb2.LeaveResponse:
        raise FailedPrecondition(
            "a manager's host asks the swarm itself whether a network can be joined",
            hint=f"Run `swarmnet run --network {request.network}` against the manager.",
        )
