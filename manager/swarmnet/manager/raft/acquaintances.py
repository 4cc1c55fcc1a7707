"""Managers that a member vouches for, but that are no members by this manager's own log.

A manager that was away does not know who joined meanwhile, and a leader whose removal of another was never
agreed on no longer counts it: such a one may lead now, and only its appends can put this log right. So who
hears no leader is told by those it asks for their vote who the members are, and listens to them for a while:
to leaders and candidates. Their replies and votes count only once this log says that they are members.
(Ongaro, Consensus: Bridging Theory and Practice, 4.1: servers process requests from servers that are not in
their latest configuration.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from swarmnet.manager.raft.member import Member

_LISTEN_S: Final = 10.0
"""After the last introduction: who was removed since is not listened to for ever."""
_HEARD: Final = frozenset(("append_entries", "request_vote", "pre_vote_request", "probe"))


class Acquaintances:
    """Pure: times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._met: dict[str, tuple[Member, float]] = {}

    def introduced(self, managers: Iterable[Member], now: float) -> None:
        """A member says who the members are."""
        self._met |= {each.node_id: (each, now + _LISTEN_S) for each in managers}

    def beside(self, members: Mapping[str, Member], now: float) -> dict[str, Member]:
        """Whom to listen to beside the members."""
        if not self._met:
            return {}
        self._met = {node_id: met for node_id, met in self._met.items() if now < met[1]}
        return {node_id: each for node_id, (each, _) in self._met.items() if node_id not in members}

    def may_say(self, node_id: str, kind: str, now: float) -> bool:
        """Whether to listen to a message of that type (guard.Message) of one that is no member."""
        return kind in _HEARD and node_id in self.beside({}, now)
