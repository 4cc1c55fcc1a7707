"""A change of this host's role that is under way, on disk: what a restarted manager goes on with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from swarmnet.core.errors import Internal
from swarmnet.manager.ca.write import write_file
from swarmnet.manager.identity import CallerRole

_FILE: Final = "role-change.json"


@dataclass(frozen=True, slots=True)
class RoleChange:
    """`managers` are host:port of others.

    `to` MANAGER: the identity is a manager's and not in Raft yet. `to` WORKER: it has left Raft, and waits
    for its host's worker to take it over.
    """

    to: CallerRole
    managers: tuple[str, ...]


class RoleChangeFile:
    """Of one state directory; what erases that takes it away too."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def save(self, change: RoleChange) -> None:
        fields = asdict(change) | {"to": change.to.value}
        write_file(self._path, json.dumps(fields).encode())

    def load(self) -> RoleChange | None:
        """None when there is none. Internal for a damaged file."""
        if not self._path.exists():
            return None
        try:
            fields = json.loads(self._path.read_bytes())
            return RoleChange(CallerRole(fields["to"]), tuple(map(str, fields["managers"])))
        except (ValueError, KeyError, TypeError) as error:
            raise Internal(
                f"{self._path} is damaged",
                hint="Remove this manager on another one, empty the state directory and join again.",
            ) from error

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)
