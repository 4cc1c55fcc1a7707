"""The managers a client knows, and its one stream to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from swarmnet.client.pipe import NotSent, Pipe
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.limits import MAX_MESSAGE_BYTES
from swarmnet.core.secret import SecretBytes

_CONNECT_S: Final = 2.0
_GRACE_S: Final = 10.0
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.ssl_target_name_override", "swarmnet-manager"),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A client's certificate (role swarmnet-client), its key, and the cluster's root; all PEM."""

    root_pem: bytes
    certificate_pem: bytes
    key_pem: SecretBytes

    @classmethod
    def in_folder(cls, folder: Path) -> Identity:
        """The three files that `swarmnet swarm credentials` makes; InvalidArgument if one cannot be read."""
        try:
            root, certificate, key = (
                (folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")
            )
        except OSError as error:
            raise InvalidArgument(
                f"cannot read {error.filename}: {error.strerror}",
                hint="`swarmnet swarm credentials DIR` on a manager makes the files.",
            ) from None
        return cls(root, certificate, SecretBytes(key))


@dataclass(frozen=True, slots=True)
class _Line:
    channel: grpc.aio.Channel
    pipe: Pipe

    async def close(self, grace_s: float) -> None:
        try:
            await self.pipe.close(grace_s)
        finally:
            await self.channel.close()


class Managers:
    """Event loop only."""

    def __init__(self, addresses: Sequence[str], identity: Identity | None) -> None:
        """`addresses`: host:port each; or unix:PATH, for root on that host, who needs no identity."""
        if not addresses:
            raise InvalidArgument("no manager is named", hint="Name one as HOST:2377, or better several.")
        self._addresses = tuple(addresses)
        self._identity = identity
        self._at = 0
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def pipe(self) -> Pipe:
        """The stream of all calls; a new one if there is none. NotSent when that manager cannot be reached:
        the next try is at another one."""
        if (pipe := self.open_pipe()) is not None:
            return pipe
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(self._addresses[self._at]))
            self._connecting.add_done_callback(self._connected)
        return (await asyncio.shield(self._connecting)).pipe

    def open_pipe(self) -> Pipe | None:
        """The same, if it is there already."""
        if self._line is not None and self._line.pipe.ended is not None:
            self.leave(self._line.pipe)
        return self._line.pipe if self._line is not None else None

    def leave(self, pipe: Pipe) -> None:
        """The next call goes to another manager, if one is named; those under way are waited for here."""
        if self._line is None or pipe is not self._line.pipe:
            return
        if pipe.ended is not None or len(self._addresses) > 1:
            self._retire(self._line, _GRACE_S)
            self._line = None
            self._move_on()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        for task in self._closing:
            task.cancel()
        if self._line is not None:
            self._retire(self._line, 0.0)
            self._line = None
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _retire(self, line: _Line, grace_s: float) -> None:
        closing = asyncio.create_task(line.close(grace_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _move_on(self) -> None:
        self._at = (self._at + 1) % len(self._addresses)

    async def _connect(self, address: str) -> _Line:
        channel = self._channel(address)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await _ready(channel)
        except (TimeoutError, ConnectionError):
            await channel.close()
            raise NotSent(
                f"cannot connect to the manager at {address}",
                hint="Is it running? Did this swarm issue the certificate, and is it still valid?",
            ) from None
        return _Line(channel, Pipe(channel))

    def _connected(self, connecting: asyncio.Task[_Line]) -> None:
        self._connecting = None
        if connecting.cancelled():
            return
        if connecting.exception() is None:
            self._line = connecting.result()
        else:
            self._move_on()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address.startswith("unix:"):
            return grpc.aio.insecure_channel(address, _OPTIONS)
        if self._identity is None:
            raise InvalidArgument(
                f"no client certificate for {address}",
                hint="`swarmnet swarm credentials DIR` on a manager makes one.",
            )
        mine = self._identity
        credentials = grpc.ssl_channel_credentials(mine.root_pem, mine.key_pem.reveal(), mine.certificate_pem)
        return grpc.aio.secure_channel(address, credentials, _OPTIONS)


async def _ready(channel: grpc.aio.Channel) -> None:
    """ConnectionError as soon as the first attempt has failed."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
