"""The data path of a worker: makes the kernel as wanted, says what it has, and survives its own process.

One thread writes (`Datapath._writer`): it alone talks to the kernel, enters namespaces and holds what is
known of both. The kernel is listed when the first wish comes, after every failure and on `reconcile`; between
those, a change costs only its difference. Nothing is undone when the worker ends: the next one lists the
kernel and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog

from swarmnet.core.datapath.desired import (
    Desired,
    DesiredNetwork,
    DesiredTask,
    needs_encap,
    network_name,
    task_name,
    without_stale_peers,
)
from swarmnet.core.datapath.layout import Layout, layout
from swarmnet.core.datapath.plan import Step, plan
from swarmnet.core.datapath.repairs import repairs
from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.errors import FailedPrecondition, NotSupportedHere
from swarmnet.worker.datapath import guard
from swarmnet.worker.datapath.counters import counters
from swarmnet.worker.datapath.encapsulation import Encapsulation
from swarmnet.worker.datapath.expiry import Expiries
from swarmnet.worker.datapath.ipsec import Ipsec
from swarmnet.worker.datapath.kernel import Kernel
from swarmnet.worker.datapath.ledger import Ledger
from swarmnet.worker.datapath.links import Links
from swarmnet.worker.datapath.namespaces import Namespaces
from swarmnet.worker.datapath.netlink import NETLINK_ROUTE, Netlink
from swarmnet.worker.datapath.probe import open_xfrm, probe_esp
from swarmnet.worker.datapath.probes import PeerProbes, exchange, peer_probes
from swarmnet.worker.datapath.report import NetworkReport, Report, report
from swarmnet.worker.datapath.tunnels import NetworkTunnels, network_tunnels

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
_ATTEMPTS: Final = 2
"""A step may fail because the kernel is not as remembered; the second plan is made of a fresh listing."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether this host can run encrypted networks; `reason` says why not and what to do about it."""

    esp: bool
    reason: str = ""


