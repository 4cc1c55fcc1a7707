"""Keeps this manager's own certificate: renewed in time, of the root that issues, and known to the leader.

A certificate is renewed at a random point between 50% and 80% of its life, and whenever another root issues.
What to trust is the leader's word alone: the state here may be an old one, and only says when to ask.
Servers, Raft and channels take the credentials anew for each connection; those that stand are left alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.core.errors import SwarmnetError, Unavailable
from swarmnet.manager.ca.authority import new_key, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.joining import call, granted
from swarmnet.manager.tls import node_channel

log = structlog.get_logger()
_LONGEST_WAIT_S: Final = 3600.0
"""The wall clock is looked at again this often: a wait does not notice that somebody set it."""
_RETRY_S: Final = (0.5, 60.0)
_CALL_S: Final = 10.0
_TURNS: Final = 5


class Asked(Protocol):
    """The leader, as a node asks it about its certificate."""

    async def report(self, mine: Credentials) -> bytes:
        """Tell it what is in use here, over a new connection; returns the roots to trust."""

    async def renew(self, mine: Credentials) -> Credentials: ...


class Leader:
    """At our own port, which asks the leader wherever it is."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def report(self, mine: Credentials) -> bytes:
        request = ca_pb2.ReportCertificateRequest(
            certificate_pem=mine.certificate_pem.decode(), root_certificate_pem=mine.root_pem.decode()
        )
        async with node_channel(mine, self._address) as channel:
            stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
            answer = await call(stub.ReportCertificate(request, timeout=_CALL_S), self._address)
        return answer.root_certificate_pem.encode()

    async def renew(self, mine: Credentials) -> Credentials:
        key = new_key()
        request = ca_pb2.RenewCertificateRequest(csr_pem=signing_request(key).decode())
        async with node_channel(mine, self._address) as channel:
            stub = ca_pb2_grpc.CertificateAuthorityStub(channel)
            answer = await call(stub.RenewCertificate(request, timeout=_CALL_S), self._address)
        return granted(answer, key, self._address)


class Renewal:
    """Holds the credentials in use; whoever connects takes what `current` is then."""

    def __init__(
        self,
        credentials: Credentials,
        files: IdentityFiles,
        leader: Asked,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.current = credentials
        self._files = files
        self._leader = leader
        self._now = now
        self._point = 0.0
        self._key_is_to_go = False
        self._one_at_a_time = asyncio.Lock()

    async def run(self, news: Callable[[float], Awaitable[None]]) -> None:
        """For ever. `news(seconds)` returns when roots may have changed, or that much later.

        What fails is tried again, ever less often, and logged.
        """
        self._draw()
        pause_s = _RETRY_S[0]
        while True:
            try:
                await self.keep()
                wait_s, pause_s = min(max(self._left_s(), _RETRY_S[0]), _LONGEST_WAIT_S), _RETRY_S[0]
            except (SwarmnetError, OSError) as error:  # the latter: it could not be saved
                expires = str(self.current.expires_at())
                log.warning("certificate not renewed or reported", error=str(error), expires=expires)
                wait_s, pause_s = pause_s, min(2 * pause_s, _RETRY_S[1])
            await news(wait_s)

    async def keep(self) -> None:
        """Once: renew if it is time, then report until the leader has nothing more to say."""
        async with self._one_at_a_time:
            if self._key_is_to_go or self._left_s() <= 0:
                await self._use(await self._leader.renew(self.current))
                self._key_is_to_go = False
            for _ in range(_TURNS):
                roots_pem = await self._leader.report(self.current)
                if roots_pem == self.current.root_pem and self.current.is_current():
                    return
                await self._follow(roots_pem)
            raise Unavailable("the roots to trust keep changing")

    async def replace_key(self) -> None:
        """Renew now: the private key may be known. What fails is left to the next `keep`."""
        self._key_is_to_go = True
        await self.keep()

    async def _follow(self, roots_pem: bytes) -> None:
        told = replace(self.current, root_pem=roots_pem)
        if told.is_current():
            await self._use(told)
            log.info("trusted roots changed", roots=len(told.roots()))
        else:
            await self._use(await self._leader.renew(self.current))

    async def _use(self, fresh: Credentials) -> None:
        """On disk first: whatever happens then, it is there."""
        await asyncio.to_thread(self._files.save, fresh)
        renewed = fresh.certificate_pem != self.current.certificate_pem
        self.current = fresh
        if renewed:
            self._draw()
            log.info("certificate renewed", expires=str(fresh.expires_at()), root=fresh.roots()[0])

    def _draw(self) -> None:
        self._point = random.random()  # noqa: S311 - spreads load, keeps no secret

    def _left_s(self) -> float:
        return (self.current.renew_at(self._point) - self._now()).total_seconds()
