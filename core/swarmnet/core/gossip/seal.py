"""Sealing: every gossip message is AES-256-GCM, its header and its receiver authenticated. The layout stands
in gossip.proto.

    key    gossip_key(epoch, sender): no two senders share one
    nonce  boot (32 random bits, new at each start of the sender) and counter (64 bits): none comes twice
    for    the receiver and its boot, or the challenge that the receiver has just made: never sent, but
    authenticated
    open   any epoch that is held; seal: the current one only

A message is refused, with nothing changed and after at most one decryption, unless it is of a known scope
and epoch, of another member at the boot that it is known to have, meant for this boot of this node, genuine,
and neither seen before nor too old to tell. So a recording is nothing to anybody: to its receiver because of
the window, to another or to a restarted one because it is not for them, and after its sender's restart
because of the boot.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.core.epochs import Epochs
from swarmnet.core.gossip.channels import Channel, Channels
from swarmnet.core.gossip.limits import MAX_ID_BYTES
from swarmnet.core.gossip.names import Malformed, handle, pack_id, scope_tag, unpack_id
from swarmnet.core.keys import EpochSecret, gossip_key

VERSION: Final = 1
CHALLENGE_BYTES: Final = 16
HEADER_BYTES: Final = 28
OVERHEAD_BYTES: Final = HEADER_BYTES + 16
"""What sealing adds to a body: the header and the tag."""
_NONCE: Final = struct.Struct("!IQ")


class Kind(Enum):
    DATAGRAM = VERSION << 4 | 1
    SYNC_REQUEST = VERSION << 4 | 2
    SYNC_REPLY = VERSION << 4 | 3


_DATAGRAM: Final = Kind.DATAGRAM.value


class Refusal(Enum):
    """Why a message was dropped; the value is the name of its counter."""

    MALFORMED = "dropped_malformed"
    UNKNOWN_SCOPE = "dropped_unknown_scope"
    UNKNOWN_EPOCH = "dropped_unknown_epoch"
    STRANGER = "dropped_stranger"
    ANOTHER_BOOT = "dropped_another_boot"
    REFLECTED = "dropped_reflected"
    FORGED = "dropped_forged"
    REPLAYED = "dropped_replayed"


class Refused(Exception):
    """The message is not to be believed; the state is as before."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why.value)
        self.why = why


class Opened(NamedTuple):
    """`to`: for whom an answer is to be sealed."""

    scope: str
    sender: str
    body: bytes
    to: bytes


Derive: TypeAlias = Callable[[EpochSecret, str], AESGCM]


def gossip_cipher(secret: EpochSecret, sender: str) -> AESGCM:
    return AESGCM(gossip_key(secret, sender).reveal())


def receiver(node_id: str, boot: int) -> bytes:
    """For whom a message is: what `seal` and `seal_reply` authenticate and do not send."""
    return handle(node_id) + boot.to_bytes(4, "big")


