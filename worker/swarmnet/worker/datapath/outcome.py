"""What became of a plan while it is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from swarmnet.core.datapath.layout import Layout


@dataclass(slots=True)
class Outcome:
    """`actual` is kept true step by step; `failures`: of each network or task, the first thing that failed.

    `owners` names the network of each UDP port. Once a step of a network has failed, no later step that would
    build on it is taken: no device without guards, no policy without SAs, no task without its networks.
    """

    actual: Layout
    owners: Mapping[int, str]
    failures: dict[str, str] = field(default_factory=dict)

    def owner(self, port: int) -> str:
        """The network with that port, or the port, for what a network left that is no longer wanted."""
        return self.owners.get(port, f"udp port {port}")

    def failed(self, name: str, reason: str) -> None:
        self.failures.setdefault(name, reason)

    @contextmanager
    def blaming(self, name: str, what: str) -> Iterator[None]:
        """The system's refusal of a step becomes the failure of its network or task."""
        try:
            yield
        except OSError as error:
            self.failed(name, f"{what}: {error.strerror or error}")
