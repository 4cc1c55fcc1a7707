"""Both daemons keep their certificate: renewed in time, of the root that issues, and reported."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.manager_doors import CLUSTER, MANAGER, ROOT, certificate
from tests.unit.stand_in_manager import StandIn, assignment, running

from swarmnet.core.certificates import is_of_first
from swarmnet.core.errors import Unauthenticated, Unavailable
from swarmnet.manager.ca.authority import Authority, Subject, new_key, private_pem, signing_request
from swarmnet.manager.ca.credentials import Credentials
from swarmnet.manager.ca.files import IdentityFiles
from swarmnet.manager.identity import CallerRole
from swarmnet.manager.renewal import Renewal
from swarmnet.worker.channel import node_channel
from swarmnet.worker.identity import IdentityFiles as WorkerFiles
from swarmnet.worker.places import Managers
from swarmnet.worker.renewal import Renewal as WorkerRenewal

START = datetime.now(UTC)
NEW_ROOT = Authority.create(CLUSTER, START)
CROSS_SIGNED = ROOT.certify(NEW_ROOT.root_pem, START)
BOTH = NEW_ROOT.root_pem + ROOT.root_pem


class Leader:
    """Issues by the first of `roots`; `failures` come first."""

    def __init__(self) -> None:
        self.now = START
        self.roots = ROOT.root_pem
        self.failures: list[Exception] = []
        self.reported: list[Credentials] = []
        self.renewals: list[datetime] = []

    async def report(self, mine: Credentials) -> bytes:
        self.reported.append(mine)
        return self.roots

    async def renew(self, mine: Credentials) -> Credentials:
        if self.failures:
            raise self.failures.pop(0)
        self.renewals.append(self.now)
        by = ROOT if self.roots.startswith(ROOT.root_pem) else NEW_ROOT
        key = new_key()
        issued = by.issue(signing_request(key), Subject(MANAGER, CallerRole.MANAGER, CLUSTER), self.now)
        chain = CROSS_SIGNED if self.roots == BOTH else b""
        return Credentials(issued + chain, private_pem(key), self.roots)


def keeper(tmp_path: Path, leader: Leader) -> Renewal:
    files = IdentityFiles(tmp_path)
    made = certificate(CallerRole.MANAGER, MANAGER)
    files.save(made)
    return Renewal(made, files, leader, lambda: leader.now)


async def until_renewed(renewal: Renewal, leader: Leader) -> list[float]:
    """The waits until then; each moves the clock."""
    waits: list[float] = []
    done = asyncio.Event()

    async def news(longest_s: float) -> None:
        waits.append(longest_s)
        leader.now += timedelta(seconds=longest_s)
        if leader.renewals:
            done.set()
        await asyncio.sleep(0)

    task = asyncio.create_task(renewal.run(news))
    try:
        async with asyncio.timeout(20):
            await done.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return waits


async def test_a_manager_renews_between_half_and_four_fifths_of_the_life(tmp_path: Path) -> None:
    leader = Leader()
    renewal = keeper(tmp_path, leader)
    waits = await until_renewed(renewal, leader)
    assert timedelta(days=45) <= leader.renewals[0] - START + timedelta(minutes=1)
    assert leader.renewals[0] - START <= timedelta(days=72, hours=1)
    assert max(waits) <= 3600
    assert IdentityFiles(tmp_path).load() == renewal.current == leader.reported[-1]


async def test_what_fails_is_tried_again_ever_less_often(tmp_path: Path) -> None:
    leader = Leader()
    renewal = keeper(tmp_path, leader)
    leader.failures = [Unavailable("no"), OSError("no room")] * 4 + [Unavailable("no")]
    waits = await until_renewed(renewal, leader)
    assert waits[-10:-1] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_manager_moves_to_another_root_and_forgets_the_old_one(tmp_path: Path) -> None:
    leader = Leader()
    renewal = keeper(tmp_path, leader)
    await renewal.keep()
    assert leader.renewals == []
    leader.roots = BOTH
    await renewal.keep()
    assert renewal.current.is_current()
    assert renewal.current.root_pem == BOTH
    leader.roots = NEW_ROOT.root_pem
    await renewal.keep()
    assert len(leader.renewals) == 1
    assert IdentityFiles(tmp_path).load() == renewal.current == leader.reported[-1]
    assert renewal.current.roots() == [NEW_ROOT.digest]


async def test_a_crash_between_roots_and_certificate_is_made_good(tmp_path: Path) -> None:
    """The roots came first to the disk: the leader has no news about them, and still it has to renew."""
    leader = Leader()
    keeper(tmp_path, leader)
    (tmp_path / "certificates" / "root.pem").write_bytes(BOTH)
    found = IdentityFiles(tmp_path).load()
    assert found is not None
    leader.roots = BOTH
    renewal = Renewal(found, IdentityFiles(tmp_path), leader, lambda: leader.now)
    await renewal.keep()
    assert renewal.current.is_current()


async def test_roots_that_change_all_the_time_are_an_error_not_a_busy_loop(tmp_path: Path) -> None:
    leader = Leader()
    renewal = keeper(tmp_path, leader)

    async def report(mine: Credentials) -> bytes:
        leader.roots = BOTH if mine.root_pem == ROOT.root_pem else ROOT.root_pem
        return leader.roots

    leader.report = report  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="keep changing"):
        await renewal.keep()


@pytest.fixture
async def manager() -> AsyncIterator[StandIn]:
    manager = StandIn()
    async with running(manager):
        yield manager


def worker_of(manager: StandIn, tmp_path: Path, now: datetime = START) -> WorkerRenewal:
    managers = Managers(tmp_path, random.Random(1))
    managers.replace(assignment(manager).managers)

    def connect(address: str) -> object:
        return node_channel(address, made.identity)

    made = WorkerRenewal(
        manager.worker(),
        WorkerFiles(tmp_path),
        managers,
        connect,  # type: ignore[arg-type]
        random.Random(1),
        now=lambda: now,
    )
    return made


async def test_a_worker_reports_what_it_uses(manager: StandIn, tmp_path: Path) -> None:
    renewal = worker_of(manager, tmp_path)
    await renewal.keep()
    assert manager.renewals == []
    (report,) = manager.reports
    assert report.certificate_pem.encode() == renewal.identity.certificate_pem
    assert report.root_certificate_pem.encode() == manager.root.root_pem


@pytest.mark.parametrize(("days", "renewals"), [(44, 0), (73, 1)])
async def test_a_worker_renews_when_it_is_time(
    days: int, renewals: int, manager: StandIn, tmp_path: Path
) -> None:
    renewal = worker_of(manager, tmp_path, START + timedelta(days=days))
    await renewal.keep()
    assert len(manager.renewals) == renewals
    assert manager.reports[-1].certificate_pem.encode() == renewal.identity.certificate_pem


async def test_an_assignment_with_other_roots_makes_a_worker_move_at_once(
    manager: StandIn, tmp_path: Path
) -> None:
    renewal = worker_of(manager, tmp_path)
    job = asyncio.create_task(renewal.run())
    try:
        async with asyncio.timeout(10):
            await manager.reported.acquire()
            old, new = manager.root, Authority.create("c" * 25, START)
            manager.root, manager.chain_pem = new, old.certify(new.root_pem, START)
            manager.roots_pem = new.root_pem + old.root_pem
            renewal.hear_of_roots(manager.roots_pem)
            while not is_of_first(manager.reports[-1].certificate_pem.encode(), new.root_pem):
                await manager.reported.acquire()
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
    assert WorkerFiles(tmp_path).load() == renewal.identity
    assert renewal.identity.root_pem == manager.roots_pem


async def test_an_expired_certificate_is_not_used_and_says_what_to_do(
    manager: StandIn, tmp_path: Path
) -> None:
    renewal = worker_of(manager, tmp_path, START + timedelta(days=91))
    with pytest.raises(Unauthenticated, match="this node's certificate expired at 20") as caught:
        renewal.valid_identity()
    assert "`swarmnet swarm leave` here and join again" in caught.value.message
    assert f"swarmnet node rm {renewal.identity.node_id}" in caught.value.hint


async def test_a_manager_of_another_root_is_told_from_one_that_cannot_be_reached(
    manager: StandIn, tmp_path: Path
) -> None:
    renewal = worker_of(manager, tmp_path)
    error = Unavailable("cannot reach it")
    assert await renewal.explain(manager.address, error) is error
    stranger = StandIn()
    async with running(stranger):
        explained = await renewal.explain(stranger.address, error)
    assert isinstance(explained, Unauthenticated)
    assert "has a certificate of a root that this node does not know" in explained.message
    assert "`swarmnet swarm leave` here, then join again" in explained.message
    assert await renewal.explain(stranger.address, error) is error
