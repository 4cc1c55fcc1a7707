"""Bodies of gossip messages: what gossip.proto says and what it cannot say (lengths, forms) is checked here.

Nothing but checked values leaves this module; Malformed means that the whole message is to be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.table import Entry

M = TypeVar("M", bound=Message)
_MAX_ID: Final = 64
_MAX_COUNTER: Final = 1 << 63


class Malformed(Exception):
    """A body that no member sends."""


def parse(kind: type[M], body: bytes) -> M:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise Malformed(kind.DESCRIPTOR.name) from error
    return message


def check_id(text: str) -> str:
    """An id as it may be said by others: it ends up in logs and dictionaries."""
    if not (1 <= len(text) <= _MAX_ID and text.isascii() and all(c.isalnum() or c in "-_." for c in text)):
        raise Malformed("id")
    return text


def check_address(text: str) -> str:
    """IP:port, a literal: no name that others choose is ever looked up."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise Malformed("address") from error
    if "%" in host or bracketed != (address.version == 6):
        raise Malformed("address")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise Malformed("port")
    return text


def rumor(message: pb.Rumor) -> Rumor:
    """ValueError-free: Malformed for anything else than a whole rumor."""
    if not State.ALIVE <= message.state <= State.LEFT or message.incarnation >= _MAX_COUNTER:
        raise Malformed("rumor")
    by = check_id(message.suspected_by) if message.suspected_by else ""
    state = State(message.state)
    return Rumor(check_id(message.node_id), check_address(message.address), message.incarnation, state, by)


def rumors(messages: Iterable[pb.Rumor]) -> list[Rumor]:
    return [rumor(message) for message in messages]


def of_rumor(said: Rumor) -> pb.Rumor:
    return pb.Rumor(
        node_id=said.node_id,
        address=said.address,
        incarnation=said.incarnation,
        state=pb.MemberState.ValueType(said.state),
        suspected_by=said.suspected_by,
    )


def entry(network_id: str, message: pb.TableEntry) -> Entry:
    """The entry as told, not yet believed: its signature is the table's business."""
    owner, task_id = check_id(message.node_id), check_id(message.task_id)
    if not 0 < message.time < _MAX_COUNTER:
        raise Malformed("time")
    if message.deleted:
        return Entry(owner, task_id, message.time)
    if len(message.ip) not in (4, 16) or len(message.mac) != 6 or len(message.signature) != 64:
        raise Malformed("entry")
    endpoint = Endpoint(network_id, task_id, ip_address(message.ip), message.mac.hex(":"), owner)
    return Entry(owner, task_id, message.time, endpoint, message.signature)


def entries(network_id: str, messages: Iterable[pb.TableEntry]) -> list[Entry]:
    return [entry(network_id, message) for message in messages]


def of_entry(said: Entry) -> pb.TableEntry:
    message = pb.TableEntry(node_id=said.owner, task_id=said.task_id, time=said.time)
    if said.endpoint is None:
        message.deleted = True
    else:
        message.ip = said.endpoint.ip.packed
        message.mac = bytes.fromhex(said.endpoint.mac.replace(":", ""))
        message.signature = said.signature
    return message
