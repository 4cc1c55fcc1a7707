"""What keeps a task off a node. Each filter can say so in words, for `service ps`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.manager.constraints import Constraint
from swarmnet.manager.roles import is_leaving_work

_NAMED: Final = 3
"""As many nodes an explanation names."""
_LONGEST_REASON: Final = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """What a task needs of its node."""

    image: str
    encrypted: bool = False
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """`explain` is given the nodes that did not pass, at least one."""

    passes: Callable[[Ask, types.Node], bool]
    explain: Callable[[Ask, Sequence[types.Node]], str]


def _count(nodes: Sequence[types.Node]) -> str:
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}"


def _named(nodes: Sequence[types.Node], why: Callable[[types.Node], str] = lambda _: "") -> str:
    said = [f"{node.hostname}: {why(node)}" if why(node) else node.hostname for node in nodes[:_NAMED]]
    return ", ".join([*said, "..."] if len(nodes) > _NAMED else said)


def _explain_constraints(ask: Ask, nodes: Sequence[types.Node]) -> str:
    unmet = (c.text for c in ask.constraints if not all(c.allows(node) for node in nodes))
    return f"constraint {', '.join(unmet)} not met by {_count(nodes)}"


FENCED: Final = Filter(
    lambda _, node: not node.fenced,
    lambda _, nodes: f"{_count(nodes)} fenced: {_named(nodes, lambda n: n.message)}",
)
READY: Final = Filter(
    lambda _, node: node.state == types.NODE_STATE_READY,
    lambda _, nodes: f"{_count(nodes)} not ready: {_named(nodes, lambda n: n.message)}",
)
AVAILABLE: Final = Filter(
    lambda _, node: node.availability == types.AVAILABILITY_ACTIVE,
    lambda _, nodes: f"{_count(nodes)} paused or drained: {_named(nodes)}",
)
ROLE: Final = Filter(
    lambda _, node: not is_leaving_work(node),
    lambda _, nodes: f"{_count(nodes)} becoming a manager: {_named(nodes)}",
)
ESP: Final = Filter(
    lambda ask, node: node.capabilities.esp or not ask.encrypted,
    lambda _, nodes: f"{_count(nodes)} without ESP: {_named(nodes, lambda n: n.capabilities.esp_reason)}",
)
IMAGE: Final = Filter(
    lambda ask, node: ask.image in node.capabilities.images or ask.image == "host",
    lambda ask, nodes: f'image "{ask.image}" not on {_count(nodes)}',
)
CONSTRAINTS: Final = Filter(
    lambda ask, node: all(constraint.allows(node) for constraint in ask.constraints),
    _explain_constraints,
)
PIPELINE: Final = (FENCED, READY, AVAILABLE, ROLE, CONSTRAINTS, ESP, IMAGE)


def suitable(ask: Ask, nodes: Sequence[types.Node]) -> tuple[list[types.Node], str]:
    """The nodes that pass every filter; where there is none, why."""
    left, reasons = list(nodes), []
    for each in PIPELINE:
        refused = [node for node in left if not each.passes(ask, node)]
        if refused:
            reasons.append(each.explain(ask, refused))
            left = [node for node in left if each.passes(ask, node)]
    if left:
        return left, ""
    why = "; ".join(reasons) or "the swarm has no workers"
    return [], f"no suitable node ({why[:_LONGEST_REASON]})"