class Sealer:
    """One node's sealing and opening, for all scopes that it holds.

    `boot`: 32 random bits, new at each start: two boots of a node must not share one, or nonces could repeat.
    `derive` makes the cipher of a sender; a simulation of many nodes may share what it made.
    """

    def __init__(self, node_id: str, boot: int, derive: Derive = gossip_cipher) -> None:
        self._node_id = node_id
        self._handle = handle(node_id)
        self._me = receiver(node_id, boot)
        self._boot = boot
        self._counter = 0
        self._derive = derive
        self._scopes: dict[bytes, Epochs] = {}
        self._own: dict[str, tuple[bytes, AESGCM]] = {}
        self._channels = Channels()
        self.usurped = False
        """Somebody who holds the key has spoken in another's name, so that the other is not heard here:
        `rebind`."""

    # -- keys, and who is there ----------------------------------------------------------------------------

    def set_epochs(self, epochs: Epochs) -> None:
        """From now on exactly these epochs of the scope are accepted."""
        tag = scope_tag(epochs.scope)
        self._channels.drop_ciphers(tag)
        self._scopes[tag] = epochs
        self._own.pop(epochs.scope, None)
        if (current := epochs.current) is not None:
            head = bytes([current.number & 0xFF]) + tag + self._handle
            self._own[epochs.scope] = (head, self._derive(current.secret, self._node_id))

    def forget(self, scope: str) -> None:
        tag = scope_tag(scope)
        self._scopes.pop(tag, None)
        self._own.pop(scope, None)
        self._channels.drop_scope(tag)

    def epochs(self, scope: str) -> Epochs | None:
        return self._scopes.get(scope_tag(scope))

    def installed(self, scope: str) -> tuple[tuple[int, ...], int]:
        """The epochs that are accepted, and the one that is used to seal; 0 = none."""
        epochs = self.epochs(scope)
        if epochs is None:
            return (), 0
        return epochs.numbers(), epochs.current.number if epochs.current else 0

    def can_seal(self, scope: str) -> bool:
        return scope in self._own

    def meet(self, node_id: str, boot: int) -> None:
        """That member is there, with that boot: it is heard from now on, and none of its other boots."""
        self._channels.meet(node_id, boot.to_bytes(4, "big"))

    def part(self, node_id: str) -> None:
        """That member is not known any more: it is not heard until it is met again."""
        self._channels.part(node_id)

    def rebind(self, boot: int) -> None:
        """From now on this node has another boot: what was ever sealed for the old one is refused."""
        self._boot = boot
        self._me = receiver(self._node_id, boot)
        self._channels.forget_windows()
        self.usurped = False

    # -- datagrams -----------------------------------------------------------------------------------------

    def seal(self, scope: str, body: bytes, to: bytes) -> bytes:
        """KeyError without a current epoch of the scope: nothing is ever sent in clear."""
        head, cipher = self._own[scope]
        self._counter += 1
        nonce = _NONCE.pack(self._boot, self._counter)
        header = b"\x11" + head + nonce
        return header + cipher.encrypt(nonce, body, header + to)

    def open(self, message: bytes) -> Opened:
        """The body, once the message has proved genuine and new; Refused otherwise."""
        if len(message) < OVERHEAD_BYTES or message[0] != _DATAGRAM:
            raise Refused(Refusal.MALFORMED)
        channel = self._channels.get(message[2:16]) or self._channel(message)
        cipher = channel.ciphers.get(message[1]) or self._cipher(channel, message[1])
        sender = channel.sender
        if message[16:20] != sender.boot:
            raise Refused(Refusal.ANOTHER_BOOT)
        counter = int.from_bytes(message[20:28], "big")
        if not sender.window.fresh(counter):
            raise Refused(Refusal.REPLAYED)
        try:
            body = cipher.decrypt(message[16:28], message[28:], message[:28] + self._me)
        except InvalidTag as error:
            raise Refused(Refusal.FORGED) from error
        sender.window.accept(counter)
        return Opened(channel.scope, sender.node_id, body, sender.binding)

    # -- streams -------------------------------------------------------------------------------------------

    def seal_request(self, scope: str, body: bytes, to_id: str, challenge: bytes) -> bytes:
        packed = pack_id(self._node_id)
        sealed = self._seal_stream(scope, Kind.SYNC_REQUEST, body, handle(to_id) + challenge)
        return bytes([len(packed)]) + packed + sealed

    def open_request(self, message: bytes, challenge: bytes) -> Opened:
        """From anybody who holds the key, known or not: the challenge, made a moment ago, proves it new."""
        end = 1 + message[0] if message else 0
        if not 1 < end <= MAX_ID_BYTES + 1 or len(message) < end + OVERHEAD_BYTES:
            raise Refused(Refusal.MALFORMED)
        try:
            sender = unpack_id(message[1:end])
        except Malformed as error:
            raise Refused(Refusal.MALFORMED) from error
        return self._open_stream(message[end:], Kind.SYNC_REQUEST, sender, self._handle + challenge)

    def seal_reply(self, scope: str, body: bytes, to: bytes, challenge: bytes) -> bytes:
        return self._seal_stream(scope, Kind.SYNC_REPLY, body, to + challenge)

    def open_reply(self, message: bytes, sender: str, challenge: bytes) -> Opened:
        """From `sender`, to the request that this node sealed for that challenge."""
        if len(message) < OVERHEAD_BYTES:
            raise Refused(Refusal.MALFORMED)
        return self._open_stream(message, Kind.SYNC_REPLY, sender, self._me + challenge)

    def _seal_stream(self, scope: str, kind: Kind, body: bytes, binding: bytes) -> bytes:
        head, cipher = self._own[scope]
        self._counter += 1
        nonce = _NONCE.pack(self._boot, self._counter)
        header = bytes([kind.value]) + head + nonce
        return header + cipher.encrypt(nonce, body, header + binding)

    def _open_stream(self, message: bytes, kind: Kind, sender: str, binding: bytes) -> Opened:
        if message[0] != kind.value or message[8:16] != handle(sender):
            raise Refused(Refusal.MALFORMED)
        if message[8:16] == self._handle:
            raise Refused(Refusal.REFLECTED)
        epochs = self._epochs(message)
        cipher = self._derive(_secret(epochs, message[1]), sender)
        try:
            body = cipher.decrypt(message[16:28], message[28:], message[:28] + binding)
        except InvalidTag as error:
            raise Refused(Refusal.FORGED) from error
        boot = message[16:20]
        counter = int.from_bytes(message[20:28], "big")
        self.usurped = self.usurped or self._channels.usurped(sender, boot, counter)
        return Opened(epochs.scope, sender, body, handle(sender) + boot)

    # -- what is made when it is first needed --------------------------------------------------------------

    def _epochs(self, message: bytes) -> Epochs:
        epochs = self._scopes.get(message[2:8])
        if epochs is None:
            raise Refused(Refusal.UNKNOWN_SCOPE)
        return epochs

    def _channel(self, message: bytes) -> Channel:
        """Of a member that is heard in this scope for the first time."""
        epochs = self._epochs(message)
        if message[8:16] == self._handle:
            raise Refused(Refusal.REFLECTED)
        channel = self._channels.make(message[2:16], epochs.scope)
        if channel is None:
            raise Refused(Refusal.STRANGER)
        return channel

    def _cipher(self, channel: Channel, epoch: int) -> AESGCM:
        secret = _secret(self._scopes[scope_tag(channel.scope)], epoch)
        cipher = channel.ciphers[epoch] = self._derive(secret, channel.sender.node_id)
        return cipher


def _secret(epochs: Epochs, epoch: int) -> EpochSecret:
    for each in epochs.live:
        if each.number & 0xFF == epoch:
            return each.secret
    raise Refused(Refusal.UNKNOWN_EPOCH)
