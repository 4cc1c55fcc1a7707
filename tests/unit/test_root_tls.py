"""While the root is replaced, the TLS libraries of all sides believe the certificates of old and new."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest

from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.peer_tls import PeerSecurity
from swarmnet.manager.tls import anonymous_channel, bootstrap_server, node_channel, nodes_server

CLUSTER, SERVER, CLIENT = "c" * 25, "s" * 25, "k" * 25
NOW = datetime.now(UTC)
OLD, NEW = (Authority.create(CLUSTER, NOW) for _ in range(2))
OLD_ONLY, BOTH, NEW_ONLY = OLD.root_pem, NEW.root_pem + OLD.root_pem, NEW.root_pem
CROSS_SIGNED = OLD.certify(NEW.root_pem, NOW)

End = tuple[Authority, bytes, bytes]
"""Who issued its certificate, the roots that it trusts, and what it sends along."""
BEFORE: End = (OLD, OLD_ONLY, b"")
MOVED: End = (NEW, BOTH, CROSS_SIGNED)
AFTER: End = (NEW, NEW_ONLY, CROSS_SIGNED)
RENEWED: End = (NEW, NEW_ONLY, b"")
BELIEVE = [
    (BEFORE, BEFORE),
    (BEFORE, MOVED),
    (MOVED, BEFORE),
    (MOVED, MOVED),
    (MOVED, AFTER),
    (AFTER, MOVED),
    (AFTER, AFTER),
    (RENEWED, MOVED),
    (AFTER, RENEWED),
    (RENEWED, AFTER),
]
STRANGERS = [(AFTER, BEFORE), (BEFORE, AFTER), (RENEWED, BEFORE)]


def made(end: End, node_id: str) -> Credentials:
    authority, roots, chain = end
    key = new_key()
    issued = authority.issue(signing_request(key), Subject(node_id, CallerRole.MANAGER, CLUSTER), NOW)
    return Credentials(issued + chain, private_pem(key), roots)


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: object) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(request: bytes, context: object) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


async def echo(channel: grpc.aio.Channel) -> bytes:
    multi: Any = channel.unary_unary("/any/Thing")
    return bytes(await multi(b"hello", timeout=5))


async def grpc_works(server: Credentials, client: Credentials) -> bool:
    listening = grpc.aio.server(handlers=(Echo(),))
    port = listening.add_secure_port("127.0.0.1:0", nodes_server(lambda: server))
    await listening.start()
    try:
        async with node_channel(client, f"127.0.0.1:{port}", SERVER) as channel:
            return bool(await echo(channel))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    finally:
        await listening.stop(None)


async def raft_works(server: Credentials, client: Credentials) -> bool:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=PeerSecurity(lambda: server).server())
    port = listening.sockets[0].getsockname()[1]
    context = PeerSecurity(lambda: client).client()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=SERVER)
        said = await reader.read()
        writer.close()
    except (ssl.SSLError, ConnectionError):
        return False
    finally:
        listening.close()
    return said == b"hello"


@pytest.mark.parametrize(("server", "client"), BELIEVE)
async def test_at_every_step_of_a_rotation_both_sides_believe_each_other(server: End, client: End) -> None:
    assert await grpc_works(made(server, SERVER), made(client, CLIENT))
    assert await raft_works(made(server, SERVER), made(client, CLIENT))


@pytest.mark.parametrize(("server", "client"), STRANGERS)
async def test_afterwards_nothing_of_the_old_root_is_believed(server: End, client: End) -> None:
    assert not await grpc_works(made(server, SERVER), made(client, CLIENT))
    assert not await raft_works(made(server, SERVER), made(client, CLIENT))


@pytest.mark.parametrize("server", [BEFORE, MOVED, AFTER])
async def test_a_token_from_before_finds_its_root_while_it_is_replaced(server: End) -> None:
    listening = grpc.aio.server(handlers=(Echo(),))
    mine = made(server, SERVER)
    port = listening.add_secure_port("127.0.0.1:0", bootstrap_server(lambda: mine))
    await listening.start()
    try:
        async with anonymous_channel(OLD_ONLY, f"127.0.0.1:{port}") as channel:
            assert await echo(channel) == b"hello"
    finally:
        await listening.stop(None)
