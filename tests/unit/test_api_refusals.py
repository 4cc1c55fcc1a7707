"""How the control API says no: it names the thing and the way out, and nothing has changed."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.unit.control_api import (
    Call,
    MadeUpManagers,
    create_network,
    create_service,
    make_api,
    make_swarm,
    named,
    update_deadline,
    update_period,
)

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    InvalidArgument,
    NotFound,
    SwarmnetError,
    SwarmScoped,
    UnknownOption,
)

ATTACH = (
    "swarm-scoped network (front) is not compatible with `swarmnet create` or `swarmnet run`. "
    "This network can only be used by a swarm service."
)

REFUSALS: list[tuple[str, Call, type[SwarmnetError], str, str]] = [
    (
        "duplicate network",
        create_network(name="front"),
        AlreadyExists,
        "network with name front already exists",
        "swarmnet network rm front",
    ),
    (
        "network name",
        create_network(name="no spaces"),
        InvalidArgument,
        "invalid network name 'no spaces'",
        "1 to 63",
    ),
    ("driver", create_network(driver="bridge"), InvalidArgument, "unknown network driver bridge", "overlay"),
    (
        "option key",
        create_network(options={"encripted": ""}),
        UnknownOption,
        "unknown option encripted",
        "Known options: encrypted",
    ),
    (
        "option value",
        create_network(options={"encrypted": "yes"}),
        InvalidArgument,
        "option encrypted cannot be 'yes'",
        "--opt encrypted",
    ),
    ("MTU", create_network(options={"mtu": "575"}), InvalidArgument, "mtu cannot be '575'", "576 to 65000"),
    ("no MTU", create_network(options={"mtu": ""}), InvalidArgument, "mtu cannot be ''", "--opt mtu=1400"),
    (
        "MTU for IPv6",
        create_network(options={"mtu": "1279"}, subnets=["fd00::/64"]),
        InvalidArgument,
        "mtu cannot be '1279'",
        "1280",
    ),
    (
        "IPv6 subnets",
        create_network(subnets=["fd00::/64", "fd01::/64"]),
        InvalidArgument,
        "more than one IPv6 subnet",
        "one IPv6 subnet",
    ),
    ("malformed subnet", create_network(subnets=["10.0.0/24"]), InvalidArgument, "10.0.0/24", "CIDR"),
    (
        "overlapping subnet",
        create_network(subnets=["10.0.1.0/25"]),
        InvalidArgument,
        "overlaps",
        "another subnet",
    ),
    ("unknown network", named("GetNetwork", "nope"), NotFound, "network nope not found", "network ls"),
    (
        "remove unknown network",
        named("RemoveNetwork", "nope"),
        NotFound,
        "network nope not found",
        "network ls",
    ),
    (
        "ambiguous network",
        named("GetNetwork", "net-"),
        InvalidArgument,
        "network net- is ambiguous (2 matches found based on ID prefix)",
        "net-front",
    ),
    (
        "network in use",
        named("RemoveNetwork", "front"),
        InUse,
        "network front is in use by service web",
        "swarmnet service rm web",
    ),
    (
        "attach",
        named("AttachNetwork", "front"),
        SwarmScoped,
        ATTACH,
        "swarmnet service create --name NAME --network front IMAGE COMMAND...",
    ),
    (
        "attach by id",
        named("AttachNetwork", "net-front", image="host", command=["ping", "a b"]),
        SwarmScoped,
        ATTACH,
        "swarmnet service create --name NAME --network front host ping 'a b'",
    ),
    ("attach to unknown", named("AttachNetwork", "nope"), NotFound, "network nope not found", "network ls"),
    (
        "duplicate service",
        create_service(name="web"),
        AlreadyExists,
        "service with name web already exists",
        "rm web",
    ),
    ("service name", create_service(name=""), InvalidArgument, "invalid service name", "1 to 63"),
    ("no image", create_service(image=""), InvalidArgument, "service new has no image", "host"),
    (
        "image nowhere",
        create_service(image="my-image"),
        FailedPrecondition,
        "no node has the image my-image",
        "host",
    ),
    (
        "service on unknown network",
        create_service(networks=["nope"]),
        NotFound,
        "network nope not found",
        "network ls",
    ),
    (
        "replicas",
        create_service(replicas=10_001),
        InvalidArgument,
        "10001 replicas are above the limit of 10000",
        "",
    ),
    (
        "replicas of global",
        create_service(mode=types.SERVICE_MODE_GLOBAL),
        InvalidArgument,
        "replicas can only be used with replicated mode",
        "--replicas",
    ),
    ("environment", create_service(env=["NOVALUE"]), InvalidArgument, "'NOVALUE' is not KEY=value", "--env"),
    ("constraint", create_service(constraints=["node.shoe==44"]), InvalidArgument, "node.shoe", ""),
    (
        "grace",
        create_service(stop_grace_period=Duration(seconds=-1)),
        InvalidArgument,
        "negative stop grace",
        "10s",
    ),
    ("unknown service", named("GetService", "nope"), NotFound, "no such service: nope", "service ls"),
    (
        "scale unknown",
        named("ScaleService", "nope", replicas=1),
        NotFound,
        "no such service: nope",
        "service ls",
    ),
    ("scale too far", named("ScaleService", "web", replicas=10_001), InvalidArgument, "above the limit", ""),
    (
        "remove unknown service",
        named("RemoveService", "nope"),
        NotFound,
        "no such service: nope",
        "service ls",
    ),
    ("unknown node", named("GetNode", "nope"), NotFound, "no such node: nope", "node ls"),
    (
        "remove node that is up",
        named("RemoveNode", "w1"),
        FailedPrecondition,
        "is not down and can't be removed",
        "--force",
    ),
    (
        "remove manager",
        named("RemoveNode", "m1", force=True),
        FailedPrecondition,
        "member of the raft cluster",
        "leave",
    ),
    (
        "node label",
        named("UpdateNode", "w1", labels={"no spaces": ""}),
        InvalidArgument,
        "label name",
        "1 to 63",
    ),
    (
        "availability",
        named("UpdateNode", "w1", availability=9),
        InvalidArgument,
        "unknown availability 9",
        "drain",
    ),
    ("rotate unknown", named("RotateKeys", "nope"), NotFound, "network nope not found", "network ls"),
    (
        "short period",
        update_period(59),
        InvalidArgument,
        "rotation period of 59 s is out of range",
        "30 days",
    ),
    ("short deadline", update_deadline(9), InvalidArgument, "deadline of 9 s is out of range", "10 seconds"),
    ("long deadline", update_deadline(3601), InvalidArgument, "out of range", "1 hour"),
    (
        "force without drain",
        named("UpdateNode", "w1", availability=types.AVAILABILITY_PAUSE, force=True),
        InvalidArgument,
        "force goes with draining only",
        "--availability drain --force",
    ),
    ("long period", update_period(31 * 86400), InvalidArgument, "out of range", "1 minute"),
]


@pytest.mark.parametrize(
    ("call", "kind", "message", "hint"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
async def test_a_refusal_names_the_thing_and_changes_nothing(
    call: Call, kind: type[SwarmnetError], message: str, hint: str
) -> None:
    swarm = make_swarm()
    before = swarm.state.freeze()()
    with pytest.raises(SwarmnetError) as caught:
        await call(make_api(swarm, MadeUpManagers()))
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint
    assert swarm.state.freeze()() == before
