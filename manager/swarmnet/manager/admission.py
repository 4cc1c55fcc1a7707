"""Who may call what at each of the manager's three doors: nodes (2377), bootstrap (2378) and the unix socket.

The identity is the peer's certificate, which TLS has already checked against the cluster's root: its subject,
and for what a fellow manager forwards, the caller that manager names in the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from swarmnet.api.v1.options_pb2 import Roles
from swarmnet.core.errors import PermissionDenied, SwarmnetError, Unauthenticated
from swarmnet.manager.identity import Caller, CallerRole
from swarmnet.manager.rpcs import roles_of

FORWARDED_NODE: Final = "swarmnet-forwarded-node"
FORWARDED_ROLE: Final = "swarmnet-forwarded-role"
_SUBJECT: Final = re.compile(
    r"CN=(?P<node>[0-9a-z]{25}),OU=(?P<role>swarmnet-[a-z]+),O=(?P<cluster>[0-9a-z]{25})"
)
_ANONYMOUS: Final = ""


class PeerContext(Protocol):
    """What admission reads of grpc's ServicerContext."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...
    def peer(self) -> str: ...
    def invocation_metadata(self) -> Any: ...


Admit = Callable[[str, PeerContext], Caller]
"""(path of the rpc, context) -> the caller; Unauthenticated or PermissionDenied."""


def nodes_door(cluster_id: str) -> Admit:
    """mTLS: the roles of the rpc decide. What anyone may call is for managers only here: they forward it."""

    def admit(path: str, context: PeerContext) -> Caller:
        peer = _certified(context, cluster_id)
        caller = _forwarded(peer, context)
        roles = roles_of(path)
        if roles.anyone:
            _check(path, peer, Roles(manager=True))
        else:
            _check(path, caller, roles)
        return caller

    return admit


def bootstrap_door(limit: Callable[[str], None]) -> Admit:
    """No client certificate: only what anyone may call, and not too often from one address."""

    def admit(path: str, context: PeerContext) -> Caller:
        if not roles_of(path).anyone:
            raise Unauthenticated(
                f"{path} needs a certificate of this swarm",
                hint="Call it on the managers' port 2377 with a client certificate: "
                "`swarmnet swarm credentials DIR` makes one.",
            )
        _check_version(context.auth_context())
        limit(peer_host(context.peer()))
        return Caller(_ANONYMOUS, CallerRole.CLIENT)

    return admit


def local_door(path: str, context: PeerContext) -> Caller:
    """The unix socket (0600): root on this host is an operator."""
    caller = Caller(_ANONYMOUS, CallerRole.CLIENT)
    roles = roles_of(path)
    if not roles.anyone:
        _check(path, caller, roles)
    return caller


def peer_host(peer: str) -> str:
    """The address in grpc's `ipv4:192.0.2.1:55555` or `ipv6:%5B::1%5D:55555`."""
    return peer.partition(":")[2].rpartition(":")[0] or peer


def claimed(context: PeerContext) -> Caller | None:
    """Who a refused caller says it is, by a certificate that TLS has checked; None without one."""
    subject = b"".join(context.auth_context().get("x509_subject", ()))
    match = _SUBJECT.fullmatch(subject.decode("utf-8", "replace"))
    try:
        return _forwarded(Caller(match["node"], _role(match["role"])), context) if match else None
    except SwarmnetError:
        return None


def _certified(context: PeerContext, cluster_id: str) -> Caller:
    facts = context.auth_context()
    caller = _named(b"".join(facts.get("x509_subject", ())), cluster_id)
    _check_version(facts)
    return caller


@lru_cache(maxsize=1024)
def _named(subject: bytes, cluster_id: str) -> Caller:
    match = _SUBJECT.fullmatch(subject.decode("utf-8", "replace"))
    if match is None or match["cluster"] != cluster_id:
        raise Unauthenticated(
            "the certificate names no node of this swarm",
            hint="Use a certificate that this swarm issued: join it, or `swarmnet swarm credentials DIR`.",
        )
    return Caller(match["node"], _role(match["role"]))


def _check_version(facts: Mapping[str, Iterable[bytes]]) -> None:
    if list(facts.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
        raise Unauthenticated("the connection is not TLS 1.3", hint="Use a client that speaks TLS 1.3.")


def _forwarded(peer: Caller, context: PeerContext) -> Caller:
    if not (given := context.invocation_metadata()):
        return peer
    metadata = dict(given)
    if FORWARDED_ROLE not in metadata:
        return peer
    if peer.role is not CallerRole.MANAGER:
        raise PermissionDenied(
            "only managers forward calls", hint="Leave out the swarmnet-forwarded metadata."
        )
    role = _role(str(metadata[FORWARDED_ROLE]))
    return Caller(str(metadata.get(FORWARDED_NODE, _ANONYMOUS)), role, via=peer.node_id)


def _role(name: str) -> CallerRole:
    try:
        return CallerRole(name)
    except ValueError:
        raise Unauthenticated(f"{name} is no role of this swarm", hint="Join the swarm again.") from None


def _check(path: str, caller: Caller, roles: Roles) -> None:
    allowed = {
        CallerRole.MANAGER: roles.manager,
        CallerRole.WORKER: roles.worker,
        CallerRole.CLIENT: roles.client,
    }
    if allowed[caller.role]:
        return
    named = " or ".join(role.value for role, yes in allowed.items() if yes) or "no role at all"
    raise PermissionDenied(
        f"a certificate of role {caller.role.value} may not call {path}",
        hint=f"It is for {named}. An operator's certificate: `swarmnet swarm credentials DIR` on a manager.",
    )
