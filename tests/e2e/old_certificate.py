"""Tries a node's certificate at a manager: `python -m tests.e2e.old_certificate FOLDER KIND HOST`.

FOLDER is a copy of a daemon's state directory, KIND manager or worker. Prints a JSON object: what was tried,
and what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from swarmnet.api.v1 import dispatcher_pb2, raft_pb2
from swarmnet.core.limits import MANAGER_PORT, RAFT_PORT
from swarmnet.core.status import TRAILER, decode
from swarmnet.manager.admission import FORWARDED_NODE, FORWARDED_ROLE
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.rpcs import RPCS
from swarmnet.manager.server import LOCAL
from swarmnet.manager.tls import node_channel
from swarmnet.worker.identity import IdentityFiles as WorkerFiles

_PATIENCE_S: Final = 10.0
_ATTEMPTS: Final = 25
_NO_CONNECTION: Final = "no connection"
_LOST: Final = "no reason given"
_NOWHERE: Final = "10.133.0.99"
_AS_OPERATOR: Final = ((FORWARDED_NODE, ""), (FORWARDED_ROLE, "swarmnet-client"))
_STANDARD: Final = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (
        reflection_pb2.ServerReflectionRequest(list_services="")
    ),
}


def load(state_dir: Path, kind: str) -> Credentials:
    if kind == "manager":
        found = IdentityFiles(state_dir).load()
        assert found is not None
        return found
    mine = WorkerFiles(state_dir).load()
    assert mine is not None
    return Credentials(mine.certificate_pem, mine.key, mine.root_pem)


async def try_everything(mine: Credentials, host: str) -> dict[str, str]:
    found: dict[str, str] = {}
    async with node_channel(mine, f"{host}:{MANAGER_PORT}") as channel:
        for path, rpc in RPCS.items():
            if rpc.service == LOCAL:  # on no port
                continue
            request = rpc.request()
            if path.endswith("Dispatcher/Session"):
                request = dispatcher_pb2.WorkerMessage(
                    hello=dispatcher_pb2.Hello(
                        hostname="x", gossip_address=f"{_NOWHERE}:7946", data_path_address=_NOWHERE
                    )
                )
            found[path] = await _call(channel, path, request, ())
            found[f"{path} as an operator"] = await _call(channel, path, request, _AS_OPERATOR)
        for path, asked in _STANDARD.items():
            found[path] = await _call(channel, path, asked, ())
    for _ in range(_ATTEMPTS):
        found["raft"] = await _raft(mine, host)
        if found["raft"] != _NO_CONNECTION:
            break
    return found


async def _call(channel: grpc.aio.Channel, path: str, request: Any, metadata: Any) -> str:
    """The reason of the refusal, or the answer.

    A server that refuses while the client still sends ends the stream, and gRPC may lose the reason: then it
    is asked again.
    """
    for _ in range(_ATTEMPTS):
        if (told := await _call_once(channel, path, request, metadata)) != _LOST:
            return told
    return _LOST


async def _call_once(channel: grpc.aio.Channel, path: str, request: Any, metadata: Any) -> str:
    raw, rpc = request.SerializeToString(), RPCS.get(path)
    streams = rpc is None or rpc.client_streams or rpc.server_streams
    multi: Any = channel.stream_stream(path) if streams else channel.unary_unary(path)
    call = multi(iter([raw]) if streams else raw, metadata=metadata, timeout=_PATIENCE_S)
    try:
        if not streams:
            return _told(path, await call)
        async for answer in call:
            return _told(path, answer)
    except grpc.aio.AioRpcError as error:
        for key, value in error.trailing_metadata() or ():
            if key == TRAILER and isinstance(value, bytes) and (said := decode(value)) is not None:
                return said.reason
        return _LOST if error.code() is grpc.StatusCode.INTERNAL else error.code().name
    finally:
        call.cancel()
    return "an empty answer"


def _told(path: str, answer: bytes) -> str:
    if path.endswith("Dispatcher/Session"):
        message = dispatcher_pb2.ManagerMessage.FromString(answer)
        return str(message.WhichOneof("message"))
    return f"answered {len(answer)} bytes"


async def _raft(mine: Credentials, host: str) -> str:
    """Says hello as a member would, and tells what it is told."""
    context = PeerSecurity(lambda: mine).client()
    context.check_hostname = False
    node_id = mine.subject.node_id
    member = raft_pb2.RaftMember(node_id=node_id, address=f"{_NOWHERE}:2377", raft_address=f"{_NOWHERE}:2374")
    hello = raft_pb2.RaftHello(member=member).SerializeToString()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, RAFT_PORT, ssl=context)
            writer.write(struct.pack("<I", len(hello)) + hello)
            (length,) = struct.unpack("<I", await reader.readexactly(4))
            welcome = raft_pb2.RaftWelcome.FromString(await reader.readexactly(length))
            rest = await reader.read(1) if welcome.refused else b""
            writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError):
        return _NO_CONNECTION
    if welcome.refused:
        return "refused" if not rest else "refused, and went on"
    return "welcome"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(try_everything(load(Path(sys.argv[1]), sys.argv[2]), sys.argv[3]))))
