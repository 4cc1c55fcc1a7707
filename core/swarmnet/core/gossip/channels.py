"""Who is heard: the members that are there, each at one boot, with the counters that were seen of it.

A channel is a sender in one scope. It comes with the first datagram of a member and goes when there are too
many: all that it holds can be made again. The windows cannot, so they stay when a member is forgotten and
when it restarts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.core.gossip.limits import MAX_BOOTS, MAX_CHANNELS, MAX_MEMBERS
from swarmnet.core.gossip.names import HANDLE_BYTES, SCOPE_TAG_BYTES, handle
from swarmnet.core.replay import ReplayWindow

_NOWHERE: Final = b""


class Sender:
    """A node at the boot at which it is heard; none while it is not known to be there."""

    __slots__ = ("_windows", "binding", "boot", "node_id", "window")

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.boot = _NOWHERE
        self.binding = b""
        self.window = ReplayWindow()
        self._windows: OrderedDict[bytes, ReplayWindow] = OrderedDict()

    def at(self, boot: bytes) -> None:
        self.boot = boot
        self.binding = handle(self.node_id) + boot
        self.window = self.window_of(boot)

    def window_of(self, boot: bytes) -> ReplayWindow:
        window = self._windows.setdefault(boot, ReplayWindow())
        self._windows.move_to_end(boot)
        if len(self._windows) > MAX_BOOTS:
            self._windows.popitem(last=False)
        return window

    def forget_windows(self) -> None:
        self._windows.clear()
        self.window = self.window_of(self.boot)

    def knows(self, boot: bytes) -> bool:
        return boot in self._windows


class Channel:
    """`ciphers` by the lowest 8 bits of the epoch."""

    __slots__ = ("ciphers", "scope", "sender")

    def __init__(self, scope: str, sender: Sender) -> None:
        self.scope = scope
        self.sender = sender
        self.ciphers: dict[int, AESGCM] = {}


class Channels:
    """By scope tag and handle, as they stand in a header."""

    def __init__(self) -> None:
        self._senders: dict[bytes, Sender] = {}
        self._channels: dict[bytes, Channel] = {}
        self.get = self._channels.get

    def meet(self, node_id: str, boot: bytes) -> None:
        key = handle(node_id)
        sender = self._senders.get(key)
        if sender is None:
            if len(self._senders) > MAX_MEMBERS:
                self._let_go()
            sender = self._senders[key] = Sender(node_id)
        sender.at(boot)

    def part(self, node_id: str) -> None:
        if (sender := self._senders.get(handle(node_id))) is not None:
            sender.boot = _NOWHERE

    def make(self, key: bytes, scope: str) -> Channel | None:
        """None if that is nobody who is known."""
        sender = self._senders.get(key[SCOPE_TAG_BYTES : SCOPE_TAG_BYTES + HANDLE_BYTES])
        if sender is None or sender.boot == _NOWHERE:
            return None
        if len(self._channels) >= MAX_CHANNELS:
            del self._channels[next(iter(self._channels))]
        channel = self._channels[key] = Channel(scope, sender)
        return channel

    def usurped(self, node_id: str, boot: bytes, counter: int) -> bool:
        """Whether somebody else must have used that sender's key: it has just said `counter`, beyond doubt,
        and higher ones were seen, above which it would not be heard for long."""
        sender = self._senders.get(handle(node_id))
        return sender is not None and sender.knows(boot) and sender.window_of(boot).beyond(counter)

    def forget_windows(self) -> None:
        """Everything that was ever seen is void: this node has another boot, and none of it was for that."""
        for sender in self._senders.values():
            sender.forget_windows()

    def drop_ciphers(self, tag: bytes) -> None:
        for key, channel in self._channels.items():
            if key.startswith(tag):
                channel.ciphers.clear()

    def drop_scope(self, tag: bytes) -> None:
        for key in [key for key in self._channels if key.startswith(tag)]:
            del self._channels[key]

    def _let_go(self) -> None:
        gone = next((key for key, sender in self._senders.items() if sender.boot == _NOWHERE), None)
        if gone is not None:
            del self._senders[gone]
            for key in [key for key in self._channels if key.endswith(gone)]:
                del self._channels[key]
