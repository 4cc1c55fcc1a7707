"""The IPsec steps of a plan, in batches, and what is there of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from swarmnet.core.datapath.plan import PutSa
from swarmnet.core.datapath.xfrm import Policy, Sa
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.ledger import Count, Ledger
from swarmnet.worker.datapath.netlink import Message, Netlink
from swarmnet.worker.datapath.outcome import Outcome

Owned = TypeVar("Owned", Policy, Sa)


@dataclass(frozen=True, slots=True)
class _Request:
    """One step: `network` is to blame if the last of `messages` is refused; `done` notes that it was not.

    `removes`: that the object is missing already is as good as having removed it.
    """

    network: str
    what: str
    messages: list[Message]
    done: Callable[[], object]
    removes: bool = False


class Ipsec:
    """SAs and policies of the underlay's namespace. `netlink` is None on a kernel without XFRM."""

    def __init__(self, netlink: Netlink | None, ledger: Ledger) -> None:
        self._netlink = netlink
        self._ledger = ledger

    def sas(self) -> list[tuple[Sa, xfrm.SaUse]]:
        """Ours, with what each has done so far."""
        return xfrm.list_sas(self._netlink) if self._netlink else []

    def policies(self) -> list[Policy]:
        return xfrm.list_policies(self._netlink) if self._netlink else []

    def put_policies(self, policies: Iterable[Policy], outcome: Outcome) -> None:
        known = outcome.actual.policies
        self._execute(
            [
                _Request(
                    outcome.owner(each.port),
                    _describe(each),
                    [xfrm.put_policy(each)],
                    lambda each=each: known.update({each.id: each}),  # type: ignore[misc]
                )
                for each in policies
                if outcome.owner(each.port) not in outcome.failures
            ],
            outcome,
        )

    def drop_policies(self, policies: Iterable[Policy], outcome: Outcome) -> None:
        self._drop(policies, xfrm.delete_policy, outcome.actual.policies, outcome)

    def put_sas(self, steps: Iterable[PutSa], outcome: Outcome) -> None:
        """The ledger has them before the kernel has."""
        known = outcome.actual.sas
        wanted = [step for step in steps if outcome.owner(step.sa.port) not in outcome.failures]
        try:
            self._ledger.end(self._counts(step.sa for step in wanted if step.replaces))
            begins = self._ledger.begin(step.sa for step in wanted)
        except OSError as error:
            for step in wanted:
                outcome.failed(outcome.owner(step.sa.port), f"ledger of used keys: {error}")
            return
        self._execute(
            [
                _Request(
                    outcome.owner(step.sa.port),
                    _describe(step.sa),
                    [
                        *([xfrm.delete_sa(step.sa)] if step.replaces else []),
                        xfrm.new_sa(step.sa, begins[step.sa.fingerprint]),
                    ],
                    lambda sa=step.sa: known.update({sa.id: sa}),  # type: ignore[misc]
                )
                for step in wanted
            ],
            outcome,
        )

    def drop_sas(self, sas: Iterable[Sa], outcome: Outcome) -> None:
        """The ledger has them after: what is in between is taken for lost."""
        gone = list(sas)
        counts = self._counts(gone) if self._ledger.knows(gone) else {}
        self._drop(gone, xfrm.delete_sa, outcome.actual.sas, outcome)
        still = {sa.fingerprint for sa in outcome.actual.sas.values()}
        try:
            self._ledger.end({key: count for key, count in counts.items() if key not in still})
        except OSError as error:
            for sa in gone:
                outcome.failed(outcome.owner(sa.port), f"ledger of used keys: {error}")

    def _counts(self, sas: Iterable[Sa]) -> dict[str, Count]:
        """How far those of them are that the kernel has, by fingerprint."""
        ids = {sa.id for sa in sas}
        return {sa.fingerprint: use.count for sa, use in self.sas() if sa.id in ids} if ids else {}

    def _drop(
        self,
        gone: Iterable[Owned],
        delete: Callable[[Owned], Message],
        known: dict[Any, Owned],
        outcome: Outcome,
    ) -> None:
        self._execute(
            [
                _Request(
                    outcome.owner(each.port),
                    _describe(each),
                    [delete(each)],
                    partial(known.pop, each.id, None),
                    removes=True,
                )
                for each in gone
            ],
            outcome,
        )

    def _execute(self, requests: Sequence[_Request], outcome: Outcome) -> None:
        """All in one batch. Of a request with several messages the last one decides."""
        if self._netlink is None:
            for request in requests:
                outcome.failed(request.network, f"{request.what}: this kernel has no XFRM")
            return
        answers = iter(self._netlink.batch([message for each in requests for message in each.messages]))
        for request in requests:
            answer = [next(answers) for _ in request.messages][-1]
            if answer is None or (request.removes and answer.missing):
                request.done()
            else:
                outcome.failed(request.network, f"{request.what}: {answer.strerror}")


def _describe(item: Policy | Sa) -> str:
    if isinstance(item, Sa):
        return f"SA {item.spi:#010x} {item.source} to {item.destination}"
    return f"guard {item.direction.name.lower()}" if item.guard else f"policy to {item.destination}"
