"""The two ways of a manager into a swarm: make a new one, or join one."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from swarmnet.api.v1 import ca_pb2, raft_pb2, raft_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import Internal, NoLeader, SwarmnetError, Unavailable
from swarmnet.core.ids import make_id
from swarmnet.core.timestamps import seconds
from swarmnet.core.tokens import JoinToken
from swarmnet.manager.active import ActiveManager
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.ca.roots import Issuing
from swarmnet.manager.founding import FIRST_LOCK, Wishes, found
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.joining import Enrolment, call, enrol
from swarmnet.manager.raft.member import Joined, Member, end_of, member_of, message_of
from swarmnet.manager.settings import Settings
from swarmnet.manager.tls import node_channel

FIRST_LEAD_S: Final = 10.0
_JOIN_S: Final = 10.0
_PAUSE_S: Final = 0.1


async def found_swarm(settings: Settings, files: IdentityFiles, wishes: Wishes) -> ActiveManager:
    """A cluster of this one manager. The identity is saved last: before, there is nothing to start from."""
    files.erase()  # what an attempt that was interrupted left
    if wishes.unlock_key is not None:
        files.lock.make(FIRST_LOCK, wishes.unlock_key)
    cluster_id, node_id = make_id(secrets.token_bytes(16)), make_id(secrets.token_bytes(16))
    authority = Authority.create(cluster_id, datetime.now(UTC))
    by = Issuing(authority, b"", authority.root_pem, seconds(wishes.certificate_lifetime))
    credentials = own_credentials(by, node_id, cluster_id)
    node = types.Node(
        meta=types.Meta(id=node_id),
        role=types.ROLE_MANAGER,
        hostname=socket.gethostname(),
        address=settings.address,
        bootstrap_address=settings.bootstrap_address,
    )
    active = ActiveManager(settings, files, credentials)
    await active.start(found=True)
    try:
        await active.wait_until_leading(FIRST_LEAD_S)
        now = seconds(active.store.now())
        await active.store.transact(
            lambda transaction: found(
                transaction, now, cluster_id=cluster_id, authority=authority, wishes=wishes, node=node
            )
        )
        files.save(active.credentials)
    except BaseException:
        await active.stop()
        raise
    return active


def own_credentials(by: Issuing, node_id: str, cluster_id: str) -> Credentials:
    """What a manager that has the authority issues to itself."""
    key = new_key()
    subject = Subject(node_id, CallerRole.MANAGER, cluster_id)
    certificate = by.authority.issue(signing_request(key), subject, datetime.now(UTC), by.lifetime_s)
    return Credentials(certificate + by.chain_pem, private_pem(key), by.roots_pem)


async def join_swarm(
    settings: Settings, files: IdentityFiles, token: JoinToken, addresses: Sequence[str]
) -> ActiveManager:
    """A certificate against the token, then a place in Raft."""
    files.erase()
    request = ca_pb2.IssueCertificateRequest(
        hostname=socket.gethostname(),
        role=types.ROLE_MANAGER,
        address=settings.address,
        bootstrap_address=settings.bootstrap_address,
    )
    enrolment = await enrol(token, addresses, request)
    active = ActiveManager(settings, files, enrolment.credentials)
    me = settings.member(active.node_id)

    async def ask() -> Joined:
        return await join_raft(enrolment, me)

    await active.start(join=ask)
    try:
        files.save(active.credentials)
    except BaseException:
        await active.stop()
        raise
    return active


async def join_raft(enrolment: Enrolment, me: Member) -> Joined:
    """Ask one manager after the other until the leader among them has added us."""
    deadline = asyncio.get_running_loop().time() + _JOIN_S
    failure: SwarmnetError = NoLeader()
    while asyncio.get_running_loop().time() < deadline:
        for address in enrolment.managers:
            if address == me.address:  # our own, which the managers know by now
                continue
            try:
                return await _ask_to_join(enrolment.credentials, address, me)
            except Unavailable as error:
                failure = error
        await asyncio.sleep(_PAUSE_S)
    raise failure


async def _ask_to_join(credentials: Credentials, address: str, me: Member) -> Joined:
    request = raft_pb2.RaftJoinRequest(member=message_of(me))
    async with node_channel(credentials, address) as channel:
        answer = await call(raft_pb2_grpc.RaftStub(channel).Join(request, timeout=_JOIN_S), address)
    if me.node_id not in {each.node_id for each in answer.members}:
        raise Internal(f"the manager at {address} added another node than this one")
    return Joined(tuple(member_of(each) for each in answer.members), end_of(answer.at))
