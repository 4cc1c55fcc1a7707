"""Makes one swarm of a lab's daemons: init, join by tokens, wait until all nodes are ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc.aio

from swarmnet.api.v1 import control_pb2, local_pb2, types_pb2
from swarmnet.api.v1.control_pb2_grpc import ControlStub
from swarmnet.api.v1.local_pb2_grpc import LocalStub
from swarmnet.cli.lab.place import Host, Lab
from swarmnet.core import status
from swarmnet.core.errors import SwarmnetError, Unavailable

READY_TIMEOUT_S: Final = 180.0
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.2
_JOINING_AT_ONCE: Final = 3
"""All hosts share one machine's CPUs: ten joins at once would each take longer than a daemon waits."""

ResultT = TypeVar("ResultT")


def form(lab: Lab, *, join: bool, report: Callable[[str], None]) -> None:
    """One swarm of all daemons; without `join`, only until each daemon answers."""
    asyncio.run(_form(lab, join, report))


async def _form(lab: Lab, join: bool, report: Callable[[str], None]) -> None:
    managers, workers = lab.of_kind("manager"), lab.of_kind("worker")
    started = time.monotonic()
    await asyncio.gather(*(answers(lab, host) for host in (*managers, *workers)))
    report(f"{len(managers)} managers and {len(workers)} workers started in {_since(started)}")
    if not join or not managers:
        return
    await init(lab, managers[0])
    tokens = await join_tokens(lab, managers[0])
    for host in managers[1:]:
        await join_host(lab, host, tokens.manager, tokens.manager_address)
    turn = asyncio.Semaphore(_JOINING_AT_ONCE)
    await asyncio.gather(*(_join_in_turn(turn, lab, host, tokens) for host in workers))
    await all_ready(lab, managers[0], len(managers) + len(workers))
    report(f"one swarm of them, ready, after {_since(started)}")


async def answers(lab: Lab, host: Host) -> local_pb2.LocalInfo:
    """Waits until the host's daemon answers on its socket."""

    async def ask() -> local_pb2.LocalInfo | None:
        if not lab.socket(host).exists():
            return None
        try:
            async with _channel(lab, host) as channel:
                return await LocalStub(channel).GetInfo(local_pb2.GetInfoRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return None

    log = lab.logs / f"{host.name}.log"
    return await _until(ask, f"swarmnet-{host.kind} on {host.name} does not answer", f"see {log}")


async def init(lab: Lab, host: Host) -> local_pb2.InitResponse:
    async with _channel(lab, host) as channel:
        return await _call(LocalStub(channel).Init(local_pb2.InitRequest(), timeout=30))


async def join_tokens(lab: Lab, host: Host) -> control_pb2.GetJoinTokensResponse:
    async with _channel(lab, host) as channel:
        return await _call(ControlStub(channel).GetJoinTokens(control_pb2.GetJoinTokensRequest(), timeout=30))


async def join_host(lab: Lab, host: Host, token: str, address: str) -> local_pb2.JoinResponse:
    async with _channel(lab, host) as channel:
        request = local_pb2.JoinRequest(token=token, addresses=[address])
        return await _call(LocalStub(channel).Join(request, timeout=60))


async def _join_in_turn(
    turn: asyncio.Semaphore, lab: Lab, host: Host, tokens: control_pb2.GetJoinTokensResponse
) -> None:
    async with turn:
        await join_host(lab, host, tokens.worker, tokens.manager_address)


async def all_ready(lab: Lab, host: Host, count: int) -> None:
    """Waits until the managers call `count` nodes ready."""
    async with _channel(lab, host) as channel:

        async def ask() -> bool | None:
            request = control_pb2.ListNodesRequest()
            nodes = (await _call(ControlStub(channel).ListNodes(request, timeout=10))).nodes
            ready = sum(each.node.state == types_pb2.NODE_STATE_READY for each in nodes)
            return True if ready >= count else None

        await _until(ask, f"not all {count} nodes became ready", f"see `swarmnet node ls` and {lab.logs}")


def _channel(lab: Lab, host: Host) -> grpc.aio.Channel:
    options = (("grpc.enable_http_proxy", 0), ("grpc.initial_reconnect_backoff_ms", 50))
    return grpc.aio.insecure_channel(f"unix://{lab.socket(host)}", options=options)


async def _call(call: Awaitable[ResultT]) -> ResultT:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _meaning(error) from None


def _meaning(error: grpc.aio.AioRpcError) -> SwarmnetError:
    for key, value in error.trailing_metadata() or ():
        if key == status.TRAILER and isinstance(value, bytes) and (known := status.decode(value)):
            return known
    return Unavailable(f"{error.code().name}: {error.details()}")


async def _until(ask: Callable[[], Awaitable[ResultT | None]], failure: str, hint: str) -> ResultT:
    deadline, pause_s = time.monotonic() + READY_TIMEOUT_S, _FIRST_PAUSE_S
    while (result := await ask()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"{failure} after {READY_TIMEOUT_S:.0f} s", hint=hint)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return result


def _since(start: float) -> str:
    return f"{time.monotonic() - start:.1f} s"
