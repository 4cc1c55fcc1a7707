"""The manager's part when its host's worker is promoted: take over the identity, and bring it into Raft.

Until Raft has this manager as a member the worker stays what it was, and either side can begin again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from swarmnet.api.v1 import local_pb2
from swarmnet.core.errors import InvalidArgument, NotFound, PermissionDenied, SwarmnetError, Unauthenticated
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.ca.authority import new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.entering import join_raft
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.joining import Enrolment
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.member import Joined
from swarmnet.manager.settings import Settings

log = structlog.get_logger()
_RETRY_S: Final = 0.5
_FOR_GOOD: Final = (PermissionDenied, Unauthenticated, NotFound)
"""How the leader refuses a node that is not to be a manager (any more)."""


class Offer:
    """A key of this daemon's making, and the request to certify it."""

    def __init__(self) -> None:
        self._key = new_key()
        self.csr_pem = signing_request(self._key).decode()

    def accepted(self, request: local_pb2.TakeOverRequest) -> Credentials:
        """The identity that the certificate makes of the key. InvalidArgument unless all of it fits."""
        try:
            credentials = Credentials(
                request.certificate_pem.encode(),
                private_pem(self._key),
                request.root_certificate_pem.encode(),
            )
            role = credentials.subject.role
            fits = credentials.matches() and credentials.issued_by_root()
        except (SwarmnetError, ValueError):
            fits, role = False, None
        if not fits or role is not CallerRole.MANAGER:
            raise InvalidArgument(
                "the certificate is not a manager's for the key that was offered",
                hint="Promote the node again: `swarmnet node promote`.",
            )
        return credentials


async def become_manager(
    settings: Settings,
    files: IdentityFiles,
    credentials: Credentials,
    managers: Sequence[str],
    say: Callable[[str], None],
) -> ActiveManager:
    """Take part in the swarm, however often it takes. Raises only when the leader refuses this node for good.

    `say` is told what is in the way.
    """
    while True:
        try:
            return await _take_part(settings, files, credentials, managers)
        except _FOR_GOOD:
            raise
        except SwarmnetError as error:
            say(error.message)
            log.warning("not a manager yet", node=credentials.subject.node_id, error=error.message)
        await asyncio.sleep(_RETRY_S)


async def _take_part(
    settings: Settings, files: IdentityFiles, credentials: Credentials, managers: Sequence[str]
) -> ActiveManager:
    """A manager that has a log was a member when it ended, and goes on. One without promised nothing yet."""
    active = ActiveManager(settings, files, credentials)
    if storage.has_log(settings.raft_dir):
        await active.start()
        return active
    shutil.rmtree(settings.raft_dir, ignore_errors=True)
    me = settings.member(active.node_id)

    async def ask() -> Joined:
        return await join_raft(Enrolment(credentials, tuple(managers)), me)

    await active.start(join=ask)
    return active
