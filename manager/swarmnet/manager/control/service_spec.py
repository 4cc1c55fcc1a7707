"""What a service's specification must be like, and the defaults of what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition, InvalidArgument
from swarmnet.core.ids import check_name
from swarmnet.core.limits import MAX_REPLICAS, RESTART_DELAY_S, STOP_GRACE_PERIOD_S
from swarmnet.core.state import Transaction
from swarmnet.manager.constraints import parse_constraints
from swarmnet.manager.control import lookup

HOST_IMAGE: Final = "host"


def checked(spec: types.ServiceSpec) -> types.ServiceSpec:
    """A copy with the defaults filled in. InvalidArgument names what is wrong."""
    out = types.ServiceSpec()
    out.CopyFrom(spec)
    check_name(out.name, "service")
    if not out.image:
        raise InvalidArgument(
            f"service {out.name} has no image", hint='Name an image; "host" stands for the host\'s own files.'
        )
    _check_mode(out)
    _check_environment(out.env)
    parse_constraints(out.constraints)
    _fill(
        out.stop_grace_period,
        "stop grace period",
        STOP_GRACE_PERIOD_S,
        given=out.HasField("stop_grace_period"),
    )
    _fill(out.restart.delay, "restart delay", RESTART_DELAY_S, given=out.restart.HasField("delay"))
    return out


def _check_mode(spec: types.ServiceSpec) -> None:
    if spec.mode == types.SERVICE_MODE_REPLICATED:
        check_replicas(spec.replicas)
    elif spec.mode != types.SERVICE_MODE_GLOBAL:
        raise InvalidArgument(f"unknown service mode {spec.mode}", hint="Use replicated or global.")
    elif spec.replicas:
        raise InvalidArgument(
            "replicas can only be used with replicated mode", hint="Leave --replicas out of a global service."
        )


def check_replicas(replicas: int) -> None:
    if replicas > MAX_REPLICAS:
        raise InvalidArgument(
            f"{replicas} replicas are above the limit of {MAX_REPLICAS}", hint="Ask for fewer replicas."
        )


def _check_environment(env: Sequence[str]) -> None:
    for entry in env:
        key, equals, _ = entry.partition("=")
        if not key or not equals or "\x00" in entry:
            raise InvalidArgument(
                f"environment entry {key!r} is not KEY=value", hint="Write it as --env KEY=value."
            )


def _fill(duration: Duration, what: str, default_s: float, *, given: bool) -> None:
    if not given:
        duration.FromNanoseconds(int(default_s * 1e9))
    elif duration.ToNanoseconds() < 0:
        raise InvalidArgument(f"a negative {what}", hint="Use a time of zero or more, such as 10s.")


def check_image(image: str, nodes: Iterable[types.Node]) -> None:
    """FailedPrecondition when there are workers up and none of them has the image."""
    workers = [
        each for each in nodes if each.role == types.ROLE_WORKER and each.state == types.NODE_STATE_READY
    ]
    if image == HOST_IMAGE or not workers or any(image in each.capabilities.images for each in workers):
        return
    known = sorted({HOST_IMAGE, *(name for each in workers for name in each.capabilities.images)})
    raise FailedPrecondition(
        f"no node has the image {image}",
        hint=f"Put it into a worker's image store, or use one that is there: {', '.join(known)}.",
    )


def esp_warnings(transaction: Transaction, spec: types.ServiceSpec) -> list[str]:
    """Why tasks of an encrypted network would stay pending: no node that could take them has ESP."""
    networks = [lookup.network(transaction, ref) for ref in spec.networks]
    encrypted = [each.name for each in networks if each.encrypted]
    workers = [each for each in transaction.scan(types.Node) if each.role == types.ROLE_WORKER]
    if not encrypted or any(each.capabilities.esp for each in workers):
        return []
    warning = (
        f"network {encrypted[0]} is encrypted and no node's kernel can do ESP: the tasks stay pending "
        f"(`swarmnet service ps {spec.name}` says which node lacks what)"
    )
    return [warning]
