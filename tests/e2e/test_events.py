"""Events of real managers: complete over a leader's death, and refusals at any manager among them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from tests.e2e.manager_process import Manager, answered, eventually, managers

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import BadToken, SwarmnetError, SwarmScoped
from swarmnet.core.tokens import parse_token
from swarmnet.manager.gathering import WINDOW_S

WRONG = "SWMTKN-1-{}-" + "0" * 25


async def events_at(manager: Manager, **fields: object) -> AsyncIterator[types.Event]:
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        request = control_pb2.EventsRequest(**fields)  # type: ignore[arg-type]
        async for event in control_pb2_grpc.ControlStub(channel).Events(request):
            yield event


async def kept(manager: Manager) -> list[types.Event]:
    return [each async for each in events_at(manager)]


async def offer_wrong_token(manager: Manager, digest: str) -> None:
    root = (manager.folder / "state/certificates/root.pem").read_bytes()
    options = (("grpc.ssl_target_name_override", "swarmnet-manager"),)
    channel = grpc.aio.secure_channel(manager.bootstrap, grpc.ssl_channel_credentials(root), options)
    async with channel:
        request = ca_pb2.IssueCertificateRequest(token=WRONG.format(digest), hostname="stranger")
        try:
            await answered(ca_pb2_grpc.BootstrapStub(channel).IssueCertificate(request, timeout=10))
        except BadToken:
            return
    raise AssertionError("it was let in")


async def attach(manager: Manager, network: str) -> None:
    async with grpc.aio.insecure_channel(manager.socket) as channel:
        request = control_pb2.AttachNetworkRequest(ref=network)
        try:
            await answered(control_pb2_grpc.ControlStub(channel).AttachNetwork(request, timeout=10))
        except SwarmScoped:
            return
    raise AssertionError("it was let in")


async def test_nothing_is_lost_with_a_leader_and_refusals_anywhere_are_told(tmp_path: Path) -> None:
    async with managers(tmp_path, 3) as (first, second, third):
        await first.init()
        token = (await first.tokens()).manager
        for each in (second, third):
            await each.join(token, first.bootstrap)
        network_id = await eventually(lambda: first.create_network("net"))
        for _ in range(3):
            await offer_wrong_token(second, parse_token(token).digest)  # a follower: it asks the leader
        await attach(third, "net")

        async def refusals() -> dict[str, types.Event]:
            found = [each for each in await kept(third) if each.action == "refuse"]
            return {each.attributes["code"]: each for each in found} if len(found) == 2 else {}

        told = await eventually(refusals, WINDOW_S + 10)
        assert told["BAD_TOKEN"].count == 3
        assert [each.id for each in told["SWARM_SCOPED"].subjects] == [network_id]
        before = await kept(third)
        assert [(e.action, e.subjects[0].id) for e in before if e.action == "create" and e.type == 1] == [
            ("create", "gossip"),
            ("create", network_id),
        ]
        await first.stop(signal.SIGKILL)

        async def again() -> list[types.Event]:
            await third.create_network("late")
            return await kept(second)

        after = await eventually(again)
        assert after[: len(before)] == before
        assert [e.subjects[0].name for e in after[len(before) :] if e.action == "create"] == ["late", "late"]


async def test_a_stream_that_broke_goes_on_where_it_was(tmp_path: Path) -> None:
    async with managers(tmp_path, 1) as (manager,):
        await manager.init()
        seen: list[types.Event] = []
        heard = asyncio.Event()

        async def follow() -> None:
            while True:
                try:
                    after = seen[-1].meta.id if seen else ""
                    async for event in events_at(manager, after=after, follow=True):
                        seen.append(event)
                        heard.set()
                except (grpc.aio.AioRpcError, SwarmnetError):
                    await asyncio.sleep(0.05)

        following = asyncio.create_task(follow())
        for number in range(3):
            await eventually(lambda n=number: manager.create_network(f"n{n}"))  # type: ignore[misc]
            await manager.stop(signal.SIGKILL)
            await manager.start()
        everything = await eventually(lambda: kept(manager))
        async with asyncio.timeout(10):
            while len(seen) < len(everything):
                heard.clear()
                await heard.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert seen == everything
