"""A swarmnet-manager with one thing wrong: senders move to a key before receivers have it.

It stands in for the managers in the experiment's last part, to show that the measurement can fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.rotation import Report
from swarmnet.manager import main

_gated = rotation.waiting_for


def _ungated(scope: types.KeyScope, up: Iterable[str], reports: Mapping[str, Report]) -> frozenset[str]:
    return frozenset() if scope.phase == rotation.PREPARE else _gated(scope, up, reports)


rotation.waiting_for = _ungated

if __name__ == "__main__":
    main.main()
