"""A register that is one config object of the swarm, asked for at any of its managers.

The value is a label, the version that the managers give each change makes the compare-and-swap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.api.v1.control_pb2_grpc import ControlStub
from swarmnet.client.client import Client
from swarmnet.client.pipe import NotSent
from swarmnet.core.errors import (
    AlreadyExists,
    Conflict,
    NoLeader,
    NotFound,
    NotLeader,
    ResourceExhausted,
    SwarmnetError,
)
from swarmnet.core.status import TRAILER, decode

_LABEL: Final = "value"
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


class Refused(Exception):
    """It surely has no effect, and says nothing about the register."""


class Unknown(Exception):
    """It may have had an effect, may have one yet, or never."""


class Missing(Exception):
    """There is no such register."""


class Different(Exception):
    """The register is not what was expected."""


class Versioned(NamedTuple):
    value: str
    version: int


class Registers:
    """All registers, as one manager tells them. Each call raises one of the above if it does not succeed."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.aio.insecure_channel(socket, options=_OPTIONS)
        self._control = ControlStub(self._channel)

    async def read(self, name: str, timeout_s: float) -> Versioned:
        config: types.Config = await self._ask("GetConfig", control.GetRequest(ref=name), timeout_s)
        return Versioned(config.labels[_LABEL], config.meta.version)

    async def create(self, name: str, value: str, request_id: str, timeout_s: float) -> None:
        """Different if it is there already."""
        request = control.CreateConfigRequest(
            name=name, data=b"-", labels={_LABEL: value}, request_id=request_id
        )
        await self._ask("CreateConfig", request, timeout_s)

    async def write(
        self, name: str, value: str, request_id: str, timeout_s: float, expected: int = 0
    ) -> Versioned:
        """With a version `expected`: only if it has that one, else Different."""
        request = control.UpdateConfigRequest(
            ref=name, labels={_LABEL: value}, version=expected, request_id=request_id
        )
        answer: control.UpdateConfigResponse = await self._ask("UpdateConfig", request, timeout_s)
        return Versioned(value, answer.version)

    async def all(self, timeout_s: float) -> Mapping[str, Versioned]:
        answer: control.ListConfigsResponse = await self._ask("ListConfigs", control.ListRequest(), timeout_s)
        return {each.name: Versioned(each.labels[_LABEL], each.meta.version) for each in answer.configs}

    async def _ask(self, rpc: str, request: object, timeout_s: float) -> Any:
        try:
            return await getattr(self._control, rpc)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _meaning(_said(error), f"{error.code().name}: {error.details()}") from None

    async def close(self) -> None:
        await self._channel.close()


class PipelinedRegisters(Registers):
    """The same over one stream, by the client for programs: it goes from manager to manager by itself."""

    def __init__(self, sockets: Sequence[str]) -> None:
        self._swarm = Client(sockets)

    async def _ask(self, rpc: str, request: object, timeout_s: float) -> Any:
        try:
            return await getattr(self._swarm, rpc)(request, timeout_s)
        except SwarmnetError as error:
            raise _meaning(error, str(error)) from None

    async def close(self) -> None:
        await self._swarm.close()


def _meaning(said: SwarmnetError | None, text: str) -> Exception:
    """What an error promises. Whatever is not a definite answer is Unknown."""
    match said:
        case NotFound():
            return Missing(text)
        case Conflict() | AlreadyExists():
            return Different(text)
        case NotLeader() | NoLeader() | NotSent() | ResourceExhausted():
            return Refused(text)
    return Unknown(text)


def _said(error: grpc.aio.AioRpcError) -> SwarmnetError | None:
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            return decode(value)
    return None
