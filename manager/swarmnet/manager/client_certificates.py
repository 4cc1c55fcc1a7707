"""Clients that should renew: nobody pushes certificates to them, so they are told with an answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from swarmnet.core.certificates import is_of_first, renew_at
from swarmnet.manager.admission import PeerContext
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import Caller, CallerRole


def renewal_due(
    current: Callable[[], Credentials], now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Callable[[Caller, PeerContext], bool]:
    """For a guard: whether a client's certificate is half over, or not of the root that issues now."""

    def due(caller: Caller, context: PeerContext) -> bool:
        if caller.role is not CallerRole.CLIENT or caller.via:
            return False
        pem = b"".join(context.auth_context().get("x509_pem_cert", ()))
        return not _is_of_first(pem, current().root_pem) or _half_over_at(pem) <= now()

    return due


@lru_cache(maxsize=1024)
def _is_of_first(pem: bytes, roots_pem: bytes) -> bool:
    return is_of_first(pem, roots_pem)


@lru_cache(maxsize=1024)
def _half_over_at(pem: bytes) -> datetime:
    return renew_at(pem, 0)
