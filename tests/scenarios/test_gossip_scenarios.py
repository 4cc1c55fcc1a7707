"""Gossip scenarios as text: a command, a line of dashes, what came of it, an empty line.

    start NODE...            the nodes come up, each knowing those before it
    publish NODE [IP...]     the whole of the node's endpoints
    crash NODE               without a word
    leave NODE               with a goodbye
    cut NODE... | NODE...    no message passes between the two groups
    heal                     it does again
    keys NODE... EPOCH...    those nodes get these epochs of the network; the one with a * is current
    run SECONDS              lets time pass

What came of it: the events at each node, then what the nodes see where that has changed.
`SCENARIOS=rewrite pytest tests/scenarios` writes the traces anew: read the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sim.cluster import NETWORK, Cluster, groups, scope_epochs

from swarmnet.core.gossip.events import EndpointsChanged, Event, MemberChanged, MemberDown, MemberUp
from swarmnet.core.gossip.members import State

FILES = sorted((Path(__file__).parent / "gossip").glob("*.txt"))
_DASHES = "----"


def describe(event: Event) -> str:
    match event:
        case MemberUp(node_id):
            return f"{node_id} is up"
        case MemberChanged(node_id):
            return f"{node_id} has changed"
        case MemberDown(node_id, left):
            return f"{node_id} {'has left' if left else 'has failed'}"
        case EndpointsChanged():
            return "endpoints changed"


class Scenario:
    """A cluster that is told what to do in words."""

    def __init__(self, nodes: frozenset[str]) -> None:
        self._cluster = Cluster(1)
        self._cluster.peers = nodes
        self._told: dict[str, int] = {}
        self._seen: dict[str, str] = {}

    def do(self, command: str) -> str:
        verb, *words = command.split()
        getattr(self, f"_{verb}")(*words)
        return "\n".join([*self._events(), *self._views()]) or "(nothing)"

    def _start(self, *names: str) -> None:
        for name in names:
            self._told.pop(name, None)
            self._cluster.start(name)
        self._cluster.run(0.5)

    def _publish(self, name: str, *ips: str) -> None:
        self._cluster.publish(name, *ips)
        self._cluster.run(0.5)

    def _crash(self, name: str) -> None:
        self._cluster.crash(name)
        self._seen.pop(name, None)

    def _leave(self, name: str) -> None:
        node = self._cluster.nodes[name]
        node.core.leave(node.clock.read(self._cluster.now))
        self._cluster.settle(node)
        self._cluster.run(0.5)
        self._crash(name)

    def _cut(self, *words: str) -> None:
        bar = words.index("|")
        self._cluster.wire.cut = groups(words[:bar], words[bar + 1 :])

    def _heal(self) -> None:
        self._cluster.wire.cut = None

    def _keys(self, *words: str) -> None:
        names = [word for word in words if word.startswith("n")]
        numbers = [word for word in words if word not in names]
        current = next(int(word[:-1]) for word in numbers if word.endswith("*"))
        keys = scope_epochs(NETWORK, *(int(word.rstrip("*")) for word in numbers), current=current)
        for name in names:
            self._cluster.nodes[name].core.set_epochs(keys)
            self._cluster.settle(self._cluster.nodes[name])

    def _run(self, seconds: str) -> None:
        self._cluster.run(float(seconds))

    def _events(self) -> Iterator[str]:
        for name, node in sorted(self._cluster.nodes.items()):
            fresh = [describe(event) for _, event in node.events[self._told.get(name, 0) :]]
            self._told[name] = len(node.events)
            if fresh:
                yield f"{name}: {', '.join(dict.fromkeys(fresh))}"

    def _views(self) -> Iterator[str]:
        for name, node in sorted(self._cluster.nodes.items()):
            members = sorted(node.core.members(), key=lambda each: each.node_id)
            shown = [
                m.node_id if m.state is State.ALIVE else f"{m.node_id}({m.state.name.lower()})"
                for m in members
            ]
            ips = [str(endpoint.ip) for endpoint in node.core.endpoints(NETWORK)]
            view = f"{name} sees {' '.join(shown)}; endpoints {' '.join(ips) or 'none'}"
            if self._seen.get(name) != view:
                self._seen[name] = view
                yield view


def parse(text: str) -> tuple[str, list[tuple[str, str]]]:
    """(title, [(command, trace)])."""
    title, *blocks = [block.strip("\n") for block in text.split("\n\n") if block.strip()]
    steps = []
    for block in blocks:
        command, _, trace = block.partition("\n")
        steps.append((command, trace.removeprefix(_DASHES).strip("\n")))
    return title, steps


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_scenario(path: Path) -> None:
    title, steps = parse(path.read_text())
    scenario = Scenario(frozenset(word for c, _ in steps for word in c.split() if word[:2] == "n0"))
    played = [(command, scenario.do(command)) for command, _ in steps]
    if os.environ.get("SCENARIOS") == "rewrite":
        blocks = (f"{command}\n{_DASHES}\n{trace}" for command, trace in played)
        path.write_text("\n\n".join([title, *blocks]) + "\n")
    assert played == steps or os.environ.get("SCENARIOS") == "rewrite"
