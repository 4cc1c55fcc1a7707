"""The worker's part in becoming a manager: hand this node's identity to the manager daemon on its host.

The managers say when, after the node's last task. Until they count the manager as theirs this worker stays
what it is, and every step can be taken again; then they tell it so over its session, and it is no worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import grpc.aio
import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, local_pb2, local_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError, Unavailable
from swarmnet.worker.channel import error_of, said_by
from swarmnet.worker.places import Managers

log = structlog.get_logger()
T = TypeVar("T")

LOOK_S: Final = 10.0
"""How often it is looked whether the manager daemon on this host could take over."""
_RETRY_S: Final = 1.0
_GLANCE_S: Final = 2.0
_CALL_S: Final = 10.0


class Readiness(NamedTuple):
    """Whether this host's manager daemon could take over, else why not."""

    ready: bool
    reason: str


class Promotion:
    """`socket` is the manager daemon's; `changed` is called when its readiness has."""

    def __init__(
        self,
        socket: Path,
        managers: Managers,
        connect: Callable[[str], grpc.aio.Channel],
        changed: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._managers = managers
        self._connect = connect
        self._changed = changed
        self._wanted = False
        self._wake = asyncio.Event()
        self.readiness = Readiness(ready=False, reason="not looked at yet")
        self.last_error = ""
        """What keeps this node from becoming the manager that it is wanted to be."""

    def want(self, wanted: bool) -> None:
        """What the newest assignment says."""
        if wanted and not self._wanted:
            self._wake.set()
        self._wanted = wanted

    async def look(self) -> None:
        """Ask the manager daemon what it is."""
        readiness = await self._look()
        if readiness != self.readiness:
            self.readiness = readiness
            self._changed()

    async def run(self) -> None:
        """For ever: the managers end it by ending this worker's membership."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _RETRY_S if self._wanted else LOOK_S)
            self._wake.clear()
            await self.look()
            if self._wanted and self.readiness.ready:
                await self._attempt()

    async def _attempt(self) -> None:
        try:
            await self._hand_over()
            self.last_error = ""
            log.info("handed over to the manager daemon")
        except SwarmnetError as error:
            self.last_error = error.message
            log.warning("not handed over to the manager daemon", error=error.message)

    async def _hand_over(self) -> None:
        async with self._manager() as channel:
            daemon = local_pb2_grpc.LocalStub(channel)
            prepare = local_pb2.PrepareTakeOverRequest()
            offer = await self._told(daemon.PrepareTakeOver(prepare, timeout=_CALL_S))
            issued = await self._certified(offer)
            taking = local_pb2.TakeOverRequest(
                certificate_pem=issued.certificate_pem,
                root_certificate_pem=issued.root_certificate_pem,
                manager_addresses=issued.manager_addresses,
            )
            await self._told(daemon.TakeOver(taking, timeout=_CALL_S))

    async def _certified(self, offer: local_pb2.PrepareTakeOverResponse) -> ca_pb2.IssueCertificateResponse:
        """A manager's certificate for the offered key. The first manager that can be reached decides."""
        request = ca_pb2.RenewCertificateRequest(
            csr_pem=offer.csr_pem, role=types.ROLE_MANAGER, bootstrap_address=offer.bootstrap_address
        )
        failure: SwarmnetError = Unavailable("no manager is known")
        for place in self._managers.order(""):
            try:
                async with self._connect(place.address) as channel:
                    stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
                    return await said_by(place.address, stub.RenewCertificate(request, timeout=_CALL_S))
            except Unavailable as error:
                failure = error
        raise failure

    async def _look(self) -> Readiness:
        if not self._socket.exists():
            return Readiness(ready=False, reason="no swarmnet-manager runs on its host")
        async with self._manager() as channel:
            stub = local_pb2_grpc.LocalStub(channel)
            try:
                info = await self._told(stub.GetInfo(local_pb2.GetInfoRequest(), timeout=_GLANCE_S))
            except SwarmnetError:
                return Readiness(ready=False, reason="the swarmnet-manager on its host does not answer")
        if info.state != "inactive":
            return Readiness(
                ready=False, reason=f"the swarmnet-manager on its host is {info.state} in a swarm"
            )
        return Readiness(ready=True, reason="")

    def _manager(self) -> Any:
        return grpc.aio.insecure_channel(f"unix:{self._socket}", options=(("grpc.enable_http_proxy", 0),))

    async def _told(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise error_of(error, str(self._socket)) from None
