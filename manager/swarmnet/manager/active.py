"""A manager in a swarm: its store, Raft, servers, and the control loops while it leads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeAlias

import grpc.aio
import structlog

from swarmnet.api.v1 import control_pb2, control_pb2_grpc, dispatcher_pb2, raft_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.client.pipe import Pipe
from swarmnet.core.errors import NoLeader
from swarmnet.manager.bootstrap import BootstrapService, CertificateService, Issuer
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.control.surroundings import Surroundings
from swarmnet.manager.dispatcher import DispatcherService
from swarmnet.manager.forgetting import keep_forgetting
from swarmnet.manager.identity import Caller, CallerRole, current_caller
from swarmnet.manager.joining import call
from swarmnet.manager.lag import LoopLag
from swarmnet.manager.leader import Leader
from swarmnet.manager.leadership import Leadership
from swarmnet.manager.locking import Locking, report_lock
from swarmnet.manager.metrics import RaftReading, Reading
from swarmnet.manager.open_streams import OpenStreams
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.peers import Peers
from swarmnet.manager.pipeline import Pipelines
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.member import Joined
from swarmnet.manager.raft.node import RaftNode
from swarmnet.manager.raft.service import RaftService
from swarmnet.manager.raft.wire import Wire
from swarmnet.manager.recognition import check_may_join, check_recognized
from swarmnet.manager.refusals import Refusals
from swarmnet.manager.renewal import Leader as LeaderAsked
from swarmnet.manager.renewal import Renewal
from swarmnet.manager.role_manager import RoleManager
from swarmnet.manager.rpcs import Rpc
from swarmnet.manager.server import (
    AUTHORITY,
    BOOTSTRAP,
    CONTROL,
    DISPATCHER,
    STOP_GRACE_S,
    close,
    make_bootstrap_server,
    make_nodes_server,
)
from swarmnet.manager.settings import Settings
from swarmnet.manager.store import Store

log = structlog.get_logger()
Join: TypeAlias = Callable[[], Awaitable[Joined]]
"""Asks the leader to add this manager; returns the members."""


class ActiveManager:
    """`start` brings all of it up or nothing; after `stop` it is done with."""

    def __init__(self, settings: Settings, files: IdentityFiles, credentials: Credentials) -> None:
        self._settings = settings
        self._files = files
        self._renewal = Renewal(credentials, files, LeaderAsked(settings.address))
        subject = credentials.subject
        self.node_id, self.cluster_id = subject.node_id, subject.cluster_id
        self.store = Store()
        self.refused: Counter[str] = Counter()
        self.peers = Peers(self.node_id, lambda: self.credentials)
        me = settings.member(self.node_id)
        self._wire = Wire(me, PeerSecurity(lambda: self.credentials), self.refused)
        self._lag = LoopLag()
        self._refusals = Refusals(self._tell_refusals)
        self._dispatcher = DispatcherService(self.store, self._manager_addresses)
        self._streams = OpenStreams(self.check_known)
        self._leadership = Leadership(self.store, self._make_leader)
        self._servicers = self._make_servicers()
        self._pipelines = Pipelines()
        self._servers: list[grpc.aio.Server] = []
        self._raft: RaftNode | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def credentials(self) -> Credentials:
        """As renewed last."""
        return self._renewal.current

    def _make_leader(self) -> Leader:
        return Leader(self.store, self._dispatcher, RoleManager(self.store, self.peers, self.node_id))

    def _make_servicers(self) -> dict[str, object]:
        acks = self._dispatcher.acks
        surroundings = Surroundings(
            self.node_id,
            self._settings.bootstrap_address,
            self.store,
            self.peers,
            acks.waiting_for,
            self._dispatcher.inquiries.ask,
            self._refusals.note_attachment,
        )
        issuer = Issuer(self.store, self.peers.addresses)
        return {
            CONTROL: Control(surroundings),
            DISPATCHER: self._dispatcher,
            AUTHORITY: CertificateService(self.store, issuer),
            BOOTSTRAP: BootstrapService(self.store, issuer, self._named_root),
        }

    def _named_root(self) -> bytes:
        """The root that join tokens name: the one that is being replaced, while one is."""
        cluster = self.store.state.cluster()
        return cluster.root_certificate_pem.encode() if cluster is not None else self.credentials.root_pem

    # forward.Swarm

    def servicer(self, service: str) -> object:
        return self._servicers[service]

    def leads(self) -> bool:
        return self.peers.leads()

    def leader_channel(self) -> grpc.aio.Channel | None:
        return self.peers.leader_channel()

    def leader_pipe(self) -> Pipe:
        return self.peers.leader_pipe()

    async def admit_leading(self, rpc: Rpc) -> None:
        """Refuses who is no longer what its certificate says.

        A worker's session waits for the control loops: what it reports before they begin would be forgotten.
        """
        caller = current_caller()
        confirms_itself = hasattr(getattr(self._servicers[rpc.service], rpc.name), "confirms_itself")
        if confirms_itself and caller.role is CallerRole.CLIENT and not caller.via:
            return
        await self.store.read_barrier()
        if rpc.service == DISPATCHER and not self._leadership.running:
            raise NoLeader
        self.check_known(caller, rpc.service)

    def check_known(self, caller: Caller, service: str) -> None:
        check_recognized(self.store.state, self.peers.members(), caller, service)

    def serving(self, service: str) -> AbstractContextManager[None]:
        return self._streams.serving(service)

    async def _admit_member(self, node_id: str) -> None:
        await self.store.read_barrier()
        check_may_join(self.store.state, node_id)

    async def _tell_refusals(self, events: Sequence[types.Event], request_id: str) -> None:
        if self.leads():
            await self.store.tell(events, request_id)
            return
        if (channel := self.leader_channel()) is None:
            raise NoLeader
        request = control_pb2.NoteRefusalsRequest(refusals=events, request_id=request_id)
        await call(control_pb2_grpc.ControlStub(channel).NoteRefusals(request, timeout=10), "the leader")

    # Life

    async def start(self, *, found: bool = False, join: Join | None = None) -> None:
        """Ports first: without them nothing else is begun, and a leader adds only whom it can reach.

        `join` is called when they are open.
        """
        settings, credentials = self._settings, lambda: self.credentials
        service = RaftService(self._admit_member)
        try:
            nodes = await make_nodes_server(
                settings.listen,
                self.cluster_id,
                credentials,
                lambda: self,
                refused=self.refused,
                pipelines=self._pipelines,
                note=self._refusals.note_call,
            )
            self._servers.append(nodes)
            joiners = await make_bootstrap_server(
                settings.bootstrap, credentials, lambda: self, self.refused, note=self._refusals.note_call
            )
            self._servers.append(joiners)
            raft_pb2_grpc.add_RaftServicer_to_server(service, nodes)
            await nodes.start()
            await self._wire.open(settings.raft)
            joined = await join() if join is not None else None
            await self._start_raft(service, joined, found=found)
            await joiners.start()
        except BaseException:
            await self.stop()
            raise
        self._run(self._leadership.run())
        self._run(self._refusals.run())
        self._run(self._lag.run())
        self._run(self._keep_certificate())
        self._run(self._streams.run(self.store))
        assert self._raft is not None, "it was started above"
        self._run(keep_forgetting(self.store, self._raft))
        report = partial(report_lock, lambda: self.credentials, settings.address)
        raft, identity = self._raft, self._renewal
        lock = Locking(self.node_id, self.store, self._files, raft, identity=identity, report=report)
        self._run(lock.run())

    async def _start_raft(self, service: RaftService, join: Joined | None, *, found: bool) -> None:
        directory = self._settings.raft_dir
        keks = await asyncio.to_thread(self._files.lock.keks)
        raft = self._raft = await RaftNode.start(
            wire=self._wire,
            directory=directory,
            kek=await asyncio.to_thread(storage.fitting, directory, keks),
            machine=self.store,
            dial=self.peers.dial,
            found=found,
            join=join,
            on_leadership=self._leadership.tell,
            servicer=service,
        )
        raft.failed.add_done_callback(self._ended)
        self.store.attach(raft)
        self.peers.attach(raft)

    def _run(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, part: asyncio.Future[None]) -> None:
        """A part that dies takes the manager down: its supervisor starts it again, from what is on disk."""
        if not part.cancelled() and (error := part.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def stop(self) -> None:
        """A leader hands over first: the next one needs this one's servers to be elected, and clients are
        sent on to it meanwhile."""
        if self._raft is not None:
            await self._raft.hand_over()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pipelines.end(STOP_GRACE_S)
        await asyncio.gather(*(close(server, STOP_GRACE_S) for server in self._servers))
        await self.peers.close()
        if self._raft is not None:
            await self._raft.stop()
        else:
            await self._wire.close()

    async def reading(self) -> Reading:
        """For metrics. Unavailable when Raft does not answer."""
        if (raft := self._raft) is None:
            return Reading(refused=dict(self.refused), lag=self._lag)
        others = {each: raft.reachable(each) for each in raft.members if each != self.node_id}
        found = RaftReading(await raft.standing(), await raft.sizes(), raft.measures, others)
        return Reading(found, dict(self.refused), lag=self._lag)

    async def wait_until_leading(self, timeout_s: float) -> None:
        """NoLeader when that long has passed."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not self.leads():
            if asyncio.get_running_loop().time() > deadline:
                raise NoLeader
            await asyncio.sleep(0.01)

    async def _keep_certificate(self) -> None:
        """From when the state has this node as a manager: the leader does not talk to it before."""
        with self.store.subscribe(types.Node) as changes:
            while (me := self.store.state.get(types.Node, self.node_id)) is None or (
                me.role != types.ROLE_MANAGER
            ):
                await changes.next()
        with self.store.subscribe(types.Cluster) as changes:
            await self._renewal.run(changes.within)

    def _manager_addresses(self) -> list[dispatcher_pb2.ManagerAddress]:
        return [
            dispatcher_pb2.ManagerAddress(node_id=each.node_id, address=each.address)
            for each in self.peers.members().values()
        ]
