"""Sealing: every gossip message is AES-256-GCM, its header authenticated. The layout stands in gossip.proto.

    key    gossip_key(epoch, sender): no two senders share one
    nonce  boot (32 random bits, new at each start of the sender) and counter (64 bits): none comes twice
    open   any epoch that is held; seal: the current one only

A message is refused, with nothing changed, unless it is of a known scope and epoch, of another sender,
genuine, and neither seen before nor too old to tell. Windows are kept per (scope, sender, boot): a restarted
sender begins a new one. What an earlier boot once said may be accepted again from a recording; the layers
above are built so that old news is no news.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.core.epochs import Epochs
from swarmnet.core.keys import gossip_key
from swarmnet.core.replay import ReplayWindow

VERSION: Final = 1
_FIXED: Final = struct.Struct("!BB8sQIQB")
_TAG_BYTES: Final = 16
_MAX_SENDER_BYTES: Final = 64
_MAX_SENDERS: Final = 65_536
_MAX_BOOTS: Final = 8
_MAX_CIPHERS: Final = 8192


class Kind(Enum):
    DATAGRAM = 1
    SYNC_REQUEST = 2
    SYNC_REPLY = 3


class Refusal(Enum):
    """Why a message was dropped; the value is the name of its counter."""

    MALFORMED = "dropped_malformed"
    UNKNOWN_SCOPE = "dropped_unknown_scope"
    UNKNOWN_EPOCH = "dropped_unknown_epoch"
    REFLECTED = "dropped_reflected"
    FORGED = "dropped_forged"
    REPLAYED = "dropped_replayed"


class Refused(Exception):
    """The message is not to be believed; the state is as before."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class Opened:
    scope: str
    kind: Kind
    sender: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    kind: Kind
    tag: bytes
    epoch: int
    boot: int
    counter: int
    sender: str
    length: int

    @property
    def nonce(self) -> bytes:
        return _nonce(self.boot, self.counter)


def scope_tag(scope: str) -> bytes:
    return sha256(b"swarmnet/1 scope" + scope.encode()).digest()[:8]


def overhead(sender: str) -> int:
    """Bytes that sealing adds to a body."""
    return _FIXED.size + len(sender.encode()) + _TAG_BYTES


def _nonce(boot: int, counter: int) -> bytes:
    return struct.pack("!IQ", boot, counter)


def _parse(message: bytes) -> _Header:
    if len(message) < _FIXED.size + _TAG_BYTES:
        raise Refused(Refusal.MALFORMED)
    version, kind, tag, epoch, boot, counter, size = _FIXED.unpack_from(message)
    length = _FIXED.size + size
    if version != VERSION or not 1 <= size <= _MAX_SENDER_BYTES or len(message) < length + _TAG_BYTES:
        raise Refused(Refusal.MALFORMED)
    try:
        sender = message[_FIXED.size : length].decode("ascii")
        return _Header(Kind(kind), tag, epoch, boot, counter, sender, length)
    except ValueError as error:
        raise Refused(Refusal.MALFORMED) from error


class Sealer:
    """One node's sealing and opening, for all scopes that it holds.

    `boot`: 32 random bits, new at each start: two boots of a node must not share one, or nonces could repeat.
    """

    def __init__(self, node_id: str, boot: int) -> None:
        self._node_id = node_id
        self._boot = boot
        self._counter = 0
        self._scopes: dict[bytes, Epochs] = {}
        self._ciphers: OrderedDict[tuple[bytes, int, str], AESGCM] = OrderedDict()
        self._windows: OrderedDict[tuple[bytes, str], OrderedDict[int, ReplayWindow]] = OrderedDict()

    def set_epochs(self, epochs: Epochs) -> None:
        """From now on exactly these epochs of the scope are accepted."""
        tag = scope_tag(epochs.scope)
        self._drop_ciphers(tag)
        self._scopes[tag] = epochs

    def forget(self, scope: str) -> None:
        tag = scope_tag(scope)
        self._scopes.pop(tag, None)
        self._drop_ciphers(tag)
        for key in [key for key in self._windows if key[0] == tag]:
            del self._windows[key]

    def epochs(self, scope: str) -> Epochs | None:
        return self._scopes.get(scope_tag(scope))

    def can_seal(self, scope: str) -> bool:
        epochs = self.epochs(scope)
        return epochs is not None and epochs.current is not None

    def seal(self, scope: str, kind: Kind, body: bytes) -> bytes:
        """KeyError without a current epoch of the scope: nothing is ever sent in clear."""
        tag = scope_tag(scope)
        epoch = self._scopes[tag].current
        if epoch is None:
            raise KeyError(scope)
        self._counter += 1
        sender = self._node_id.encode()
        head = _FIXED.pack(VERSION, kind.value, tag, epoch.number, self._boot, self._counter, len(sender))
        cipher = self._cipher(tag, epoch.number, self._node_id)
        return head + sender + cipher.encrypt(_nonce(self._boot, self._counter), body, head + sender)

    def open(self, message: bytes) -> Opened:
        """The body, once the message has proved genuine and new; Refused otherwise."""
        header = _parse(message)
        epochs = self._scopes.get(header.tag)
        if epochs is None:
            raise Refused(Refusal.UNKNOWN_SCOPE)
        if header.epoch not in epochs.numbers():
            raise Refused(Refusal.UNKNOWN_EPOCH)
        if header.sender == self._node_id:
            raise Refused(Refusal.REFLECTED)
        boots = self._windows.get((header.tag, header.sender))
        window = boots.get(header.boot) if boots else None
        if window is not None and not window.fresh(header.counter):
            raise Refused(Refusal.REPLAYED)
        body = self._decrypt(header, message)
        if not self._window(header).accept(header.counter):
            raise Refused(Refusal.REPLAYED)
        return Opened(epochs.scope, header.kind, header.sender, body)

    def _decrypt(self, header: _Header, message: bytes) -> bytes:
        cipher = self._cipher(header.tag, header.epoch, header.sender)
        try:
            return cipher.decrypt(header.nonce, message[header.length :], message[: header.length])
        except InvalidTag as error:
            # A made-up sender's key must not stay and push out a real one's.
            self._ciphers.pop((header.tag, header.epoch, header.sender), None)
            raise Refused(Refusal.FORGED) from error

    def _cipher(self, tag: bytes, epoch: int, sender: str) -> AESGCM:
        key = (tag, epoch, sender)
        if (cipher := self._ciphers.get(key)) is not None:
            return cipher
        live = next(each for each in self._scopes[tag].live if each.number == epoch)
        cipher = AESGCM(gossip_key(live.secret, sender).reveal())
        self._ciphers[key] = cipher
        if len(self._ciphers) > _MAX_CIPHERS:
            self._ciphers.popitem(last=False)
        return cipher

    def _window(self, header: _Header) -> ReplayWindow:
        """The window of the sender's boot, made if need be; the longest unused ones make room."""
        key = (header.tag, header.sender)
        boots = self._windows.setdefault(key, OrderedDict())
        self._windows.move_to_end(key)
        window = boots.setdefault(header.boot, ReplayWindow())
        boots.move_to_end(header.boot)
        if len(boots) > _MAX_BOOTS:
            boots.popitem(last=False)
        if len(self._windows) > _MAX_SENDERS:
            self._windows.popitem(last=False)
        return window

    def _drop_ciphers(self, tag: bytes) -> None:
        for key in [key for key in self._ciphers if key[0] == tag]:
            del self._ciphers[key]
