"""Bodies of gossip messages: what gossip.proto says and what it cannot say (lengths, forms) is checked here.

Nothing but checked values leaves this module; Malformed means that the whole message is to be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import MAX_SIGNATURE_BYTES, MIN_SIGNATURE_BYTES, Endpoint, mac_of
from swarmnet.core.gossip.limits import MAX_DECODED, MAX_DELTA_BYTES, MAX_META_BYTES
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.names import Malformed, check_address, pack_id, unpack_id
from swarmnet.core.gossip.table import Delta, Entry

M = TypeVar("M", bound=Message)
_MAX_COUNTER: Final = 1 << 63


def parse(kind: type[M], body: bytes) -> M:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Malformed(kind.DESCRIPTOR.name) from error


@lru_cache(MAX_DECODED)
def rumor(raw: bytes) -> Rumor:
    """Malformed for anything else than a whole rumor. The same bytes come again and again."""
    message = parse(pb.Rumor, raw)
    if not State.ALIVE <= message.state <= State.LEFT or message.incarnation >= _MAX_COUNTER:
        raise Malformed("rumor")
    if len(message.meta) > MAX_META_BYTES:
        raise Malformed("meta")
    by = unpack_id(message.suspected_by) if message.suspected_by else ""
    return Rumor(
        unpack_id(message.node_id),
        check_address(message.address),
        message.incarnation,
        State(message.state),
        by,
        message.boot,
        message.meta,
    )


def rumors(raws: Iterable[bytes]) -> list[Rumor]:
    return [rumor(raw) for raw in raws]


@lru_cache(MAX_DECODED)
def of_rumor(said: Rumor) -> bytes:
    return pb.Rumor(
        node_id=pack_id(said.node_id),
        address=said.address,
        incarnation=said.incarnation,
        state=pb.MemberState.ValueType(said.state),
        suspected_by=pack_id(said.suspected_by),
        boot=said.boot,
        meta=said.meta,
    ).SerializeToString()


@lru_cache(MAX_DECODED)
def rumor_frame(said: Rumor) -> bytes:
    """A ClusterDatagram of one rumor; several one behind the other are one of several."""
    return pb.ClusterDatagram(rumors=[of_rumor(said)]).SerializeToString()


@lru_cache(MAX_DECODED)
def delta(network_id: str, raw: bytes) -> Delta:
    """The delta as told, not yet believed: its entries' signatures are the network's business."""
    message = parse(pb.TableDelta, raw)
    if not 0 < message.until < _MAX_COUNTER or not 0 < message.span <= message.until:
        raise Malformed("time")
    owner, since = unpack_id(message.owner), message.until - message.span
    entries = [_entry(network_id, owner, message.until, since, each) for each in message.entries]
    return Delta(owner, since, message.until, tuple(entries))


def delta_frame(raw: bytes) -> bytes:
    """A NetworkDatagram of one delta; several one behind the other are one of several."""
    return pb.NetworkDatagram(deltas=[raw]).SerializeToString()


def _entry(network_id: str, owner: str, until: int, since: int, message: pb.TableEntry) -> Entry:
    time, task_id = until - message.before, unpack_id(message.task_id)
    if time <= since:
        raise Malformed("time")
    if message.deleted:
        return Entry(owner, task_id, time)
    size = len(message.signature)
    if len(message.ip) not in (4, 16) or not MIN_SIGNATURE_BYTES <= size <= MAX_SIGNATURE_BYTES:
        raise Malformed("entry")
    if len(message.mac) not in (0, 6):
        raise Malformed("mac")
    ip = ip_address(message.ip)
    mac = message.mac.hex(":") or mac_of(str(ip))
    return Entry(owner, task_id, time, Endpoint(network_id, task_id, ip, mac, owner), message.signature)


def delta_frames(said: Delta) -> list[tuple[Delta, bytes]]:
    """The delta in pieces that fit any datagram, each with its frame: a NetworkDatagram of it alone.

    Each piece goes on where the one before ended, the last one up to the delta's end.
    """
    pieces: list[tuple[Delta, bytes]] = []
    since, taken, size = said.since, list[Entry](), 0
    for entry in sorted(said.entries, key=lambda each: each.time):
        room = len(entry.signature) + len(entry.task_id) + 48
        if taken and size + room > MAX_DELTA_BYTES - 96:
            pieces.append(_framed(Delta(said.owner, since, taken[-1].time, tuple(taken))))
            since, taken, size = taken[-1].time, [], 0
        taken.append(entry)
        size += room
    pieces.append(_framed(Delta(said.owner, since, said.until, tuple(taken))))
    return pieces


def _framed(said: Delta) -> tuple[Delta, bytes]:
    message = pb.TableDelta(owner=pack_id(said.owner), until=said.until, span=said.until - said.since)
    message.entries.extend(_of_entry(each, said.until) for each in said.entries)
    return said, delta_frame(message.SerializeToString())


def _of_entry(said: Entry, until: int) -> pb.TableEntry:
    message = pb.TableEntry(task_id=pack_id(said.task_id), before=until - said.time)
    if said.endpoint is None:
        message.deleted = True
    else:
        message.ip = said.endpoint.ip.packed
        if said.endpoint.mac != mac_of(str(said.endpoint.ip)):
            message.mac = bytes.fromhex(said.endpoint.mac.replace(":", ""))
        message.signature = said.signature
    return message
