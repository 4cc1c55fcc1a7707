"""`swarmnet swarm backup` and `restore`: a whole swarm in one sealed file.

The passphrase stays here: a manager gets the key that is made of it for the one file, and never the file's
contents leave a manager in clear.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final

import click

from swarmnet.api.v1 import control_pb2, local_pb2
from swarmnet.cli.daemons import find_daemon
from swarmnet.cli.durations import rfc3339
from swarmnet.cli.session import Session
from swarmnet.core.errors import InvalidArgument, Unavailable
from swarmnet.core.secret import SecretBytes

_PIECE_BYTES: Final = 1024 * 1024
_MAX_PASSPHRASE_BYTES: Final = 4096
_passphrase_file = click.option("--passphrase-file", default="", metavar="FILE",
                                help="Holds the passphrase or recovery key; - reads stdin.")  # fmt: skip


@click.command()
@click.argument("path", metavar="FILE", type=click.Path())
@_passphrase_file
@click.pass_obj
def backup(session: Session, path: str, passphrase_file: str) -> None:
    """Write the whole state of the live swarm, its secrets included, to FILE, sealed.

    Without --passphrase-file a recovery key is made and printed, once: who has it and the file has the swarm.

    \b
    Example:
      swarmnet swarm backup /srv/swarm-2026-11-25.backup
    """
    from swarmnet.core import backup as format_

    if os.path.lexists(path):
        raise InvalidArgument(f"{path} exists already", hint="Give the backup a name of its own.")
    made = "" if passphrase_file else format_.make_recovery_key(os.urandom(32)).reveal().decode()
    passphrase = SecretBytes(made.encode()) if made else _read_passphrase(passphrase_file)
    salt = os.urandom(format_.SALT_BYTES)
    request = control_pb2.BackupRequest(key=format_.derive_key(passphrase, salt).reveal(), salt=salt)
    size = _write_new(path, _whole(session.manager.backup(request)))
    with open(path, "rb") as file:
        header = format_.read_header(file.read(_PIECE_BYTES))
    click.echo(
        f"Backup of swarm {header.cluster_id} as of entry {header.index} written to {path} ({size} bytes)."
    )
    if made:
        click.echo(
            f"\nTo restore it, run `swarmnet swarm restore {path}` on a fresh manager and provide this "
            f"recovery key:\n\n    {made}\n\n"
            "Keep it apart from the file, in a password manager: without it the backup cannot be opened."
        )


@click.command()
@click.argument("path", metavar="FILE", type=click.Path())
@_passphrase_file
@click.pass_obj
def restore(session: Session, path: str, passphrase_file: str) -> None:
    """Make the swarm of a backup anew, with this host's swarmnet-manager as its only manager.

    That manager must be outside of any swarm, and the swarm that the backup was made of must not run any
    more: both would lead the same workers.

    \b
    Example:
      swarmnet swarm restore /srv/swarm-2026-11-25.backup
    """
    from swarmnet.core import backup as format_

    with _opened(path) as file:
        header = format_.read_header(file.read(_PIECE_BYTES))
    daemon = find_daemon(session.run_dir, "manager")
    passphrase = _read_passphrase(passphrase_file) if passphrase_file else _asked_passphrase()
    key = format_.derive_key(passphrase, header.salt)
    answer = daemon.call(lambda local: local.Restore, _requests(path, key))
    click.echo(
        f"Swarm {answer.cluster_id} restored as of {rfc3339(answer.created_at)} (entry {answer.index}): "
        f"current node ({answer.node_id}) is now its only manager.\n"
    )
    print_taken_out(answer.removed)
    click.echo(
        "- Workers find this manager if it has the address of one they knew. A worker that does not has to "
        f"leave and join again, at {answer.address}.\n\n"
        "To add managers to this swarm, run 'swarmnet swarm join-token manager'."
    )


def print_taken_out(managers: Sequence[str]) -> None:
    """What became of the other managers, and of the keys."""
    if managers:
        click.echo(
            f"- Managers taken out: {', '.join(managers)}. If one comes back, it is refused: run "
            "'swarmnet swarm leave --force' on it and join it again."
        )
    click.echo(
        "- Every key was replaced by a new one: encrypted networks carry traffic again as soon as their "
        "workers are connected."
    )


def _whole(pieces: Iterable[control_pb2.BackupPiece]) -> Iterator[bytes]:
    last = False
    for piece in pieces:
        yield piece.data
        last = piece.last
    if not last:
        raise Unavailable("the backup ended before it was whole", hint="Take it again.")


def _write_new(path: str, pieces: Iterable[bytes]) -> int:
    """A file (0600) that appears under its name when it is whole and on disk; returns its size."""
    unfinished = f"{path}.{os.getpid()}.unfinished"
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.link(unfinished, path)  # unlike rename, never over another file
        _sync_directory(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise InvalidArgument(
            f"cannot write {path}: {error.strerror}", hint="Name a file in a folder with room for it."
        ) from None
    finally:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
    return size


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _requests(path: str, key: SecretBytes) -> Iterator[local_pb2.RestoreRequest]:
    yield local_pb2.RestoreRequest(key=key.reveal())
    with _opened(path) as file:
        while piece := file.read(_PIECE_BYTES):
            yield local_pb2.RestoreRequest(data=piece)


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", hint="Name a file that is there, and that you may read."
        ) from None


def _read_passphrase(path: str) -> SecretBytes:
    if path == "-":
        return SecretBytes(sys.stdin.buffer.readline(_MAX_PASSPHRASE_BYTES).rstrip(b"\r\n"))
    with _opened(path) as file:
        return SecretBytes(file.readline(_MAX_PASSPHRASE_BYTES).rstrip(b"\r\n"))


def _asked_passphrase() -> SecretBytes:
    if not sys.stdin.isatty():
        raise InvalidArgument(
            "the backup's passphrase or recovery key is needed",
            hint="Give --passphrase-file FILE, or - for stdin; on a terminal it is asked for.",
        )
    text = click.prompt("Passphrase or recovery key of the backup", hide_input=True, err=True)
    return SecretBytes(str(text).strip().encode())
