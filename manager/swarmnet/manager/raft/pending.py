"""Requests that wait for the engine, with a deadline of ours: the library may never call back."""

from __future__ import annotations

import asyncio

from swarmnet.core.errors import NotLeader, OutcomeUnknown, SwarmnetError

Answer = asyncio.Future[object]


class Pending:
    """Event loop only."""

    def __init__(self) -> None:
        self._waiting: set[Answer] = set()

    def expect(self) -> Answer:
        """An answer to come; it may be cancelled."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        answer.add_done_callback(self._waiting.discard)
        return answer

    def give_up(self, error: SwarmnetError) -> None:
        """Answer all that wait with this error."""
        for answer in list(self._waiting):
            settle(answer, error)


def settle(answer: Answer, outcome: object) -> None:
    """Answer with a result, or with an error if it is one; nothing if nobody waits any more."""
    if answer.done():
        return
    if isinstance(outcome, SwarmnetError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def settle_read(answer: Answer, current: bool) -> None:
    """Answer one that reads: what it sees now is current, or another manager is to be asked."""
    settle(answer, None if current else NotLeader("this manager no longer leads", hint="Ask the new leader."))


async def outcome_of(answer: Answer, timeout_s: float) -> object:
    """The answer, or the error it is; OutcomeUnknown when it does not come in time."""
    timer = asyncio.get_running_loop().call_later(timeout_s, _too_late, answer, timeout_s)
    try:
        return await answer
    finally:
        timer.cancel()


def _too_late(answer: Answer, timeout_s: float) -> None:
    unknown = OutcomeUnknown(
        f"the managers did not agree within {timeout_s:g} s; the change may still be made",
        hint="Are more than half of the managers up? Look whether it was made before you repeat it.",
    )
    settle(answer, unknown)
