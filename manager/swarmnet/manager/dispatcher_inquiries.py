"""Questions of operators to workers, over the sessions that these have: each is given some time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.limits import QUESTION_TIMEOUT_S
from swarmnet.manager.dispatcher_session import WorkerSession

_NOT_CONNECTED: Final = "it has no session with the managers"
_SILENT: Final = f"no answer within {QUESTION_TIMEOUT_S:g} s"


class Inquiries:
    """`sessions`: the open ones, by node id. Answers that nobody waits for are dropped."""

    def __init__(self, sessions: Callable[[], Mapping[str, WorkerSession]]) -> None:
        self._sessions = sessions
        self._ids = count(1)
        self._waiting: dict[tuple[str, int], asyncio.Future[dispatcher.Answer]] = {}

    async def ask(
        self, node_ids: Collection[str], question: dispatcher.Question
    ) -> dict[str, dispatcher.Answer]:
        """An answer of each node; of one that gives none, an answer that says why not."""
        answers = await asyncio.gather(*(self._ask(node_id, question) for node_id in node_ids))
        return dict(zip(node_ids, answers, strict=True))

    def take(self, node_id: str, answer: dispatcher.Answer) -> None:
        waiting = self._waiting.get((node_id, answer.id))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    async def _ask(self, node_id: str, question: dispatcher.Question) -> dispatcher.Answer:
        session = self._sessions().get(node_id)
        if session is None:
            return dispatcher.Answer(error=_NOT_CONNECTED)
        asked = dispatcher.Question()
        asked.CopyFrom(question)
        asked.id = next(self._ids)
        key = node_id, asked.id
        self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            session.ask(asked)
            return await asyncio.wait_for(self._waiting[key], QUESTION_TIMEOUT_S)
        except TimeoutError:
            return dispatcher.Answer(error=_SILENT)
        finally:
            del self._waiting[key]
