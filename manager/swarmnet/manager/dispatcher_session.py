"""The manager's end of one worker's stream: the newest assignment, until somebody closes it."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.errors import InvalidArgument, SwarmnetError
from swarmnet.core.key_chain import KeyOffer


class WorkerSession:
    """Assignments are complete, so only the newest waits to be sent, however slow the worker is.

    `key_offer` is the worker's; InvalidArgument if it is none.
    """

    def __init__(self, node_id: str, key_offer: bytes = b"") -> None:
        self.node_id = node_id
        self._offer = KeyOffer(secrets.token_bytes(32))
        try:
            self._chain = self._offer.managers_end(key_offer) if key_offer else None
        except ValueError as error:
            raise InvalidArgument(f"bad key offer of {len(key_offer)} bytes: {error}") from None
        self._newest: dispatcher.Assignment | None = None
        self._questions: deque[dispatcher.Question] = deque()
        self._unsent = False
        self._sequence = 0
        self._wake = asyncio.Event()
        self._closed = False
        self._error: SwarmnetError | None = None
        self._removed: dispatcher.Removed | None = None

    def offer(self, assignment: dispatcher.Assignment) -> None:
        """Send it, unless it says what the last one said."""
        if assignment != self._newest:
            self._newest = assignment
            self._unsent = True
            self._wake.set()

    def ask(self, question: dispatcher.Question) -> None:
        """Send it, after what waits to be sent."""
        self._questions.append(question)
        self._wake.set()

    def remove(self, removed: dispatcher.Removed) -> None:
        """Tell the worker that it is no longer one of the cluster's, and end."""
        self._removed = removed
        self.close()

    def close(self, error: SwarmnetError | None = None) -> None:
        """End the stream, with the error if there is one. The first closing counts."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wake.set()

    async def messages(self) -> AsyncGenerator[dispatcher.ManagerMessage, None]:
        """What to send, in order. Raises what the session was closed with."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._closed:
                break
            if self._unsent and self._newest is not None:
                self._unsent = False
                yield self._numbered(self._newest)
            while self._questions:
                yield dispatcher.ManagerMessage(question=self._questions.popleft())
        if self._removed is not None:
            yield dispatcher.ManagerMessage(removed=self._removed)
        if self._error is not None:
            raise self._error

    def _numbered(self, assignment: dispatcher.Assignment) -> dispatcher.ManagerMessage:
        self._sequence += 1
        message = dispatcher.ManagerMessage(assignment=assignment)
        message.assignment.sequence = self._sequence
        if self._chain is not None:
            keys = dispatcher.Keys(scopes=message.assignment.keys)
            message.assignment.ClearField("keys")
            message.assignment.sealed_keys = self._chain.seal(keys.SerializeToString())
            message.assignment.key_offer = self._offer.public if self._sequence == 1 else b""
        return message
