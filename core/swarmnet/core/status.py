"""Errors on the wire: google.rpc.Status with one ErrorInfo, the form that gRPC clients of any language read.

https://google.aip.dev/193: domain "swarmnet", a stable reason, and the next step as metadata "hint".
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from swarmnet.core.errors import BY_REASON, SwarmnetError

DOMAIN: Final = "swarmnet"
TRAILER: Final = "grpc-status-details-bin"
"""The trailing metadata key that carries an encoded Status."""
RENEW: Final = "swarmnet-renew"
"""The trailing metadata key by which a manager tells a client that its certificate should be renewed."""


def encode(error: SwarmnetError) -> bytes:
    """The encoded Status of an error."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"hint": error.hint} if error.hint else {})
    status = Status(code=Code.Value(error.status), message=error.message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def decode(raw: bytes) -> SwarmnetError | None:
    """The error that `encode` saw; None when the bytes are not one of ours."""
    try:
        status = Status.FromString(raw)
        info = ErrorInfo()
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                kind = BY_REASON.get(info.reason, SwarmnetError)
                return kind(status.message, hint=info.metadata.get("hint", ""))
    except DecodeError:
        return None
    return None
