"""A worker while it is of a swarm: session, agent, gossip, data path, executor and renewal, put together."""

from __future__ import annotations

import asyncio
import platform
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.datapath.desired import Desired
from swarmnet.worker import inquiries
from swarmnet.worker.agent import Agent, Kernel, Rumours
from swarmnet.worker.channel import node_channel
from swarmnet.worker.config import Config
from swarmnet.worker.datapath.datapath import Capability
from swarmnet.worker.datapath.pathmtu import path_bytes
from swarmnet.worker.executor import Executor
from swarmnet.worker.identity import Identity, IdentityFiles
from swarmnet.worker.images import ImageStore
from swarmnet.worker.memory import Sweeper
from swarmnet.worker.paths import Paths
from swarmnet.worker.places import Managers
from swarmnet.worker.promotion import Promotion
from swarmnet.worker.renewal import Renewal
from swarmnet.worker.session import Session

log = structlog.get_logger()

_REFUSALS: Final = ("dropped_", "refused_")
"""How the names of gossip's counters of these begin."""


class Datapath(Kernel, inquiries.Kernel, Protocol):
    """The data path, opened and let go. It calls `worn` when a key has been used enough, `programmed` with
    each wish."""

    worn: Callable[[], None]
    programmed: Callable[[Desired], None]

    async def start(self) -> Capability: ...
    async def underlay_mtu(self, address: str) -> int | None: ...
    async def remove_all(self, *, comes_back: bool = False) -> None: ...
    async def close(self) -> None: ...


class Gossip(Rumours, Protocol):
    """Gossip, begun and ended."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def leave(self) -> None: ...
    def counters(self) -> dict[str, int]: ...


MakeDatapath = Callable[[Config], Datapath]
MakeGossip = Callable[[Config, str, Callable[[str], None]], Gossip]
"""Of a node id, and what to call when something was heard of a network."""


def make_executor(config: Config, changed: Callable[[], None]) -> tuple[Executor, ImageStore]:
    images = ImageStore(config.image_store, config.state_dir / "images")
    hidden = (config.state_dir, config.run_dir)
    return Executor(config.state_dir, images, hidden, changed), images


class Membership:
    """`ended` says why, once the managers have removed or promoted this node.

    It fails when a part of the worker does, which then is better started anew: tasks and traffic go on then.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        managers: Managers,
        datapath: Datapath,
        *,
        make_gossip: MakeGossip,
        rng: random.Random,
    ) -> None:
        self._config = config
        self.identity = identity
        self.managers = managers
        self._datapath = datapath
        datapath.worn = self._wake_agent
        self._rng = rng
        self._gossip = make_gossip(config, identity.node_id, lambda _: self._agent.wake())
        self.executor, self._images = make_executor(config, self._wake_agent)
        self._renewal = Renewal(identity, IdentityFiles(config.state_dir), managers, self._connect, rng)
        self.session = Session(
            managers,
            self._connect,
            self._hello,
            self._assigned,
            rng,
            answer=self._answer,
            explain=self._renewal.explain,
        )
        self._agent = Agent(
            config.data_path,
            datapath,
            self._gossip,
            self.executor,
            self.session.report,
            memory=config.endpoints,
            encap=config.data_path_udp,
            notice=self.session.notice,
            dropped=Sweeper().soon,
        )
        self._paths = Paths(datapath, path_bytes, self.session.notice)
        datapath.programmed = self._paths.look
        self._promotion = Promotion(
            config.manager_socket,
            managers,
            self._connect,
            lambda: self.session.describe(self._capabilities()),
        )
        self._capability = Capability(esp=False, reason="not probed yet")
        self._names: Sequence[str] = ()
        self._jobs: list[asyncio.Task[None]] = []
        self.ended: asyncio.Future[dispatcher.Removed] = asyncio.get_running_loop().create_future()

    def refused(self) -> dict[str, int]:
        """What came in by gossip and was dropped, by the cause."""
        return {name: n for name, n in self._gossip.counters().items() if name.startswith(_REFUSALS)}

    @property
    def last_error(self) -> str:
        return self.session.last_error or self._agent.last_error or self._promotion.last_error

    async def start(self) -> None:
        """Take over whatever a predecessor left, and begin to look for a manager."""
        self._capability = await self._datapath.start()
        self._names = await asyncio.to_thread(self._images.names)
        await self._promotion.look()
        await self.executor.adopt()
        await self._gossip.start()
        self._jobs = [
            asyncio.create_task(self._supervised(work))
            for work in (
                self._run_session(),
                self._agent.run(),
                self._paths.run(),
                self._renewal.run(),
                self._promotion.run(),
            )
        ]
        log.info("worker active", node=self.identity.node_id, cluster=self.identity.cluster_id)

    async def stop(self) -> None:
        """Let go: tasks run on, traffic flows, and the managers see this node silent."""
        await self._stop_jobs()
        await self._gossip.stop()
        await self.executor.close()
        await self._datapath.close()

    async def announce_leave(self) -> None:
        """Tell the managers, as far as they can be reached."""
        if not await self.session.leave():
            log.warning("left without telling the managers")

    async def dissolve(self, *, comes_back: bool) -> None:
        """Stop the tasks and take all of the kernel's state out. FailedPrecondition names what stays."""
        await self._stop_jobs()
        await self.executor.forget_all()
        await self._gossip.leave()
        await self._gossip.stop()
        await self.executor.close()
        self._config.endpoints.unlink(missing_ok=True)
        try:
            await self._datapath.remove_all(comes_back=comes_back)
        finally:
            await self._datapath.close()

    async def _stop_jobs(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        self._jobs.clear()

    async def _supervised(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("worker failed")
            if not self.ended.done():
                self.ended.set_exception(error)

    async def _run_session(self) -> None:
        removed = await self.session.run()
        if removed is not None and not self.ended.done():
            self.ended.set_result(removed)

    def _wake_agent(self) -> None:
        self._agent.wake()

    def _connect(self, address: str) -> Any:
        return node_channel(address, self._renewal.valid_identity())

    def _hello(self) -> dispatcher.Hello:
        return dispatcher.Hello(
            hostname=self._config.hostname,
            gossip_address=self._config.gossip_advertise,
            data_path_address=self._config.data_path_advertise,
            data_path_udp=self._config.data_path_udp,
            capabilities=self._capabilities(),
        )

    def _capabilities(self) -> types.NodeCapabilities:
        ready, why_not = self._promotion.readiness
        return types.NodeCapabilities(
            esp=self._capability.esp,
            esp_reason=self._capability.reason,
            images=self._names,
            kernel=platform.release(),
            executors=["process"],
            manager=ready,
            manager_reason=why_not,
        )

    async def _answer(self, question: dispatcher.Question) -> dispatcher.Answer:
        return await inquiries.answer(question, self._datapath)

    def _assigned(self, assignment: dispatcher.Assignment) -> None:
        self._agent.assign(assignment)
        self._promotion.want(assignment.become_manager)
        self._renewal.hear_of_roots(assignment.root_certificate_pem.encode())
        if self.managers.replace(assignment.managers):
            self.managers.save()
