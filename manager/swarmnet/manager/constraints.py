"""Placement constraints of services, as docker writes them: node.labels.zone==a, node.hostname!=w1."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument

_FORM: Final = re.compile(r"\s*(?P<key>[\w.-]+?)\s*(?P<operator>==|!=)\s*(?P<value>\S(?:.*\S)?)\s*")
_LABELS: Final = "node.labels."
_ROLES: Final = {types.ROLE_MANAGER: "manager", types.ROLE_WORKER: "worker"}


@dataclass(frozen=True, slots=True)
class Constraint:
    text: str
    key: str
    equal: bool
    value: str

    def allows(self, node: types.Node) -> bool:
        """A label that the node does not have differs from every value."""
        return (self._actual(node) == self.value) is self.equal

    def _actual(self, node: types.Node) -> str | None:
        if self.key.startswith(_LABELS):
            return node.labels.get(self.key.removeprefix(_LABELS))
        if self.key == "node.role":
            return _ROLES.get(node.role)
        return node.meta.id if self.key == "node.id" else node.hostname


def parse_constraint(text: str) -> Constraint:
    """InvalidArgument for anything that is not of the form KEY==VALUE or KEY!=VALUE with a known key."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"invalid constraint {text!r}",
            hint="Write it as KEY==VALUE or KEY!=VALUE, for example node.labels.zone==a.",
        )
    key = found["key"]
    known = key in ("node.id", "node.hostname", "node.role")
    if not known and not (key.startswith(_LABELS) and len(key) > len(_LABELS)):
        raise InvalidArgument(
            f"invalid constraint {text!r}: nothing is known as {key!r}",
            hint="Use node.id, node.hostname, node.role or node.labels.NAME.",
        )
    return Constraint(text, key, found["operator"] == "==", found["value"])


def parse_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    return tuple(parse_constraint(text) for text in texts)
