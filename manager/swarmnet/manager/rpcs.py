"""Every rpc of ours by its path, with the messages and the roles its .proto gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from swarmnet.api.v1 import ca_pb2, control_pb2, dispatcher_pb2, local_pb2, options_pb2, raft_pb2


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of one service. `roles` with nothing set: refused to all. `reads`: it changes nothing."""

    path: str
    service: str
    name: str
    request: type[Message]
    client_streams: bool
    server_streams: bool
    reads: bool
    roles: options_pb2.Roles


def _rpc(method: MethodDescriptor) -> Rpc:
    service = method.containing_service.full_name
    return Rpc(
        path=f"/{service}/{method.name}",
        service=service,
        name=method.name,
        request=GetMessageClass(method.input_type),
        client_streams=method.client_streaming,
        server_streams=method.server_streaming,
        reads=method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
        roles=method.GetOptions().Extensions[options_pb2.roles],
    )


def _rpcs_of(files: Iterable[FileDescriptor]) -> Mapping[str, Rpc]:
    rpcs = (
        _rpc(method)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    )
    return {rpc.path: rpc for rpc in rpcs}


RPCS: Final = _rpcs_of(
    module.DESCRIPTOR for module in (ca_pb2, control_pb2, dispatcher_pb2, local_pb2, raft_pb2)
)

_ANY_CERTIFICATE: Final = options_pb2.Roles(manager=True, worker=True, client=True)
_STANDARD: Final = {
    "grpc.health.v1.Health": _ANY_CERTIFICATE,
    "grpc.reflection.v1alpha.ServerReflection": options_pb2.Roles(manager=True, client=True),
}
"""Services that are not ours to annotate."""


def roles_of(path: str) -> options_pb2.Roles:
    """Who may call the rpc at this path; nobody, when nothing says so."""
    if (rpc := RPCS.get(path)) is not None:
        return rpc.roles
    return _STANDARD.get(path.strip("/").partition("/")[0], options_pb2.Roles())
