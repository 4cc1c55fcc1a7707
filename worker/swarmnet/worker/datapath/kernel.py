"""The kernel as the data path sees it: read into a `Layout`, changed by the steps of a plan.

All of it runs on the data path's own thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swarmnet.core.datapath.layout import Layout, NetworkLinks
from swarmnet.core.datapath.plan import (
    BuildNetwork,
    BuildTask,
    DropForward,
    DropPolicy,
    DropSa,
    PutForward,
    PutPolicy,
    PutSa,
    RemoveNetwork,
    RemoveTask,
    ResizeNetwork,
    ResizeTask,
    Step,
)
from swarmnet.worker.datapath.ipsec import Ipsec
from swarmnet.worker.datapath.links import NETWORK_PREFIX, TASK_PREFIX, Links
from swarmnet.worker.datapath.outcome import Outcome

_BROKEN = NetworkLinks(0, 0, "", 0)
"""A namespace whose bridge or VXLAN device is not whole: equal to nothing wanted."""


class Kernel:
    """Reads and changes the kernel."""

    def __init__(self, links: Links, ipsec: Ipsec) -> None:
        self._links = links
        self._ipsec = ipsec

    def read(self) -> Layout:
        """Everything of ours that is there, by our names, ports, SPIs and reqids."""
        seen = {name: self._links.see_network(name) for name in self._links.names(NETWORK_PREFIX)}
        return Layout(
            sas={sa.id: sa for sa, _ in self._ipsec.sas()},
            policies={policy.id: policy for policy in self._ipsec.policies()},
            networks={name: each.links or _BROKEN for name, each in seen.items()},
            forwards={name: each.forwards for name, each in seen.items()},
            tasks={name: self._links.see_task(name, seen) for name in self._links.names(TASK_PREFIX)},
        )

    def execute(self, steps: Sequence[Step], actual: Layout, owners: Mapping[int, str]) -> dict[str, str]:
        """Take the steps, keep `actual` true; what failed, as in `Outcome`, by network or task."""
        outcome = Outcome(actual, owners)
        for _, group in groupby(steps, key=_batch):
            self._take(list(group), outcome)
        return outcome.failures

    def _take(self, group: list[Any], outcome: Outcome) -> None:
        """Steps of one kind, and of one network if they are forwarding entries."""
        match group[0]:
            case PutPolicy():
                self._ipsec.put_policies([step.policy for step in group], outcome)
            case DropPolicy():
                self._ipsec.drop_policies([step.policy for step in group], outcome)
            case PutSa():
                self._ipsec.put_sas(group, outcome)
            case DropSa():
                self._ipsec.drop_sas([step.sa for step in group], outcome)
            case PutForward(network):
                self._put_forwards(network, group, outcome)
            case DropForward(network):
                self._drop_forwards(network, group, outcome)
            case BuildNetwork() | ResizeNetwork() | RemoveNetwork():
                for step in group:
                    self._network_step(step, outcome)
            case _:
                for step in group:
                    self._task_step(step, outcome)

    def _put_forwards(self, network: str, steps: list[PutForward], outcome: Outcome) -> None:
        if network in outcome.failures:
            return
        with outcome.blaming(network, "forwarding"):
            answers = self._links.put_forwards(network, [step.forward for step in steps])
            for step, answer in zip(steps, answers, strict=True):
                if answer is None:
                    outcome.actual.forwards[network][step.forward.ip] = step.forward
                else:
                    outcome.failed(network, f"forwarding to {step.forward.ip}: {answer.strerror}")

    def _drop_forwards(self, network: str, steps: list[DropForward], outcome: Outcome) -> None:
        with outcome.blaming(network, "forwarding"):
            answers = self._links.drop_forwards(network, [step.forward for step in steps])
            for step, answer in zip(steps, answers, strict=True):
                if answer is None:
                    outcome.actual.forwards[network].pop(step.forward.ip, None)
                else:
                    outcome.failed(network, f"forwarding to {step.forward.ip}: {answer.strerror}")

    def _network_step(self, step: BuildNetwork | ResizeNetwork | RemoveNetwork, outcome: Outcome) -> None:
        name, actual = step.network, outcome.actual
        with outcome.blaming(name, "network"):
            if isinstance(step, RemoveNetwork):
                self._links.remove_network(name)
                actual.networks.pop(name, None)
                actual.forwards.pop(name, None)
            elif isinstance(step, ResizeNetwork):
                self._links.resize_network(name, step.links.mtu)
                actual.networks[name] = step.links
            elif name not in outcome.failures:
                self._links.build_network(name, step.links)
                actual.networks[name] = step.links
                actual.forwards[name] = {}

    def _task_step(self, step: BuildTask | ResizeTask | RemoveTask, outcome: Outcome) -> None:
        name = step.task
        if isinstance(step, RemoveTask):
            with outcome.blaming(name, "task"):
                self._links.remove_task(name)
                outcome.actual.tasks.pop(name, None)
            return
        down = [each.network for each in step.interfaces if each.network in outcome.failures]
        if down:
            outcome.failed(name, f"its network is not up: {outcome.failures[down[0]]}")
            return
        with outcome.blaming(name, "task"):
            if isinstance(step, ResizeTask):
                self._links.resize_task(name, step.interfaces)
            else:
                self._links.build_task(name, step.interfaces)
            outcome.actual.tasks[name] = step.interfaces


def _batch(step: Step) -> tuple[type, object]:
    """Neighbouring steps with the same value go to the kernel together; guards by themselves, before SAs."""
    if isinstance(step, PutForward | DropForward):
        return type(step), step.network
    if isinstance(step, PutPolicy | DropPolicy):
        return type(step), step.policy.guard
    return type(step), None
