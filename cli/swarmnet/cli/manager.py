"""The swarm's managers, as one that answers.

    SWARMNET_HOST=unix:///run/swarmnet/manager.sock    the default: root on a manager's host
    SWARMNET_HOST=10.0.0.1:2377,10.0.0.2:2377          with SWARMNET_CACERT, SWARMNET_CERT and SWARMNET_KEY

A manager that cannot be reached is passed over for the next one before anything is sent. Once a request is on
its way it is repeated only if it may be: a read, or a change that carries a request id.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from swarmnet.cli.connection import (
    NOT_A_MANAGER,
    Credentials,
    Endpoint,
    Unary,
    invoke,
    open_channel,
    to_error,
    trusts_several,
    unreachable,
)
from swarmnet.core.errors import NoLeader, NotAManager, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    import grpc

    from swarmnet.api.v1 import control_pb2
    from swarmnet.api.v1 import types_pb2 as types
    from swarmnet.api.v1.control_pb2_grpc import ControlStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

CALL_TIMEOUT_S: Final = 30.0


class Manager:
    """Whoever answers for the swarm: connects on first use, changes to another manager when one is gone."""

    def __init__(
        self, endpoints: Sequence[Endpoint], credentials: Credentials | None = None, worker_socket: str = ""
    ) -> None:
        self._endpoints = list(endpoints)
        self._credentials = credentials
        self._worker_socket = worker_socket
        self._channel: grpc.Channel | None = None
        self._renew = self._answered = False

    def call(
        self,
        rpc: Callable[[ControlStub], Unary[RequestT, ResponseT]],
        request: RequestT,
        *,
        repeatable: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> ResponseT:
        """Make one call. One that is `repeatable`, as asking twice does what asking once does, is made again
        when its answer got lost."""
        from swarmnet.api.v1.control_pb2_grpc import ControlStub

        attempts = max(2, len(self._endpoints)) if repeatable else 1
        while True:
            attempts -= 1
            rpc_ready = rpc(ControlStub(self.channel()))
            try:
                return self.invoke(rpc_ready, request, timeout_s)
            except (Unavailable, OutcomeUnknown) as error:
                if not attempts or isinstance(error, NoLeader):  # that manager has waited for one already
                    raise
                self.leave_endpoint()

    def invoke(self, rpc: Unary[RequestT, ResponseT], request: RequestT, timeout_s: float) -> ResponseT:
        """Call an rpc of any stub on `channel()`, once."""
        response, renew = invoke(rpc, request, timeout_s, self._endpoints[0], self._credentials)
        self._renew = self._renew or renew
        self._answered = True
        return response

    def certificate_to_renew(self) -> Credentials | None:
        """The client's, if a manager has said in this session that it should be renewed; or if it came while
        the root was being replaced, as it still trusts the old one."""
        mine = self._credentials
        if mine is None or not self._answered:
            return None
        return mine if self._renew or trusts_several(mine) else None

    def watch(self, kinds: Sequence[control_pb2.ObjectKind.ValueType]) -> Generator[control_pb2.WatchEvent]:
        """Every change from now on. Returns when the subscription stands; Unavailable once it breaks."""
        from swarmnet.api.v1 import control_pb2
        from swarmnet.api.v1.control_pb2_grpc import ControlStub

        stream = ControlStub(self.channel()).Watch(control_pb2.WatchRequest(kinds=kinds))
        stream.initial_metadata()  # the manager sends it when it has subscribed

        def events() -> Generator[control_pb2.WatchEvent]:
            yield from self._told(stream)
            raise Unavailable("The manager ended the watch.", hint="Try again.")

        return events()

    def events(self, request: control_pb2.EventsRequest) -> Generator[types.Event]:
        """As they come, until the managers have told the last one; SwarmnetError when it breaks before."""
        from swarmnet.api.v1.control_pb2_grpc import ControlStub

        yield from self._told(ControlStub(self.channel()).Events(request))

    def backup(self, request: control_pb2.BackupRequest) -> Generator[control_pb2.BackupPiece]:
        """The pieces as they come; SwarmnetError when they end too soon."""
        from swarmnet.api.v1.control_pb2_grpc import ControlStub

        yield from self._told(ControlStub(self.channel()).Backup(request))

    def _told(self, stream: Any) -> Generator[Any]:
        """What the stream brings, until it ends or nobody wants more of it."""
        import grpc

        try:
            yield from stream
        except grpc.RpcError as error:
            raise to_error(error, self._endpoints[0], self._credentials) from None
        finally:
            stream.cancel()

    def channel(self) -> grpc.Channel:
        """The open channel, or one to the first endpoint that accepts connections."""
        if self._channel is None:
            self._reach()
            self._channel = open_channel(self._endpoints[0], self._credentials)
        return self._channel

    def _reach(self) -> None:
        """Put an endpoint that accepts connections first."""
        for position, endpoint in enumerate(self._endpoints):
            refusal = endpoint.refusal()
            if not refusal:
                self._endpoints = self._endpoints[position:] + self._endpoints[:position]
                return
        if self._worker_socket and not Endpoint(path=self._worker_socket).refusal():
            raise NotAManager(NOT_A_MANAGER)
        raise unreachable(",".join(map(str, self._endpoints)), refusal)

    def leave_endpoint(self) -> None:
        """Close the channel; the next call starts with the next endpoint."""
        self.close()
        self._endpoints = self._endpoints[1:] + self._endpoints[:1]

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
