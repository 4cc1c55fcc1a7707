"""Renewing the worker's certificate, at a random point between 50 % and 80 % of its life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import grpc.aio
import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.core.errors import Internal, SwarmnetError
from swarmnet.worker.channel import said_by
from swarmnet.worker.identity import Identity, IdentityFiles, make_request
from swarmnet.worker.places import Managers

log = structlog.get_logger()

CALL_TIMEOUT_S: Final = 10.0
_LONGEST_SLEEP_S: Final = 3600.0
"""The clock is looked at again at least so often: it may be set meanwhile."""
_RETRY_BETWEEN_S: Final = (60.0, 600.0)


class Renewal:
    """Holds the identity in use. New connections take what `identity` is then; a running one stays."""

    def __init__(
        self,
        identity: Identity,
        files: IdentityFiles,
        managers: Managers,
        connect: Callable[[str], grpc.aio.Channel],
        rng: random.Random,
    ) -> None:
        self.identity = identity
        self._files = files
        self._managers = managers
        self._connect = connect
        self._rng = rng

    async def run(self) -> None:
        """For ever."""
        point = self._rng.random()
        while True:
            due = self.identity.renew_at(point)
            if (left := (due - datetime.now(UTC)).total_seconds()) > 0:
                await asyncio.sleep(min(left, _LONGEST_SLEEP_S))
            elif not await self.renew():
                await asyncio.sleep(self._rng.uniform(*_RETRY_BETWEEN_S))

    async def renew(self) -> bool:
        """Whether one of the managers gave a new certificate; it is in use and on disk then."""
        for place in self._managers.order(""):
            try:
                fresh = await self._renewed_by(place.address)
            except SwarmnetError as error:
                log.warning("certificate not renewed", manager=place.address, error=error.message)
                continue
            await asyncio.to_thread(self._files.save, fresh)
            self.identity = fresh
            log.info("certificate renewed", manager=place.address)
            return True
        return False

    async def _renewed_by(self, address: str) -> Identity:
        mine = make_request()
        request = ca_pb2.RenewCertificateRequest(csr_pem=mine.pem.decode())
        async with self._connect(address) as channel:
            stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
            answer = await said_by(address, stub.RenewCertificate(request, timeout=CALL_TIMEOUT_S))
        root_pem = self.identity.root_pem
        fresh = Identity(answer.certificate_pem.encode(), mine.key, root_pem)
        if not fresh.fits() or fresh.node_id != self.identity.node_id:
            raise Internal(f"the manager at {address} sent a certificate that does not fit the request")
        return fresh
