"""The two fleets that bench/gossip.py compares: processes that take commands, each in its own network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.gossip_fleet import NETWORK, Managers

from swarmnet.core.gossip.messages import delta_frames
from swarmnet.core.gossip.table import Delta, Entry
from swarmnet.core.ids import make_id

ROOT: Final = Path(__file__).parents[1]
OURS: Final = "swarmnet"
PEER: Final = "memberlist"
_COMMANDS: Final = {
    OURS: [sys.executable, "-m", "bench.gossip_fleet"],
    PEER: [str(ROOT / "out/bench-memberlist")],
}
_ALONE: Final = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

Answer = dict[str, Any]


class Fleet:
    """A fleet's process; it ends with the `with` block."""

    def __init__(self, side: str) -> None:
        self._process = subprocess.Popen(
            [*_ALONE, *_COMMANDS[side]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def do(self, what: str, **arguments: Any) -> Answer:
        """The answer of that command; what is null in it is not there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
        if not (raw := self._process.stdout.readline()):
            raise RuntimeError(f"the fleet of {self._process.args!r} ended before it answered {what}")
        return {key: value for key, value in json.loads(raw).items() if value is not None}


def update_bytes() -> int:
    """How long one endpoint of ours is in a datagram, if no others were placed with it."""
    owner = make_id(bytes(range(16)))
    endpoint, signature = Managers().signed([owner])[0]
    time = 1_700_000_000_000
    entry = Entry(owner, endpoint.task_id, time, endpoint, signature)
    ((_, frame),) = delta_frames(Delta(owner, time - 1, time, (entry,)))
    assert endpoint.network_id == NETWORK
    return len(frame)
