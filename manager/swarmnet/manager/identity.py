"""Who is calling: the node and role of the certificate behind the call in progress.

The server's interceptor sets it, from the peer's certificate, from the unix socket (root on this host is an
operator), or from what a fellow manager forwards.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum


class CallerRole(Enum):
    """The OU of a certificate."""

    MANAGER = "swarmnet-manager"
    WORKER = "swarmnet-worker"
    CLIENT = "swarmnet-client"


@dataclass(frozen=True, slots=True)
class Caller:
    """`via`: the manager that forwarded the call, if one did; it vouches for the rest."""

    node_id: str
    role: CallerRole
    via: str = ""


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """The caller of the rpc that this code runs for. LookupError outside of one."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    _caller.set(caller)
