"""A manager as a worker sees one: real TLS and certificates, a scripted dispatcher behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, dispatcher_pb2_grpc
from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import BadToken, SwarmnetError
from swarmnet.core.status import TRAILER, encode
from swarmnet.core.tokens import JoinToken, make_token
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.tls import bootstrap_server, nodes_server
from swarmnet.worker.identity import Identity

CLUSTER, WORKER = "c" * 25, "w" * 25
TIMEOUT_S = 10.0
_ROLES = {types.ROLE_MANAGER: CallerRole.MANAGER, types.ROLE_WORKER: CallerRole.WORKER}


class Stream:
    """One session of a worker, from the manager's side."""

    def __init__(self, manager: StandIn) -> None:
        self.manager = manager
        self.said: asyncio.Queue[dispatcher.WorkerMessage | None] = asyncio.Queue()
        self.answers: asyncio.Queue[dispatcher.ManagerMessage | SwarmnetError | None] = asyncio.Queue()

    async def next(self, kind: str) -> Any:
        """The next message of a kind; heartbeats before it are passed over."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self.said.get()
                assert message is not None, f"the stream ended before any {kind}"
                if (found := message.WhichOneof("message")) == kind:
                    return getattr(message, kind)
                assert found == "heartbeat", f"{found} instead of {kind}"

    async def ended(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while await self.said.get() is not None:
                pass

    def assign(self, assignment: dispatcher.Assignment) -> None:
        self.answers.put_nowait(dispatcher.ManagerMessage(assignment=assignment))

    def ask(self, question: dispatcher.Question) -> None:
        self.answers.put_nowait(dispatcher.ManagerMessage(question=question))

    def remove(self, reason: str) -> None:
        self.answers.put_nowait(dispatcher.ManagerMessage(removed=dispatcher.Removed(reason=reason)))

    def close(self, error: SwarmnetError | None = None) -> None:
        self.answers.put_nowait(error)


class StandIn(
    dispatcher_pb2_grpc.DispatcherServicer,
    ca_pb2_grpc.CertificateAuthorityServicer,
    ca_pb2_grpc.BootstrapServicer,
):
    """`address` and `bootstrap` are host:port, once it runs. Of tokens only `token` is honoured."""

    def __init__(self, root: Authority | None = None) -> None:
        self.root = root or Authority.create(CLUSTER, datetime.now(UTC))
        self.token = self.made_token(b"w" * 16)
        self.role = types.ROLE_WORKER
        self.shown_root = self.root.root_pem
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.tokens_seen: list[str] = []
        self.renewals: list[ca_pb2.RenewCertificateRequest] = []
        self.renewed = asyncio.Semaphore(0)
        self.roots_pem = self.root.root_pem
        """What it tells others to trust; the first one issues."""
        self.chain_pem = b""
        self.reports: list[ca_pb2.ReportCertificateRequest] = []
        self.reported = asyncio.Semaphore(0)
        self.renewal_error: SwarmnetError | None = None
        self.address = self.bootstrap = ""
        self._servers: list[grpc.aio.Server] = []
        key = new_key()
        self._credentials = Credentials(
            self._issue(signing_request(key), "m" * 25, CallerRole.MANAGER),
            private_pem(key),
            self.root.root_pem,
        )

    def made_token(self, secret: bytes) -> JoinToken:
        return JoinToken(self.root.digest, make_token(b"", secret).secret)

    def worker(self) -> Identity:
        """A worker's identity, as joining gives one."""
        key = new_key()
        certificate = self._issue(signing_request(key), WORKER, CallerRole.WORKER)
        return Identity(certificate, private_pem(key), self.root.root_pem)

    async def stream(self) -> Stream:
        """The next session that a worker opens."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.streams.get()

    def certified(self, csr_pem: str, role: CallerRole = CallerRole.WORKER) -> str:
        """A certificate for the worker's node id."""
        return self._issue(csr_pem.encode(), WORKER, role).decode()

    async def kill(self) -> None:
        """As if its process died."""
        for server in self._servers:
            await server.stop(grace=None)

    async def start(self) -> None:
        nodes, bootstrap = grpc.aio.server(), grpc.aio.server()
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self, nodes)
        ca_pb2_grpc.add_CertificateAuthorityServicer_to_server(self, nodes)
        ca_pb2_grpc.add_BootstrapServicer_to_server(self, bootstrap)
        port = nodes.add_secure_port("127.0.0.1:0", nodes_server(lambda: self._credentials))
        self.address = f"127.0.0.1:{port}"
        port = bootstrap.add_secure_port("127.0.0.1:0", bootstrap_server(lambda: self._credentials))
        self.bootstrap = f"127.0.0.1:{port}"
        self._servers = [nodes, bootstrap]
        for server in self._servers:
            await server.start()

    def _issue(self, csr: bytes, node_id: str, role: CallerRole) -> bytes:
        return self.root.issue(csr, Subject(node_id, role, CLUSTER), datetime.now(UTC))

    async def Session(self, requests: AsyncIterator[dispatcher.WorkerMessage], context: Any) -> Any:
        stream = Stream(self)
        self.streams.put_nowait(stream)
        reader = asyncio.create_task(_read(requests, stream))
        try:
            while (answer := await stream.answers.get()) is not None:
                if isinstance(answer, SwarmnetError):
                    await _refuse(context, answer)
                yield answer
        finally:
            reader.cancel()

    async def RenewCertificate(self, request: ca_pb2.RenewCertificateRequest, context: Any) -> Any:
        self.renewals.append(request)
        self.renewed.release()
        if self.renewal_error is not None:
            await _refuse(context, self.renewal_error)
        return self._answer(request.csr_pem, _ROLES.get(request.role, CallerRole.WORKER))

    async def ReportCertificate(self, request: ca_pb2.ReportCertificateRequest, context: Any) -> Any:
        self.reports.append(request)
        self.reported.release()
        return ca_pb2.ReportCertificateResponse(root_certificate_pem=self.roots_pem.decode())

    async def GetRole(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def IssueClientCertificate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetRootCertificate(self, request: Any, context: Any) -> Any:
        return ca_pb2.GetRootCertificateResponse(root_certificate_pem=self.shown_root.decode())

    async def IssueCertificate(self, request: ca_pb2.IssueCertificateRequest, context: Any) -> Any:
        self.tokens_seen.append(request.token)
        if request.token != self.token.text():
            await _refuse(context, BadToken("A valid join token is necessary to join this cluster"))
        return self._answer(request.csr_pem)

    def _answer(self, csr_pem: str, role: CallerRole = CallerRole.WORKER) -> ca_pb2.IssueCertificateResponse:
        return ca_pb2.IssueCertificateResponse(
            node_id=WORKER,
            role=self.role,
            certificate_pem=(self._issue(csr_pem.encode(), WORKER, role) + self.chain_pem).decode(),
            root_certificate_pem=self.roots_pem.decode(),
            manager_addresses=[self.address],
            cluster_id=CLUSTER,
        )


async def _refuse(context: Any, error: SwarmnetError) -> None:
    await context.abort(grpc.StatusCode[error.status], error.message, ((TRAILER, encode(error)),))


async def _read(requests: AsyncIterator[dispatcher.WorkerMessage], stream: Stream) -> None:
    try:
        async for message in requests:
            stream.said.put_nowait(message)
    finally:
        stream.said.put_nowait(None)


@asynccontextmanager
async def running(*managers: StandIn) -> AsyncIterator[None]:
    for each in managers:
        await each.start()
    try:
        yield
    finally:
        for each in managers:
            await each.kill()


def assignment(*managers: StandIn, **fields: Any) -> dispatcher.Assignment:
    """One that names the managers to go to."""
    known = [
        dispatcher.ManagerAddress(node_id=f"manager {number}", address=each.address)
        for number, each in enumerate(managers)
    ]
    return dispatcher.Assignment(node_id=WORKER, node_index=1, managers=known, **fields)
