"""Workers without kernels: real certificates, real streams, each acknowledging as a worker does.

    python -m bench.keys_workers BOOTSTRAP ADDRESS TOKEN_FILE ROOT_FILE COUNT

Prints a JSON object a line: {"ready": workers} once all have their first assignment, {"keys": n} whenever all
of them together hold another number of keys for a moment, {"gossip": epoch, "at": s} when the last has
that epoch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import grpc
import grpc.aio
import structlog

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.ca.authority import new_key, private_pem, signing_request
from swarmnet.worker.channel import node_channel
from swarmnet.worker.identity import Identity
from swarmnet.worker.places import Managers
from swarmnet.worker.session import Session

AT_ONCE = 20


class Worker:
    """Installs whatever it is told at once, and says so."""

    def __init__(self, number: int, identity: Identity, managers: Managers, fleet: Fleet) -> None:
        self.number = number
        self.keys = 0
        self.gossip = 0
        self._fleet = fleet
        self.session = Session(
            managers,
            lambda address: node_channel(address, identity),
            self._hello,
            self._assigned,
            random.Random(number),
            answer=self._answer,
        )

    def _hello(self) -> dispatcher.Hello:
        address = f"10.{200 + (self.number >> 16)}.{self.number >> 8 & 255}.{self.number & 255}"
        return dispatcher.Hello(
            hostname=f"w{self.number}",
            gossip_address=f"{address}:7946",
            data_path_address=address,
            capabilities=types.NodeCapabilities(
                esp=True, images=["host"], kernel="6.1", executors=["process"]
            ),
        )

    async def _answer(self, question: dispatcher.Question) -> dispatcher.Answer:
        return dispatcher.Answer(id=question.id, error="this worker has no kernel")

    def _assigned(self, assignment: dispatcher.Assignment) -> None:
        statuses = {each.task.meta.id: _status(each.task) for each in assignment.tasks}
        report = dispatcher.KeyReport(scopes=[_installed(keys) for keys in assignment.keys])
        self.session.report(statuses, report)
        self.keys = len(assignment.keys)
        for keys in assignment.keys:
            if keys.scope == "gossip":
                self.gossip = max(epoch.number for epoch in keys.epochs)
        self._fleet.heard()


def _status(task: types.Task) -> dispatcher.TaskStatus:
    wanted = task.desired_state == types.TASK_STATE_RUNNING
    state = types.TASK_STATE_RUNNING if wanted else types.TASK_STATE_SHUTDOWN
    return dispatcher.TaskStatus(task_id=task.meta.id, state=state)


def _installed(keys: dispatcher.ScopeKeys) -> dispatcher.ScopeReport:
    sending = next(each.number for each in keys.epochs if each.role == types.EPOCH_ROLE_CURRENT)
    return dispatcher.ScopeReport(
        scope=keys.scope, installed=[each.number for each in keys.epochs], sending=sending
    )


class Fleet:
    """All of them, and what the last one of them has."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._gossip = 0
        self._changed = asyncio.Event()

    def heard(self) -> None:
        self._changed.set()
        if (least := min(each.gossip for each in self.workers)) > self._gossip:
            self._gossip = least
            tell({"gossip": least, "at": time.monotonic()})

    async def tell_keys(self) -> None:
        told = -1
        while True:
            await self._changed.wait()
            await asyncio.sleep(0.25)
            self._changed.clear()
            if (keys := sum(each.keys for each in self.workers)) != told:
                told = keys
                tell({"keys": keys})


def tell(what: dict[str, float]) -> None:
    print(json.dumps(what), flush=True)


async def join(bootstrap: str, root_pem: bytes, token: str, number: int) -> Identity:
    """From one address, so many at once are turned away now and then, and try again."""
    key = new_key()
    options = (("grpc.ssl_target_name_override", "swarmnet-manager"),)
    credentials = grpc.ssl_channel_credentials(root_pem)
    async with grpc.aio.secure_channel(bootstrap, credentials, options) as channel:
        request = ca_pb2.IssueCertificateRequest(
            token=token,
            csr_pem=signing_request(key).decode(),
            hostname=f"w{number}",
            role=types.ROLE_WORKER,
        )
        while True:
            try:
                answer = await ca_pb2_grpc.BootstrapStub(channel).IssueCertificate(request, timeout=60)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(1)
    return Identity(
        answer.certificate_pem.encode(),
        SecretBytes(private_pem(key).reveal()),
        answer.root_certificate_pem.encode(),
    )


async def run(bootstrap: str, address: str, token: str, root_pem: bytes, count: int) -> None:
    fleet = Fleet()
    gate = asyncio.Semaphore(AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        managers = Managers(Path(folder), random.Random(0))
        managers.replace_addresses([address])

        async def enter(number: int) -> None:
            async with gate:
                identity = await join(bootstrap, root_pem, token, number)
            fleet.workers.append(Worker(number, identity, managers, fleet))

        await asyncio.gather(*(enter(number) for number in range(1, count + 1)))
        sessions = []
        for worker in fleet.workers:
            sessions.append(asyncio.create_task(worker.session.run()))
            if len(sessions) % AT_ONCE == 0:
                await worker.session.established.wait()
        for worker in fleet.workers:
            await worker.session.established.wait()
        tell({"ready": count})
        telling = asyncio.create_task(fleet.tell_keys())
        await asyncio.gather(telling, *sessions)


def main() -> None:
    bootstrap, address, token, root, count = sys.argv[1:]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )  # stdout is ours
    asyncio.run(run(bootstrap, address, Path(token).read_text(), Path(root).read_bytes(), int(count)))


if __name__ == "__main__":
    main()
