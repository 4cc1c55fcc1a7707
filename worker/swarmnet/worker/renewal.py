"""Keeps the worker's certificate: renewed in time, of the root that issues, and known to the managers.

A certificate is renewed at a random point between 50% and 80% of its life, and whenever another root issues.
A manager that is asked says what to trust; assignments only tell when to ask.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar

import grpc.aio
import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.core.certificates import digest_of, is_anchored
from swarmnet.core.errors import Internal, SwarmnetError, Unauthenticated, Unavailable
from swarmnet.worker.channel import said_by
from swarmnet.worker.identity import Identity, IdentityFiles, make_request
from swarmnet.worker.join import granted, make_probe, presented_certificate
from swarmnet.worker.places import Managers

log = structlog.get_logger()

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 10.0
_LONGEST_SLEEP_S: Final = 3600.0
"""The clock is looked at again at least so often: it may be set meanwhile."""
_RETRY_S: Final = (0.5, 60.0)
_SPREAD_S: Final = 1.0
"""All workers hear of new roots at once: they do not all come back at once."""
_TURNS: Final = 5


class Renewal:
    """Holds the identity in use. New connections take what it is then; a running one stays."""

    def __init__(
        self,
        identity: Identity,
        files: IdentityFiles,
        managers: Managers,
        connect: Callable[[str], grpc.aio.Channel],
        rng: random.Random,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self._files = files
        self._managers = managers
        self._connect = connect
        self._rng = rng
        self._now = now
        self._point = rng.random()
        self._wake = asyncio.Event()

    def valid_identity(self) -> Identity:
        """To connect with. Unauthenticated once it has expired: no manager would believe it."""
        if (expired := self.identity.expires_at()) <= self._now():
            raise Unauthenticated(
                f"this node's certificate expired at {expired:%Y-%m-%d %H:%M} UTC: set the host's clock if "
                "it is wrong, else `swarmnet swarm leave` here and join again",
                hint=f"`swarmnet node rm {self.identity.node_id}` on a manager takes the old node out.",
            )
        return self.identity

    async def explain(self, address: str, error: Unavailable) -> SwarmnetError:
        """Why there is no connection to a manager: whether its certificate is of a root unknown here."""
        try:
            shown = await presented_certificate(address, await asyncio.to_thread(make_probe))
            known = is_anchored(shown, self.identity.root_pem)
        except (Unavailable, ValueError):
            return error
        if known:
            return error
        return Unauthenticated(
            f"the manager at {address} has a certificate of a root that this node does not know: it is of "
            "another swarm, or this node was removed and the root replaced since. `swarmnet swarm leave` "
            "here, then join again"
        )

    def hear_of_roots(self, roots_pem: bytes) -> None:
        """What the newest assignment says."""
        if roots_pem and roots_pem != self.identity.root_pem:
            self._wake.set()

    async def run(self) -> None:
        """For ever. What fails is tried again, ever less often, and logged."""
        pause_s = _RETRY_S[0]
        while True:
            try:
                await self.keep()
                wait_s, pause_s = min(max(self._left_s(), _RETRY_S[0]), _LONGEST_SLEEP_S), _RETRY_S[0]
            except (SwarmnetError, OSError) as error:  # the latter: it could not be saved
                log.warning("certificate not renewed or reported", error=str(error))
                wait_s, pause_s = pause_s, min(2 * pause_s, _RETRY_S[1])
            await self._sleep(wait_s * self._rng.uniform(0.8, 1))

    async def keep(self) -> None:
        """Once: renew if it is time, then report until the managers have nothing more to say."""
        if self._left_s() <= 0:
            await self.renew()
        for _ in range(_TURNS):
            roots_pem = await self._report()
            if roots_pem == self.identity.root_pem and self.identity.is_current():
                return
            told = replace(self.identity, root_pem=roots_pem)
            if told.is_current():
                await self._use(told)
                log.info("trusted roots changed", first=digest_of(roots_pem))
            else:
                await self.renew()
        raise Unavailable("the roots to trust keep changing")

    async def renew(self) -> None:
        """A new certificate for a new key; it is in use and on disk when this returns."""
        mine = await asyncio.to_thread(make_request)
        request = ca_pb2.RenewCertificateRequest(csr_pem=mine.pem.decode())
        answer = await self._ask(lambda stub: stub.RenewCertificate(request, timeout=CALL_TIMEOUT_S))
        fresh = granted(answer, mine)
        if fresh.node_id != self.identity.node_id:
            raise Internal("the managers sent another node's certificate")
        await self._use(fresh)
        self._point = self._rng.random()
        log.info("certificate renewed", expires=str(fresh.expires_at()), root=digest_of(fresh.root_pem))

    async def _use(self, fresh: Identity) -> None:
        await asyncio.to_thread(self._files.save, fresh)
        self.identity = fresh

    async def _report(self) -> bytes:
        """Tell what is in use here; returns the roots to trust."""
        request = ca_pb2.ReportCertificateRequest(
            certificate_pem=self.identity.certificate_pem.decode(),
            root_certificate_pem=self.identity.root_pem.decode(),
        )
        answer = await self._ask(lambda stub: stub.ReportCertificate(request, timeout=CALL_TIMEOUT_S))
        return answer.root_certificate_pem.encode()

    async def _ask(self, ask: Callable[[ca_pb2_grpc.CertificateAuthorityAsyncStub], Awaitable[T]]) -> T:
        """The answer of the first manager that can be reached, over a new connection."""
        failure: SwarmnetError = Unavailable("no manager is known")
        for place in self._managers.order(""):
            try:
                async with self._connect(place.address) as channel:
                    return await said_by(place.address, ask(ca_pb2_grpc.CertificateAuthorityStub(channel)))
            except Unavailable as error:
                failure = error
        raise failure

    async def _sleep(self, longest_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._wake.wait()
                await asyncio.sleep(self._rng.uniform(0, min(_SPREAD_S, longest_s)))
        self._wake.clear()

    def _left_s(self) -> float:
        return (self.identity.renew_at(self._point) - self._now()).total_seconds()
