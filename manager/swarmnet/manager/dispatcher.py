"""The dispatcher: one stream per worker, keys and assignments down, what became of them up.

A session only registers its node and hands on what the worker says; the loops here and elsewhere do the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from ipaddress import ip_address
from typing import Any, Final

import structlog

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import dispatcher_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, InvalidArgument, SwarmnetError, Unavailable
from swarmnet.core.ids import check_name
from swarmnet.core.keys import GOSSIP_SCOPE
from swarmnet.core.state import Transaction
from swarmnet.manager import dispatcher_liveness, dispatcher_status
from swarmnet.manager.dispatcher_acks import Acknowledgements
from swarmnet.manager.dispatcher_assignment import Picture
from swarmnet.manager.dispatcher_inquiries import Inquiries
from swarmnet.manager.dispatcher_liveness import Liveness
from swarmnet.manager.dispatcher_pusher import Pusher
from swarmnet.manager.dispatcher_reports import Reports
from swarmnet.manager.dispatcher_session import WorkerSession
from swarmnet.manager.dispatcher_status import Statuses
from swarmnet.manager.identity import current_caller
from swarmnet.manager.keymanager import request_rotation
from swarmnet.manager.loop import Loop
from swarmnet.manager.notices import Notices
from swarmnet.manager.store import Store

log = structlog.get_logger()

_HELLO_S: Final = 10.0
_LONGEST_HOSTNAME: Final = 253
_LARGEST_HELLO_BYTES: Final = 64 * 1024
_REMOVED: Final = dispatcher.Removed(reason="this node was removed from the swarm")
_PROMOTED: Final = dispatcher.Removed(reason="this node is a manager now", promoted=True)


class DispatcherService(dispatcher_pb2_grpc.DispatcherServicer):
    """Serves the workers on the leading manager. `managers` tells where else they can go."""

    def __init__(
        self,
        store: Store,
        managers: Callable[[], Sequence[dispatcher.ManagerAddress]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.acks = Acknowledgements(store.state)
        self._reports = Reports(self.acks)
        self._notices = Notices(store.state, store.tell)
        self._store = store
        self._managers = managers
        self._monotonic = monotonic
        self._sessions: dict[str, WorkerSession] = {}
        self.inquiries = Inquiries(lambda: self._sessions)
        self._liveness = Liveness()
        self._statuses = Statuses(store.state)
        self._pusher = Pusher(store, managers, lambda: self._sessions, self._push)
        self._refusal: SwarmnetError | None = None
        self._writer = Loop("task status", store, dispatcher_status.KINDS, self._statuses.plan)
        self._watch = Loop("liveness", store, dispatcher_liveness.KINDS, self._liveness.plan, monotonic)

    # The leader's side

    def begin(self) -> tuple[Loop, Loop, Pusher, Notices]:
        """This manager leads now: what was known of the workers counts no more. Returns what is to run."""
        self._reports.clear()
        self._liveness.begin()
        self._statuses.begin()
        self._refusal = None
        return self._writer, self._watch, self._pusher, self._notices

    def close_sessions(self, error: SwarmnetError) -> None:
        """End every session with the error, and those that are just being opened, until `begin`."""
        self._refusal = error
        for session in list(self._sessions.values()):
            session.close(error)

    def _push(self, node_id: str, picture: Picture) -> None:
        """Give the node's session its assignment, or the reason why it has none any more."""
        if (session := self._sessions.get(node_id)) is None:
            return
        node = picture.node(node_id)
        if node is None:
            session.remove(self._farewell(node_id))
        elif node.fenced or node.state == types.NODE_STATE_DOWN:
            why = f"this node was marked down: {node.message}"
            session.close(Unavailable(why, hint="It registers again."))
        else:
            session.offer(picture.assignment(node))

    def _farewell(self, node_id: str) -> dispatcher.Removed:
        """What to tell a node that is no worker."""
        return _REMOVED if self._store.state.get(types.Node, node_id) is None else _PROMOTED

    # The workers' side

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[dispatcher.ManagerMessage]:
        """Until either side ends it. A second session of a node ends its first."""
        node_id = current_caller().node_id
        incoming = aiter(request_iterator)
        hello = await _first_message(incoming)
        session = WorkerSession(node_id, hello.key_offer)
        self._reports.forget(node_id)
        registered = await self._store.transact(lambda t: _register(t, node_id, hello))
        if not registered:
            yield dispatcher.ManagerMessage(removed=self._farewell(node_id))
            return
        self._liveness.heard(node_id, self._monotonic())
        self._open(session)
        reader = asyncio.create_task(self._read(session, incoming), name=f"session of {node_id}")
        try:
            async with aclosing(session.messages()) as messages:
                async for message in messages:
                    yield message
        finally:
            reader.cancel()
            if self._sessions.get(node_id) is session:
                del self._sessions[node_id]
            log.info("worker session ended", node=node_id)

    def _open(self, session: WorkerSession) -> None:
        if self._refusal is not None:
            raise self._refusal
        node_id = session.node_id
        self._reports.forget(node_id)  # also what an older session was told while this one registered
        if (older := self._sessions.get(node_id)) is not None:
            older.close(Unavailable("this node opened another session"))
        self._sessions[node_id] = session
        log.info("worker session opened", node=node_id)
        self._pusher.push_to(node_id)

    async def _read(self, session: WorkerSession, incoming: AsyncIterator[dispatcher.WorkerMessage]) -> None:
        """Take what the worker says until it stops; however that ends, it ends the session."""
        try:
            async for message in incoming:
                if self._sessions.get(session.node_id) is not session:
                    break  # what was still under way in it may be of another life of this node
                if not await self._take(session.node_id, message):
                    break
            session.close()
        except SwarmnetError as error:
            session.close(error)
        except Exception:
            log.exception("worker session failed", node=session.node_id)
            session.close(Unavailable("the manager failed on what this node said"))

    async def _take(self, node_id: str, message: dispatcher.WorkerMessage) -> bool:
        """Whether the session goes on."""
        self._liveness.heard(node_id, self._monotonic())
        kind = message.WhichOneof("message")
        if kind == "tasks":
            if self._statuses.offer(node_id, message.tasks.statuses):
                self._writer.wake()
        elif kind == "keys":
            self._reports.offer(node_id, message.keys)
        elif kind == "capabilities":
            _check_size(message.capabilities)
            await self._store.transact(lambda t: _describe(t, node_id, message.capabilities))
        elif kind == "notices":
            self._notices.note(node_id, message.notices.notices)
        elif kind == "answer":
            self.inquiries.take(node_id, message.answer)
        elif kind == "leave":
            await self._store.transact(lambda t: _leave(t, node_id))
            return False
        elif kind != "heartbeat":
            raise InvalidArgument(f"unexpected message in a session: {kind}")
        return True


