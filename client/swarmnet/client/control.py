"""The control API's calls, by the names of control.proto: `await client.GetConfig(GetRequest(ref="web"))`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
_Q_contra = TypeVar("_Q_contra", bound=Message, contravariant=True)
_A_co = TypeVar("_A_co", bound=Message, covariant=True)
_SERVICE = control.DESCRIPTOR.services_by_name["Control"]


class Call(Protocol[_Q_contra, _A_co]):
    """Ends with the answer, or as a SwarmnetError. `timeout_s` over all tries; None: that of the client."""

    def __call__(
        self, request: _Q_contra, /, timeout_s: float | None = None
    ) -> Coroutine[Any, Any, _A_co]: ...


class Rpc(Generic[Q, A]):
    """One of the calls. `repeatable`: whether it is once or twice does not matter, or can be made so."""

    def __init__(self, request: type[Q], answer: type[A]) -> None:
        self.request = request
        self.answer = answer
        self.takes_id = "request_id" in request.DESCRIPTOR.fields_by_name
        self.name = ""
        self.reads = False

    def __set_name__(self, owner: type[Control], name: str) -> None:
        self.name = name
        options = _SERVICE.methods_by_name[name].GetOptions()
        self.reads = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS

    @property
    def repeatable(self) -> bool:
        return self.reads or self.takes_id

    def __get__(self, client: Control, owner: type[Control]) -> Call[Q, A]:
        def call(request: Q, /, timeout_s: float | None = None) -> Coroutine[Any, Any, A]:
            return client.invoke(self, request, timeout_s)

        return call


class Control:
    """All of them that have one request and one answer."""

    async def invoke(self, rpc: Rpc[Q, A], request: Q, timeout_s: float | None) -> A:
        raise NotImplementedError

    GetCluster = Rpc(control.GetClusterRequest, control.GetClusterResponse)
    UpdateCluster = Rpc(control.UpdateClusterRequest, control.GetClusterResponse)
    GetUnlockKey = Rpc(control.GetUnlockKeyRequest, control.GetUnlockKeyResponse)
    ReportLock = Rpc(control.ReportLockRequest, control.ReportLockResponse)
    GetJoinTokens = Rpc(control.GetJoinTokensRequest, control.GetJoinTokensResponse)
    RotateJoinToken = Rpc(control.RotateJoinTokenRequest, control.GetJoinTokensResponse)
    RotateRootCertificate = Rpc(control.RotateRootCertificateRequest, control.GetClusterResponse)
    ListNodes = Rpc(control.ListNodesRequest, control.ListNodesResponse)
    GetNode = Rpc(control.GetRequest, control.NodeView)
    UpdateNode = Rpc(control.UpdateNodeRequest, control.NodeView)
    RemoveNode = Rpc(control.RemoveNodeRequest, control.RemoveNodeResponse)
    CreateNetwork = Rpc(control.CreateNetworkRequest, control.CreateNetworkResponse)
    ListNetworks = Rpc(control.ListRequest, control.ListNetworksResponse)
    GetNetwork = Rpc(control.GetRequest, types.Network)
    RemoveNetwork = Rpc(control.GetRequest, control.RemoveResponse)
    AttachNetwork = Rpc(control.AttachNetworkRequest, control.RemoveResponse)
    CreateConfig = Rpc(control.CreateConfigRequest, control.CreateConfigResponse)
    UpdateConfig = Rpc(control.UpdateConfigRequest, control.UpdateConfigResponse)
    ListConfigs = Rpc(control.ListRequest, control.ListConfigsResponse)
    GetConfig = Rpc(control.GetRequest, types.Config)
    RemoveConfig = Rpc(control.GetRequest, control.RemoveResponse)
    CreateService = Rpc(control.CreateServiceRequest, control.CreateServiceResponse)
    ListServices = Rpc(control.ListRequest, control.ListServicesResponse)
    GetService = Rpc(control.GetRequest, control.ServiceView)
    ScaleService = Rpc(control.ScaleServiceRequest, control.ServiceView)
    RemoveService = Rpc(control.GetRequest, control.RemoveResponse)
    ListTasks = Rpc(control.ListTasksRequest, control.ListTasksResponse)
    ListKeys = Rpc(control.ListKeysRequest, control.ListKeysResponse)
    RotateKeys = Rpc(control.RotateKeysRequest, control.RotateKeysResponse)
    GetEncryption = Rpc(control.GetEncryptionRequest, control.GetEncryptionResponse)
    VerifyEncryption = Rpc(control.VerifyEncryptionRequest, control.VerifyEncryptionResponse)
    NoteRefusals = Rpc(control.NoteRefusalsRequest, control.NoteRefusalsResponse)
    GetRaftStatus = Rpc(control.GetRaftStatusRequest, control.RaftStatus)
    TransferLeadership = Rpc(control.TransferLeadershipRequest, control.TransferLeadershipResponse)
