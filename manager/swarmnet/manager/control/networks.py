"""Networks. One is complete when it has been created: addresses, numbers and its first key in one command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, InUse, InvalidArgument, SwarmScoped, UnknownOption
from swarmnet.core.ids import check_name
from swarmnet.core.limits import MAX_TASK_MTU, MIN_TASK_MTU, MIN_TASK_MTU_V6
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import seconds
from swarmnet.manager.addresses import check_subnets
from swarmnet.manager.allocator import allocate_network
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun, new_id
from swarmnet.manager.keymanager import create_scope
from swarmnet.manager.tasks import is_ended

ENCRYPTED: Final = "encrypted"
MTU: Final = "mtu"
_DOCKERS_MTU: Final = "com.docker.network.driver.mtu"
_OPTIONS: Final = (ENCRYPTED, MTU, _DOCKERS_MTU)


def check_options(options: Mapping[str, str]) -> None:
    """UnknownOption for a key nothing here understands."""
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise UnknownOption(
            f"unknown option {unknown[0]} for an overlay network",
            hint=f"Known options: {', '.join(_OPTIONS)}.",
        )


def mtu_of(options: Mapping[str, str], *, ipv6: bool) -> int:
    """The MTU asked for, in bytes; 0 if none is. InvalidArgument for one that no network can have."""
    text = options.get(MTU, options.get(_DOCKERS_MTU, ""))
    smallest = MIN_TASK_MTU_V6 if ipv6 else MIN_TASK_MTU
    if MTU not in options and _DOCKERS_MTU not in options:
        return 0
    if not (text.isascii() and text.isdecimal() and smallest <= int(text) <= MAX_TASK_MTU):
        raise InvalidArgument(
            f"option {MTU} cannot be {text!r}",
            hint=f"Give a number of bytes from {smallest} to {MAX_TASK_MTU}, for example --opt mtu=1400.",
        )
    return int(text)


def is_encrypted(options: Mapping[str, str], *, by_default: bool) -> bool:
    """What the options say, else `by_default`. InvalidArgument for a value that says neither."""
    if ENCRYPTED not in options:
        return by_default
    value = options[ENCRYPTED]
    if value not in ("", "true", "false"):
        raise InvalidArgument(
            f"option {ENCRYPTED} cannot be {value!r}",
            hint=f"Say `--opt {ENCRYPTED}` or `--opt {ENCRYPTED}=true` for an encrypted network, "
            f"`--opt {ENCRYPTED}=false` for a plain one.",
        )
    return value in ("", "true")


class NetworkNoun(Noun):
    async def CreateNetwork(
        self, request: control.CreateNetworkRequest, context: object
    ) -> control.CreateNetworkResponse:
        check_name(request.name, "network")
        if request.driver not in ("", "overlay"):
            raise InvalidArgument(
                f"unknown network driver {request.driver}",
                hint="The one driver is overlay: `--driver overlay`.",
            )
        check_options(request.options)
        is_encrypted(request.options, by_default=False)
        network_id = new_id(request.request_id)

        def decide(transaction: Transaction) -> control.CreateNetworkResponse:
            existing = transaction.all(types.Network)
            if any(each.meta.id == network_id for each in existing):  # a retry whose first try took effect
                return control.CreateNetworkResponse(id=network_id)
            if any(each.name == request.name for each in existing):
                raise AlreadyExists(
                    f"network with name {request.name} already exists",
                    hint=f"Use another name, or remove it first: `swarmnet network rm {request.name}`.",
                )
            by_default = transaction.cluster().encrypt_by_default
            encrypted = is_encrypted(request.options, by_default=by_default)
            network = _requested(request, network_id, encrypted=encrypted)
            network.subnets.extend(check_subnets(request.subnets, existing))
            network.mtu = mtu_of(request.options, ipv6=any(":" in each.cidr for each in network.subnets))
            allocate_network(transaction, network)
            transaction.put(network)
            period_s = seconds(transaction.cluster().key_rotation_period)
            create_scope(transaction, network_id, seconds(self._store.now()), period_s)
            return control.CreateNetworkResponse(id=network_id)

        return await self._store.transact(decide, request.request_id)

    async def ListNetworks(
        self, request: control.ListRequest, context: object
    ) -> control.ListNetworksResponse:
        state = self._store.state
        named = [lookup.network(state, ref) for ref in request.names]
        return control.ListNetworksResponse(networks=named or state.all(types.Network))

    async def GetNetwork(self, request: control.GetRequest, context: object) -> types.Network:
        return lookup.network(self._store.state, request.ref)

    async def RemoveNetwork(self, request: control.GetRequest, context: object) -> control.RemoveResponse:
        def decide(transaction: Transaction) -> control.RemoveResponse:
            network = lookup.network(transaction, request.ref)
            _check_unused(transaction, network)
            transaction.remove(network)
            for kind in (types.KeyScope, store.ScopeSecrets):
                if (each := transaction.get(kind, network.meta.id)) is not None:
                    transaction.remove(each)
            return control.RemoveResponse(id=network.meta.id)

        return await self._store.transact(decide)

    async def AttachNetwork(
        self, request: control.AttachNetworkRequest, context: object
    ) -> control.RemoveResponse:
        network = lookup.network(self._store.state, request.ref)
        what = shlex.join([request.image, *request.command]) if request.image else "IMAGE COMMAND..."
        error = SwarmScoped(
            f"swarm-scoped network ({network.name}) is not compatible with `swarmnet create` or "
            "`swarmnet run`. This network can only be used by a swarm service.",
            hint=f"swarmnet service create --name NAME --network {network.name} {what}",
        )
        self._here.refused(error, network)
        raise error


def _requested(request: control.CreateNetworkRequest, network_id: str, *, encrypted: bool) -> types.Network:
    return types.Network(
        meta=types.Meta(id=network_id),
        name=request.name,
        driver="overlay",
        encrypted=encrypted,
        options=request.options,
        labels=request.labels,
        internal=request.internal,
        attachable=request.attachable,
        scope="swarm",
    )


def _check_unused(transaction: Transaction, network: types.Network) -> None:
    """A service that is created meanwhile has read the network: one of the two commands is rejected."""
    for service in transaction.all(types.Service):
        if network.meta.id in service.spec.networks:
            raise InUse(
                f"network {network.name} is in use by service {service.spec.name}",
                hint=f"Remove the service first: `swarmnet service rm {service.spec.name}`.",
            )
    for task in transaction.scan(types.Task):
        if network.meta.id in task.spec.networks and not is_ended(task):
            raise InUse(
                f"network {network.name} is in use by task {task.meta.id}",
                hint="The task is being stopped: try again in a few seconds.",
            )
