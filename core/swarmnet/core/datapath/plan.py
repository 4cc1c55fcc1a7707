"""From what is there to what is wanted: kernel operations in an order that never opens a gap.

    1. tasks, forwarding entries, then VXLAN devices that are to go    nothing uses what goes next
    2. guards, then SAs, then peer policies that are to come           a policy finds its SAs there
       before the SAs, those of a node that missed several rotations   at no time more than three epochs
    3. networks, forwarding entries, then tasks that are to come       a device finds its guards there
    4. peer policies, then SAs, then guards that are to go             an SA outlives the policy that named it

So a key rotation is make before break in one plan as well as over several, and a plan that breaks off
anywhere has left no VXLAN device without its two guards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from swarmnet.core.datapath.layout import Forward, Interface, Layout, NetworkLinks
from swarmnet.core.datapath.xfrm import Policy, Sa, SaId
from swarmnet.core.keys import split_spi
from swarmnet.core.limits import MAX_LIVE_EPOCHS

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class PutPolicy:
    """Add the policy, or replace the one with its selector, at one stroke."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class DropPolicy:
    policy: Policy


@dataclass(frozen=True, slots=True)
class PutSa:
    """Add the SA. One of another key that has its id goes first."""

    sa: Sa
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class DropSa:
    sa: Sa


@dataclass(frozen=True, slots=True)
class BuildNetwork:
    """Make the namespace, the bridge and the VXLAN device, whatever of them is there already."""

    network: str
    links: NetworkLinks


@dataclass(frozen=True, slots=True)
class ResizeNetwork:
    """Give the bridge and the VXLAN device another MTU, and keep all that hangs on them."""

    network: str
    links: NetworkLinks


@dataclass(frozen=True, slots=True)
class RemoveNetwork:
    network: str


@dataclass(frozen=True, slots=True)
class PutForward:
    network: str
    forward: Forward


@dataclass(frozen=True, slots=True)
class DropForward:
    network: str
    forward: Forward


@dataclass(frozen=True, slots=True)
class BuildTask:
    """Make the namespace and its interfaces; interfaces that are there already are made anew."""

    task: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class ResizeTask:
    """Give the interfaces other MTUs; connections live on."""

    task: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class RemoveTask:
    """Take the interfaces and the namespace's name away; `interfaces` as they were seen."""

    task: str
    interfaces: tuple[Interface, ...]


Step = (
    PutPolicy
    | DropPolicy
    | PutSa
    | DropSa
    | BuildNetwork
    | ResizeNetwork
    | RemoveNetwork
    | PutForward
    | DropForward
    | BuildTask
    | ResizeTask
    | RemoveTask
)


def plan(wanted: Layout, actual: Layout) -> list[Step]:
    """The steps in order; none if the two are the same. Executing them twice does no harm."""
    return [
        *_clear(wanted, actual),
        *_secure(wanted, actual),
        *_connect(wanted, actual),
        *_retire(wanted, actual),
    ]


def _clear(wanted: Layout, actual: Layout) -> Iterator[Step]:
    for task, interfaces in _gone(wanted.tasks, actual.tasks):
        yield RemoveTask(task, interfaces)
    for network in wanted.networks.keys() & actual.forwards.keys():
        before, after = actual.forwards[network], wanted.forwards[network]
        for ip, forward in before.items():
            if ip not in after or after[ip].mac != forward.mac:
                yield DropForward(network, forward)
    for network, _ in _gone(wanted.networks, actual.networks):
        yield RemoveNetwork(network)


def _secure(wanted: Layout, actual: Layout) -> Iterator[Step]:
    new = [policy for _, policy in _new(wanted.policies, actual.policies)]
    yield from (PutPolicy(policy) for policy in new if policy.guard)
    yield from (DropSa(sa) for sa in _outlived(wanted, actual).values())
    yield from (PutSa(sa, replaces=id_ in actual.sas) for id_, sa in _new(wanted.sas, actual.sas))
    yield from (PutPolicy(policy) for policy in new if not policy.guard)


def _connect(wanted: Layout, actual: Layout) -> Iterator[Step]:
    rebuilt = set()
    for network, links in _new(wanted.networks, actual.networks):
        if network in actual.networks and replace(actual.networks[network], mtu=links.mtu) == links:
            yield ResizeNetwork(network, links)
        else:
            rebuilt.add(network)
            yield BuildNetwork(network, links)
    for network, after in wanted.forwards.items():
        before = {} if network in rebuilt else actual.forwards.get(network, {})
        yield from (PutForward(network, forward) for _, forward in _new(after, before))
    for task, interfaces in _new(wanted.tasks, actual.tasks):
        if task in actual.tasks and _resized(actual.tasks[task], interfaces):
            yield ResizeTask(task, interfaces)
        else:
            yield BuildTask(task, interfaces)


def _resized(before: tuple[Interface, ...], after: tuple[Interface, ...]) -> bool:
    """Whether nothing but MTUs is different, of interfaces that are all there."""
    return len(before) == len(after) and all(
        replace(old, mtu=new.mtu) == new for old, new in zip(before, after, strict=True)
    )


def _retire(wanted: Layout, actual: Layout) -> Iterator[Step]:
    old = [policy for _, policy in _gone(wanted.policies, actual.policies)]
    yield from (DropPolicy(policy) for policy in old if not policy.guard)
    outlived = _outlived(wanted, actual)
    yield from (DropSa(sa) for id_, sa in _gone(wanted.sas, actual.sas) if id_ not in outlived)
    yield from (DropPolicy(policy) for policy in old if policy.guard)


def _outlived(wanted: Layout, actual: Layout) -> dict[SaId, Sa]:
    """SAs that would make four epochs of one network with those that are to come. Nobody who is not as far
    behind has them any more, so nothing is lost with them."""
    gone = dict(_gone(wanted.sas, actual.sas))
    epochs: dict[int, set[int]] = defaultdict(set)
    for sa in (*wanted.sas.values(), *gone.values()):
        epochs[sa.reqid].add(split_spi(sa.spi)[2])
    return {id_: sa for id_, sa in gone.items() if len(epochs[sa.reqid]) > MAX_LIVE_EPOCHS}


def _gone(wanted: Mapping[Key, Value], actual: Mapping[Key, Value]) -> list[tuple[Key, Value]]:
    return [(key, value) for key, value in actual.items() if key not in wanted]


def _new(wanted: Mapping[Key, Value], actual: Mapping[Key, Value]) -> list[tuple[Key, Value]]:
    """What is missing or different."""
    return [(key, value) for key, value in wanted.items() if actual.get(key) != value]
