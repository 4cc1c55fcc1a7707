"""A backup of the live swarm: the whole replicated state, sealed here, so that no secret leaves in clear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from importlib.metadata import version

import structlog

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1.backup_pb2 import BackupHeader
from swarmnet.core import backup
from swarmnet.core.errors import Internal, InvalidArgument, ResourceExhausted
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.control.surroundings import Noun

log = structlog.get_logger()


class BackupNoun(Noun):
    async def Backup(
        self, request: control.BackupRequest, context: object
    ) -> AsyncGenerator[control.BackupPiece, None]:
        """The state is frozen here, at one instant after the read barrier; all else is done on a thread."""
        if len(request.key) != backup.KEY_BYTES or len(request.salt) != backup.SALT_BYTES:
            raise InvalidArgument(
                f"a backup takes a key of {backup.KEY_BYTES} bytes and a salt of {backup.SALT_BYTES}",
                hint="`swarmnet swarm backup` makes both.",
            )
        header, encode = self._header(request.salt), self._store.freeze()
        pieces = await asyncio.to_thread(_sealed, header, encode, SecretBytes(request.key))
        piece = await asyncio.to_thread(next, pieces, None)
        while piece is not None:
            following = await asyncio.to_thread(next, pieces, None)
            yield control.BackupPiece(data=piece, last=following is None)
            piece = following
        log.info("backup made", index=header.index)

    def _header(self, salt: bytes) -> BackupHeader:
        cluster = self._store.state.cluster()
        if cluster is None:
            raise Internal("a swarm without a cluster object")
        return BackupHeader(
            cluster_id=cluster.meta.id,
            salt=salt,
            index=self._store.state.index,
            created_at=self._store.now(),
            software=version("swarmnet"),
        )


def _sealed(header: BackupHeader, encode: Callable[[], bytes], key: SecretBytes) -> Iterator[bytes]:
    state = encode()
    if len(state) > backup.MAX_STATE_BYTES:
        raise ResourceExhausted(
            f"the state of {len(state)} bytes is above the limit of {backup.MAX_STATE_BYTES}",
            hint="Remove services, networks or nodes that are no longer needed.",
        )
    return backup.seal(header, state, key)