async def _first_message(incoming: AsyncIterator[dispatcher.WorkerMessage]) -> dispatcher.Hello:
    try:
        async with asyncio.timeout(_HELLO_S):
            message = await anext(incoming)
    except TimeoutError:
        raise InvalidArgument(f"no hello within {_HELLO_S:g} s") from None
    except StopAsyncIteration:
        raise InvalidArgument("the session ended before its hello") from None
    if message.WhichOneof("message") != "hello":
        raise InvalidArgument("a session starts with a hello")
    _check_hello(message.hello)
    return message.hello


def _check_hello(hello: dispatcher.Hello) -> None:
    check_name(hello.hostname, "host", longest=_LONGEST_HOSTNAME)
    _check_size(hello)
    host, _, port = hello.gossip_address.rpartition(":")
    try:
        ip_address(hello.data_path_address)
        ip_address(host.strip("[]"))
        if not 0 < int(port) <= 65535:
            raise ValueError(port)
    except ValueError as error:
        raise InvalidArgument(
            f"bad addresses: gossip {hello.gossip_address!r}, data path {hello.data_path_address!r}",
            hint="Start the worker with addresses of its host: --advertise-addr and --data-path-addr.",
        ) from error


def _check_size(description: dispatcher.Hello | types.NodeCapabilities) -> None:
    if description.ByteSize() > _LARGEST_HELLO_BYTES:
        raise InvalidArgument(
            f"a hello of {description.ByteSize()} bytes is above the limit of {_LARGEST_HELLO_BYTES}",
            hint="Keep fewer images in the worker's image store.",
        )


def _register(transaction: Transaction, node_id: str, hello: dispatcher.Hello) -> bool:
    """Make the node READY as it describes itself. False: the cluster has no such worker (any more)."""
    node = transaction.get(types.Node, node_id)
    if node is None or node.role != types.ROLE_WORKER:
        return False
    for other in transaction.scan(types.Node):
        _check_address_free(other, node, hello.data_path_address)
    changed = transaction.edit(node)
    changed.hostname = hello.hostname
    changed.address = hello.gossip_address
    changed.data_path_address = hello.data_path_address
    changed.data_path_udp = hello.data_path_udp
    changed.capabilities.CopyFrom(hello.capabilities)
    changed.state = types.NODE_STATE_READY
    changed.message = ""
    changed.fenced = changed.demoted = False
    if changed != node:
        transaction.put(changed)
    return True


def _check_address_free(other: types.Node, node: types.Node, address: str) -> None:
    """Of two nodes at one address one would get the other's packets; of two IP versions, neither."""
    live = other.role == types.ROLE_WORKER and other.state != types.NODE_STATE_DOWN
    if not live or other.meta.id == node.meta.id or not other.data_path_address:
        return
    if ip_address(other.data_path_address).version != ip_address(address).version:
        raise InvalidArgument(
            f"data path address {address} is of another IP version than {other.data_path_address} "
            f"of node {other.hostname} ({other.meta.id})",
            hint="All workers of a swarm have data path addresses of one IP version: --data-path-addr.",
        )
    if other.data_path_address == address:
        raise AlreadyExists(
            f"data path address {address} is that of node {other.hostname} ({other.meta.id})",
            hint="Give this worker an address of its own with --data-path-addr, or remove the other node: "
            f"`swarmnet node rm --force {other.meta.id}`.",
        )


def _describe(transaction: Transaction, node_id: str, capabilities: types.NodeCapabilities) -> None:
    node = transaction.get(types.Node, node_id)
    if node is not None and node.role == types.ROLE_WORKER:
        changed = transaction.edit(node)
        changed.capabilities.CopyFrom(capabilities)
        transaction.put(changed)


def _leave(transaction: Transaction, node_id: str) -> None:
    """It is down at once; its tasks' networks are rekeyed when these are given up, gossip now."""
    node = transaction.get(types.Node, node_id)
    if node is not None:
        changed = transaction.edit(node)
        changed.state = types.NODE_STATE_DOWN
        changed.message = "it left the swarm"
        transaction.put(changed)
        request_rotation(transaction, (GOSSIP_SCOPE,), "node left")
