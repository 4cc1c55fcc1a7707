"""A manager that becomes the only one: of a swarm that lost its majority, or of one that is restored.

Either way the state may be older than what the workers have seen, and the other managers have all its
secrets. So these are taken out, and every key is replaced by a new one that no node has ever used.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.backup import Backup
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.ids import make_id
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Applied, State, Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.allocator import next_node_index
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.ca.roots import issuing
from swarmnet.manager.control.cluster import secrets_of
from swarmnet.manager.entering import FIRST_LEAD_S, own_credentials
from swarmnet.manager.keymanager import replace_keys, terms_of
from swarmnet.manager.raft import entries, storage
from swarmnet.manager.raft.standing import Standing
from swarmnet.manager.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Refounded:
    """`last_index`: where the journal ended before; `removed`: hostnames of the other managers."""

    last_index: int
    removed: tuple[str, ...]


def become_only_manager(state: State, me: types.Node, now: float, index: int) -> None:
    """Leave `me` as the only manager and replace all keys, as of `index`."""
    transaction = Transaction(state)
    _take_over(transaction, me)
    period_s = terms_of(transaction.cluster()).period_s
    for scope in transaction.scan(types.KeyScope):
        replace_keys(transaction, scope, now, period_s)
    command = transaction.command(stamp(now))
    assert command is not None, "keys to replace"
    outcome = state.apply(index, command.SerializeToString())
    assert isinstance(outcome, Applied), "nobody else changes the state here"


def other_managers(state: State, node_id: str) -> tuple[str, ...]:
    """Hostnames of all managers but this one."""
    return tuple(
        node.hostname
        for node in state.all(types.Node)
        if node.role == types.ROLE_MANAGER and node.meta.id != node_id
    )


def _take_over(transaction: Transaction, me: types.Node) -> None:
    for node in transaction.scan(types.Node):
        if node.role == types.ROLE_MANAGER and node.meta.id != me.meta.id:
            transaction.remove(node)
    known = transaction.get(types.Node, me.meta.id)
    changed = transaction.edit(me if known is None else known)
    if known is None:
        changed.index = next_node_index(transaction)
    changed.address, changed.bootstrap_address = me.address, me.bootstrap_address
    changed.role, changed.desired_role = me.role, types.ROLE_UNSPECIFIED  # whatever was on its way
    transaction.put(changed)


def _this_manager(settings: Settings, node_id: str) -> types.Node:
    return types.Node(
        meta=types.Meta(id=node_id),
        role=types.ROLE_MANAGER,
        hostname=socket.gethostname(),
        address=settings.address,
        bootstrap_address=settings.bootstrap_address,
    )


# A certificate that ended while this manager was away


def reissue(settings: Settings, node_id: str, kek: SecretBytes) -> Credentials:
    """A certificate for this manager, made with the root's key in the state that it has. Blocks.

    Nobody has to believe it: whether the node is still a manager is for the others to say. SwarmnetError when
    there is no state, or a damaged one.
    """
    stored = storage.open_existing(settings.raft_dir, kek)
    try:
        transaction = Transaction(_state_of(stored))
    finally:
        stored.close()
    cluster = transaction.cluster()
    return own_credentials(issuing(cluster, secrets_of(transaction)), node_id, cluster.meta.id)


# A lost majority


async def check_majority_lost(active: ActiveManager) -> Standing:
    """Where Raft stands, if nobody leads. FailedPrecondition while a manager does: nothing is lost then."""
    standing = await active.peers.raft().standing()
    if standing.leader_id is not None:
        raise FailedPrecondition(
            f"the swarm has a leader, {standing.leader_id}: its majority is not lost",
            hint="Take managers that are gone out with `swarmnet node rm --force`; new ones can join then.",
        )
    return standing


def refound(settings: Settings, node_id: str, kek: SecretBytes) -> Refounded:
    """Make this manager, whose Raft is stopped, the only member of its swarm. Blocks.

    Killed at any instant it was done wholly or not at all. Internal for a damaged directory, OSError for a
    full disk: nothing has changed then.
    """
    stored = storage.open_existing(settings.raft_dir, kek)
    try:
        state = _state_of(stored)
        removed, last_index = other_managers(state, node_id), stored.journal.last.index
        become_only_manager(state, _this_manager(settings, node_id), time.time(), last_index + 2)
        storage.restart_from(stored, settings.member(node_id), state.freeze()(), state.index)
    finally:
        stored.close()
    return Refounded(last_index, removed)


def _state_of(stored: storage.Storage) -> State:
    """The state that the snapshot and all of the journal make, agreed on or not."""
    state, covered = State(), entries.FIRST_INDEX
    if stored.snapshot is not None:
        state.restore(stored.snapshot.state)
        covered = stored.snapshot.last.index
    for entry in stored.journal.entries:
        if entry.index <= covered or entry.command[0] != entries.COMMAND:
            continue
        content = entries.decode_payload(entry.command[1:])
        assert isinstance(content, bytes), "the kind of the entry says so"
        try:
            state.apply(entry.index, content)
        except Exception:  # as RaftNode has it: a command that cannot be applied changes nothing
            log.exception("a command could not be applied", index=entry.index)
    return state


# A backup


async def restore_swarm(
    settings: Settings, files: IdentityFiles, backup: Backup
) -> tuple[ActiveManager, tuple[str, ...]]:
    """A swarm of this one manager, and the hostnames of those it had. The identity is saved last: before,
    there is nothing to start from."""
    files.erase()  # what an attempt that was interrupted left
    state = _state_in(backup)
    transaction = Transaction(state)
    node_id = make_id(secrets.token_bytes(16))
    cluster, known = transaction.cluster(), secrets_of(transaction)
    if cluster.autolock:
        files.lock.make(cluster.lock_generation, SecretBytes(known.unlock_key))
    by = issuing(cluster, known)
    credentials = own_credentials(by, node_id, cluster.meta.id)
    removed = other_managers(state, node_id)
    await asyncio.to_thread(_write_log, settings, files, state, node_id)
    active = ActiveManager(settings, files, credentials)
    await active.start()
    try:
        await active.wait_until_leading(FIRST_LEAD_S)
        files.save(active.credentials)
    except BaseException:
        await active.stop()
        raise
    return active, removed


def _write_log(settings: Settings, files: IdentityFiles, state: State, node_id: str) -> None:
    me = _this_manager(settings, node_id)
    become_only_manager(state, me, time.time(), state.index + 2)
    member = settings.member(node_id)
    storage.create_from(settings.raft_dir, files.lock.keks()[-1], member, state.freeze()(), state.index)


def _state_in(backup: Backup) -> State:
    state = State()
    try:
        state.restore(backup.state)
    except DecodeError:
        state = State()
    if state.cluster() is None:
        raise InvalidArgument(
            "the backup opens, but holds no swarm",
            hint="Restore it with the version of swarmnet that made it, or take another backup.",
        )
    return state
