"""A swarm for the command line to talk to: real gRPC on unix sockets, answers as the test scripts them."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from swarmnet.api.v1 import ca_pb2, control_pb2, local_pb2
from swarmnet.cli.main import main
from swarmnet.core import status
from swarmnet.core.errors import SwarmnetError, Unavailable

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (ca_pb2, control_pb2, local_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
BREAK, END = object(), object()
"""Put in `events`, they end the watch: as a dying manager does; as one that has told everything."""


class FakeSwarm(grpc.GenericRpcHandler):
    """`answers[rpc]` lists what to say: messages, errors, or functions of the request; the last one stays.

    A backup is `pieces`, an error among them ends it. Of what a client streams, `requests` has each message.
    """

    def __init__(self, *services: str) -> None:
        self.services = services
        self.answers: dict[str, list[Any]] = {}
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.tells_to_renew = False
        self.events: queue.Queue[Any] = queue.Queue()
        self.pieces: list[control_pb2.BackupPiece | SwarmnetError] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = METHODS.get(str(handler_call_details.method))
        if method is None or method.containing_service.name not in self.services:
            return None
        decode = GetMessageClass(method.input_type).FromString
        if method.name == "Backup":
            return grpc.unary_stream_rpc_method_handler(
                self._backup, decode, lambda piece: piece.SerializeToString()
            )
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                partial(self._watch, method.name), decode, lambda event: event.SerializeToString()
            )

        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            return self._answer(method.name, request, context)

        if method.client_streaming:

            def take(requests: Iterator[Message], context: grpc.ServicerContext) -> Message:
                *earlier, last = requests
                self.requests[method.name] += earlier
                return answer(last, context)

            return grpc.stream_unary_rpc_method_handler(
                take, decode, lambda answer: answer.SerializeToString()
            )
        return grpc.unary_unary_rpc_method_handler(answer, decode, lambda answer: answer.SerializeToString())

    def _answer(self, name: str, request: Message, context: grpc.ServicerContext) -> Message:
        self.requests[name].append(request)
        if self.tells_to_renew:
            context.set_trailing_metadata(((status.RENEW, "1"),))
        script = self.answers[name]
        said = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(said, SwarmnetError):
            _abort(context, said)
        if isinstance(said, grpc.StatusCode):
            context.abort(said, "without any details")
        result = said(request) if callable(said) else said
        assert isinstance(result, Message)
        return result

    def _backup(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        self.requests["Backup"].append(request)
        for piece in self.pieces:
            if isinstance(piece, SwarmnetError):
                _abort(context, piece)
            else:
                yield piece

    def _watch(self, name: str, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        self.requests[name].append(request)
        context.send_initial_metadata(())
        while (event := self.events.get()) is not BREAK and event is not END:
            yield event
        if event is BREAK:
            _abort(context, Unavailable("the manager is leaving"))


def _abort(context: grpc.ServicerContext, error: SwarmnetError) -> None:
    context.set_trailing_metadata(((status.TRAILER, status.encode(error)),))
    context.abort(grpc.StatusCode[error.status], error.message)


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@dataclass
class Host:
    """A host's run directory, the daemons in it, and the command line on it."""

    run_dir: Path
    capsys: pytest.CaptureFixture[str]
    servers: list[grpc.Server] = field(default_factory=list)
    fakes: list[FakeSwarm] = field(default_factory=list)

    def serve(self, fake: FakeSwarm, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[fake])
        self.servers.append(server)
        self.fakes.append(fake)
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        return port

    def manager(self) -> FakeSwarm:
        fake = FakeSwarm("Control", "Local", "CertificateAuthority")
        self.serve(fake, f"unix://{self.run_dir}/manager.sock")
        return fake

    def worker(self) -> FakeSwarm:
        fake = FakeSwarm("Local")
        self.serve(fake, f"unix://{self.run_dir}/worker.sock")
        return fake

    def swarmnet(self, *arguments: str) -> Result:
        """Run the command line in this process."""
        self.capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        printed = self.capsys.readouterr()
        return Result(code, printed.out, printed.err)

    def stop(self) -> None:
        """Ends every watch too: a thread that waits for an event would keep the tests from ending."""
        for fake in self.fakes:
            for _ in fake.requests["Watch"] + fake.requests["Events"]:
                fake.events.put(BREAK)
        for stopping in [server.stop(grace=None) for server in self.servers]:
            stopping.wait()


def make_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """The body of a `host` fixture. No setting of the person who runs the tests reaches it."""
    for name in ("SWARMNET_HOST", "SWARMNET_CACERT", "SWARMNET_CERT", "SWARMNET_KEY", "SWARMNET_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWARMNET_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    host = Host(tmp_path, capsys)
    yield host
    host.stop()