class Datapath:
    """Not started, it refuses; started, its methods may be called concurrently and take effect one by one.

    `run_dir` holds the namespaces, `state_dir` the ledger of used keys. `worn` is called when an SA has
    come to its soft limit: then it is time for a report; `programmed` after each wish, with it.
    """

    def __init__(self, run_dir: Path, state_dir: Path) -> None:
        self._namespaces = Namespaces(run_dir / "netns")
        self._ledger_path = state_dir / "datapath" / "ledger.json"
        self._encapsulation = Encapsulation()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="datapath")
        self._capability = Capability(esp=False, reason="the data path is not started")
        self._started = False
        self._guard: guard.Guard | None = None
        self._sockets: list[Netlink] = []
        self._expiries: Expiries | None = None
        self.worn: Callable[[], None] = _nobody_listens
        self.programmed: Callable[[Desired], None] = lambda _: None
        self._actual: Layout | None = None
        self._desired: Desired | None = None
        self._planned: list[Step] = []

    async def start(self) -> Capability:
        """Open the kernel, put the second guard in, try an SA. Touches nothing else that is there.

        Started already, it says what it found then. Internal if the ledger is damaged; OSError without the
        privilege to speak netlink.
        """
        if self._started:
            return self._capability
        refusal = await self._run(self._open)
        if not refusal:
            refusal = await self._install_guard()
        if not refusal:
            refusal = self._listen()
        self._capability = Capability(esp=not refusal, reason=refusal)
        self._started = True
        log.info("data path started", esp=self._capability.esp, reason=refusal)
        return self._capability

    async def apply(self, desired: Desired) -> Report:
        """Make the kernel so; whatever of it fails is in the report, and the rest is done all the same."""
        found = await self._run(self._apply, desired)
        self.programmed(desired)
        return found

    async def underlay_mtu(self, address: str) -> int | None:
        """Of the interface that has the address; None if none has it."""
        return await self._run(self._links.underlay_mtu, address)

    async def reconcile(self) -> Report:
        """List the kernel and the firewall and mend what differs from the last wish; before the first one
        only the firewall."""
        firewall = await self._mend_guard()
        found = await self._run(self._reconcile)
        if not firewall:
            return found
        others = found.repairs.get("", "")
        return replace(found, repairs=found.repairs | {"": f"{firewall}, {others}" if others else firewall})

    async def counters(self) -> dict[str, int]:
        """The kernel's own counts of what it encrypted, decrypted and refused, by name."""
        return await self._run(lambda: counters(self._ipsec.sas()))

    async def tunnels(self) -> tuple[NetworkTunnels, ...]:
        """What the SAs of each encrypted network did; nothing before the first wish."""
        return await self._run(self._tunnels)

    async def probe(self, network_id: str) -> list[PeerProbes]:
        """Send probes to each peer on the network and watch the underlay, for some seconds.

        FailedPrecondition unless it is an encrypted network of this node.
        """
        desired, network = self._encrypted(network_id)
        interface = await self._run(self._links.underlay_link, desired.address)
        before = await self._run(self._ipsec.sas)
        seen = await asyncio.to_thread(exchange, network, desired.address, interface)
        after = await self._run(self._ipsec.sas)
        return peer_probes(desired, network, seen, before, after)

    @property
    def firewall(self) -> str:
        """The one that has the second guard; empty if none has."""
        return self._guard.name if self._guard is not None else ""

    def _encrypted(self, network_id: str) -> tuple[Desired, DesiredNetwork]:
        for network in self._desired.networks if self._desired is not None else ():
            if network.id == network_id and network.encrypted:
                assert self._desired is not None
                return self._desired, network
        raise FailedPrecondition(
            f"{network_id} is not an encrypted network on this node", hint="It may have just gone: try again."
        )

    async def remove_all(self, *, comes_back: bool = False) -> None:
        """Take away everything of ours, keys too; the ledger unless this node may be a worker again, with the
        same id and so the same keys. FailedPrecondition names what would not go."""
        failures = await self._run(self._remove_all)
        if not comes_back:
            await self._run(self._ledger.erase)
        if self._guard is not None:
            await self._guard.remove()
        if failures:
            raise FailedPrecondition(
                "parts of the data path would not go: " + "; ".join(f"{k}: {v}" for k, v in failures.items()),
                hint="Remove them with `ip netns` and `ip xfrm`, or restart the host.",
            )

    async def close(self) -> None:
        """Let go of the kernel and leave all as it is: traffic goes on."""
        if self._expiries is not None:
            self._expiries.close()
            self._expiries = None
        await self._run(self._close)
        self._writer.shutdown()

    def descriptor_to_hold(self) -> int:
        """What tasks keep open so that packets still come in when the worker is gone; -1: nothing."""
        return self._encapsulation.descriptor

    def task_namespace(self, task_id: str) -> Path:
        """The file of a task's network namespace; there once `apply` reported no error for the task."""
        return self._namespaces.path(task_name(task_id))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._writer.submit(work, *args, **kwargs))

    def _listen(self) -> str:
        try:
            self._expiries = Expiries(self._tell_worn)
        except NotSupportedHere as error:
            return str(error)
        self._expiries.listen(asyncio.get_running_loop())
        return ""

    def _tell_worn(self) -> None:
        self.worn()

    async def _install_guard(self) -> str:
        try:
            self._guard = await guard.install()
        except NotSupportedHere as error:
            return str(error)
        log.info("second guard in place", firewall=self._guard.name)
        return ""

    async def _mend_guard(self) -> str:
        """What was done about the second guard, if anything."""
        if self._guard is None:
            return ""
        try:
            if not await self._guard.mend():
                return ""
        except (OSError, guard.CommandFailed) as error:
            log.warning("second guard not looked after", firewall=self._guard.name, error=str(error))
            return f"rules of {self._guard.name} NOT put back: {error}"
        log.warning("second guard put back", firewall=self._guard.name)
        return f"rules of {self._guard.name} put back"

    # On the writer's thread

    def _open(self) -> str:
        """Why there can be no encryption, or nothing."""
        refusal, xfrm = "", None
        underlay = Netlink(NETLINK_ROUTE)
        self._sockets.append(underlay)
        try:
            xfrm = open_xfrm()
            self._sockets.append(xfrm)
            probe_esp(xfrm)
        except NotSupportedHere as error:
            refusal = str(error)
        self._ledger = Ledger(self._ledger_path)
        self._links = Links(self._namespaces, underlay)
        self._ipsec = Ipsec(xfrm, self._ledger)
        self._kernel = Kernel(self._links, self._ipsec)
        return refusal

    def _close(self) -> None:
        self._namespaces.close()
        self._encapsulation.close()
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def _reconcile(self) -> Report:
        if (desired := self._desired) is None:
            return Report()
        was_settled, self._actual = self._actual is not None, None
        self._planned = []
        found = self._apply(desired)
        return replace(found, repairs=repairs(self._planned, desired.networks)) if was_settled else found

    def _apply(self, desired: Desired) -> Report:
        self._desired = desired = without_stale_peers(desired)
        allowed, refused = self._allowed(desired)
        mtu = self._links.underlay_mtu(desired.address) if desired.networks else 0
        if mtu is None:
            return _all_failed(desired, f"no interface has the data-path address {desired.address}")
        try:
            wanted = layout(allowed, mtu)
        except FailedPrecondition as error:
            return _all_failed(desired, str(error))
        self._ledger.forget({each.id: frozenset(each.epochs.numbers()) for each in allowed.networks})
        failures = refused | self._converge(wanted, allowed)
        return self._report(desired, wanted, failures)

    def _allowed(self, desired: Desired) -> tuple[Desired, dict[str, str]]:
        """Without what cannot be had here, and why not: encrypted networks, and tasks of missing networks."""
        encrypted = () if self._capability.esp else [each for each in desired.networks if each.encrypted]
        refused = {network_name(each.id): self._capability.reason for each in encrypted}
        refused |= self._without_encapsulation(desired)
        networks = tuple(each for each in desired.networks if network_name(each.id) not in refused)
        names = {network_name(each.id) for each in networks}
        for task in desired.tasks:
            missing = _first_missing(task, names)
            if missing:
                refused[task_name(task.task_id)] = refused.get(missing, f"{missing} is not on this node")
        tasks = tuple(each for each in desired.tasks if task_name(each.task_id) not in refused)
        return replace(desired, networks=networks, tasks=tasks), refused

    def _without_encapsulation(self, desired: Desired) -> dict[str, str]:
        """The networks that need ESP in UDP, and why there is none; else nothing, and the port is open."""
        needing = [each for each in desired.networks if each.encrypted and needs_encap(desired, each)]
        try:
            if needing and self._capability.esp:
                self._encapsulation.open(desired.address)
        except OSError as error:
            return {network_name(each.id): f"no ESP in UDP: {error}" for each in needing}
        return {}

    def _converge(self, wanted: Layout, desired: Desired) -> dict[str, str]:
        owners = {each.port: network_name(each.id) for each in desired.networks if each.encrypted}
        failures: dict[str, str] = {}
        for attempt in range(_ATTEMPTS):
            actual = self._known()
            steps = plan(wanted, actual)
            if attempt == 0:
                self._planned = steps
            self._actual = None  # unknown, should this break off
            failures = self._kernel.execute(steps, actual, owners)
            self._actual = actual if not failures else None
            if steps:
                log.info("data path programmed", steps=len(steps), failed=len(failures))
            if not failures:
                break
        for name, reason in failures.items():
            log.warning("data path step failed", where=name, reason=reason)
        return failures

    def _known(self) -> Layout:
        if self._actual is None:
            self._actual = self._kernel.read()
        return self._actual

    def _report(self, desired: Desired, wanted: Layout, failures: dict[str, str]) -> Report:
        networks = report(desired, wanted, self._known(), failures, self._exhausted(desired, wanted))
        names = {task_name(task.task_id): task.task_id for task in desired.tasks}
        return Report(networks, {id_: failures[name] for name, id_ in names.items() if name in failures})

    def _exhausted(self, desired: Desired, wanted: Layout) -> frozenset[str]:
        """Networks whose current key is nearly used up, or whose ends do not go on where they stopped."""
        uses = {sa.id: use for sa, use in self._ipsec.sas()}
        current = {each.id: each.epochs.current.number for each in desired.networks if each.epochs.current}

        def worn(sa: Sa) -> bool:
            used_up = sa.outbound and sa.id in uses and uses[sa.id].exhausted
            return used_up or self._ledger.lost(sa)

        in_use = (sa for sa in wanted.sas.values() if current.get(sa.scope) == sa.epoch)
        return frozenset(sa.scope for sa in in_use if worn(sa))

    def _tunnels(self) -> tuple[NetworkTunnels, ...]:
        if self._desired is None:
            return ()
        return network_tunnels(self._desired, self._known(), self._ipsec.sas())

    def _remove_all(self) -> dict[str, str]:
        self._desired = None
        self._actual = None
        actual = self._kernel.read()
        return self._kernel.execute(plan(Layout(), actual), actual, {})


def _nobody_listens() -> None:
    pass


def _first_missing(task: DesiredTask, networks: set[str]) -> str:
    names = (network_name(each.network_id) for each in task.attachments)
    return next((name for name in names if name not in networks), "")


def _all_failed(desired: Desired, reason: str) -> Report:
    return Report(
        {each.id: NetworkReport(error=reason) for each in desired.networks},
        {each.task_id: reason for each in desired.tasks if each.attachments},
    )
