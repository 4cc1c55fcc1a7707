"""Syncs by TCP, both sides: what one asks, answers and takes over, of the members and of each network's
table.

    ask -> SyncRequest -> begun(challenge) -> request ~~> answer(request, challenge) -> reply ~~>
    answered(reply)

The first request shows little: a digest, a vector. The reply has what is missing there, and says what is
missing here; if there is anything, a second sync brings it. So two nodes that have the same exchange a few
bytes, at any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip import messages, sync
from swarmnet.core.gossip.events import SyncRequest
from swarmnet.core.gossip.limits import MAX_ENTRIES, MAX_SYNC_BYTES
from swarmnet.core.gossip.members import Rumor
from swarmnet.core.gossip.names import Malformed
from swarmnet.core.gossip.network import Network
from swarmnet.core.gossip.seal import Opened, Sealer
from swarmnet.core.gossip.swim import Swim
from swarmnet.core.keys import GOSSIP_SCOPE


@dataclass(frozen=True, slots=True)
class Takers:
    """Where what came goes."""

    rumors: Callable[[Iterable[Rumor], float], None]
    deltas: Callable[[Network, Iterable[bytes], float], None]


class Exchange:
    """`requests` is where a SyncRequest is put that is to be done."""

    def __init__(
        self,
        *,
        sealer: Sealer,
        swim: Swim,
        networks: Mapping[str, Network],
        takers: Takers,
        counters: Counter[str],
        requests: Callable[[SyncRequest], None],
    ) -> None:
        self._sealer = sealer
        self._swim = swim
        self._networks = networks
        self._takers = takers
        self._counters = counters
        self._requests = requests
        self._tickets = sync.Tickets()

    def __len__(self) -> int:
        return len(self._tickets)

    def asks(self, scope: str) -> bool:
        """Whether a sync of that scope is under way."""
        return self._tickets.under_way(scope) > 0

    # -- who asks ------------------------------------------------------------------------------------------

    def ask(self, scope: str, node_id: str, address: str = "", body: bytes | None = None) -> None:
        """Nothing if that is under way already, or cannot be."""
        member = self._swim.members.get(node_id)
        address = address or (member.address if member else "")
        if not address or not self._sealer.can_seal(scope):
            return
        if (ticket := self._tickets.issue(scope, node_id)) is not None:
            ticket.body = body
            self._requests(SyncRequest(ticket.number, address))

    def begun(self, number: int, challenge: bytes) -> bytes | None:
        """The request to send; None if there is nothing to say any more."""
        ticket = self._tickets.get(number)
        if ticket is None or not self._sealer.can_seal(ticket.scope):
            return None
        ticket.challenge = challenge
        if ticket.scope == GOSSIP_SCOPE:
            said = [self._swim.me] if ticket.body is None else self._swim.everything()
            body = sync.cluster_body(number, self._swim.digest, said)
        elif (network := self._networks.get(ticket.scope)) is not None:
            vector = network.vector(MAX_SYNC_BYTES) if ticket.body is None else None
            body = sync.network_body(number, vector) + (ticket.body or b"")
        else:
            return None
        return self._sealer.seal_request(ticket.scope, body, ticket.node_id, challenge)

    def answered(self, number: int, reply: bytes | None, now: float) -> str | None:
        """Who has proved to be there by this reply. Refused or Malformed if it is none."""
        ticket = self._tickets.redeem(number)
        if ticket is None or reply is None:
            self._counters["syncs_failed"] += 1
            return None
        opened = self._sealer.open_reply(reply, ticket.node_id, ticket.challenge)
        if opened.scope != ticket.scope:
            raise Malformed("another scope's reply")
        if opened.scope == GOSSIP_SCOPE:
            self._cluster_answered(opened, ticket, now)
        else:
            self._network_answered(opened, ticket, now)
        self._counters["syncs_done"] += 1
        return opened.sender

    def _cluster_answered(self, opened: Opened, ticket: sync.Ticket, now: float) -> None:
        body = messages.parse(pb.ClusterSync, opened.body)
        _check(body.ticket, ticket)
        self._takers.rumors(messages.rumors(body.rumors), now)
        if ticket.body is None and body.members != self._swim.digest:
            self.ask(GOSSIP_SCOPE, ticket.node_id, body=b"all")

    def _network_answered(self, opened: Opened, ticket: sync.Ticket, now: float) -> None:
        body = messages.parse(pb.NetworkSync, opened.body)
        _check(body.ticket, ticket)
        network = self._networks.get(opened.scope)
        if network is None:
            return
        self._takers.deltas(network, body.deltas, now)
        network.agreed_at = now
        if ticket.body is None and (frames := network.repairs(body.vector, MAX_ENTRIES)):
            self.ask(network.id, ticket.node_id, body=sync.fitting(frames))

    # -- who is asked --------------------------------------------------------------------------------------

    def answer(self, request: bytes, challenge: bytes, now: float) -> tuple[str, bytes]:
        """Who asked, and the reply. Refused or Malformed if it is no request."""
        opened = self._sealer.open_request(request, challenge)
        if not self._sealer.can_seal(opened.scope):
            raise Malformed("nothing to answer with")
        if opened.scope == GOSSIP_SCOPE:
            reply = self._cluster_reply(opened, now)
        else:
            reply = self._network_reply(opened, now)
        self._counters["syncs_answered"] += 1
        return opened.sender, self._sealer.seal_reply(opened.scope, reply, opened.to, challenge)

    def _cluster_reply(self, opened: Opened, now: float) -> bytes:
        body = messages.parse(pb.ClusterSync, opened.body)
        self._takers.rumors(messages.rumors(body.rumors), now)
        digest = self._swim.digest
        said = [self._swim.me] if digest == body.members else self._swim.everything()
        return sync.cluster_body(body.ticket, digest, said)

    def _network_reply(self, opened: Opened, now: float) -> bytes:
        body = messages.parse(pb.NetworkSync, opened.body)
        network = self._networks.get(opened.scope)
        if network is None:
            raise Malformed("not on that network")
        self._takers.deltas(network, body.deltas, now)
        network.disputes(body.vector, now)
        frames = network.repairs(body.vector, MAX_ENTRIES) if body.HasField("vector") else []
        return sync.network_body(body.ticket, network.lacking(body.vector), frames)


def _check(said: int, ticket: sync.Ticket) -> None:
    if said != ticket.number:
        raise Malformed("another request's reply")
