"""The daemons of this host, asked over their unix sockets: what they are, and to init, join or leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from swarmnet.cli.connection import Endpoint, Unary, invoke, open_channel, unreachable
from swarmnet.core.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from swarmnet.api.v1.local_pb2_grpc import LocalStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Kind: TypeAlias = Literal["manager", "worker"]
KINDS: Final[tuple[Kind, ...]] = ("manager", "worker")

# Joining asks other hosts and may wait for a leader; leaving stops tasks, each with its grace period.
LOCAL_TIMEOUT_S: Final = 120.0


class Daemon:
    """One daemon that accepts connections."""

    def __init__(self, kind: Kind, endpoint: Endpoint) -> None:
        self.kind = kind
        self._endpoint = endpoint

    def call(self, rpc: Callable[[LocalStub], Unary[RequestT, ResponseT]], request: RequestT) -> ResponseT:
        from swarmnet.api.v1.local_pb2_grpc import LocalStub

        with open_channel(self._endpoint, None) as channel:
            return invoke(rpc(LocalStub(channel)), request, LOCAL_TIMEOUT_S, self._endpoint)[0]


def find_daemon(run_dir: str, wanted: Kind | None = None) -> Daemon:
    """The one that runs here, or the one wanted. Unavailable for none, InvalidArgument for two."""
    endpoints = {kind: Endpoint(path=f"{run_dir}/{kind}.sock") for kind in KINDS if wanted in {None, kind}}
    refusals = {kind: endpoint.refusal() for kind, endpoint in endpoints.items()}
    running = [kind for kind, refusal in refusals.items() if not refusal]
    if len(running) == 1:
        return Daemon(running[0], endpoints[running[0]])
    if running:
        raise InvalidArgument(
            "both swarmnet-manager and swarmnet-worker run on this host",
            hint="Say which one is meant: --manager or --worker.",
        )
    if wanted is not None:
        raise unreachable(str(endpoints[wanted]), refusals[wanted], wanted)
    if "permission denied" in refusals.values():
        raise unreachable(run_dir, "permission denied")
    raise Unavailable(
        f"Cannot connect to a swarmnet daemon in {run_dir}. Is swarmnet-manager or swarmnet-worker running?",
        hint="Start one of them; SWARMNET_RUN_DIR names the folder of their sockets.",
    )
