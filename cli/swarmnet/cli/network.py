"""`swarmnet network`: create, ls, inspect, rm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.arguments import parse_pairs, request_id
from swarmnet.cli.durations import rfc3339
from swarmnet.cli.filters import Filter, Matcher, has_label
from swarmnet.cli.output import Listing, Row, act_on_each, inspect_each, labels_text, list_options, ordered
from swarmnet.cli.session import Session
from swarmnet.core.ids import SHORT_ID_LENGTH

NETWORKS: Final = Listing(
    {
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "Encrypted": "ENCRYPTED",
        "Subnets": "SUBNETS",
        "VNI": "VNI",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    shown=("ID", "Name", "Driver", "Scope"),
)
FILTERS: Final[Mapping[str, Matcher[types.Network]]] = {
    "name": lambda network, text: text in network.name,
    "id": lambda network, text: network.meta.id.startswith(text),
    "label": lambda network, text: has_label(network.labels, text),
    "driver": lambda network, text: network.driver == text,
    "scope": lambda network, text: network.scope == text,
}


@click.group()
def network() -> None:
    """Manage networks."""


@network.command()
@click.argument("name")
@click.option("-d", "--driver", default="overlay", show_default=True, help="The kind of network.")
@click.option("-o", "--opt", "options", multiple=True, metavar="KEY[=VALUE]", help="Such as: encrypted.")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="Instead of one from the pool.")
@click.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="A label of the network.")
@click.option("--internal", is_flag=True, help="No way out to other networks.")
@click.option("--attachable", is_flag=True, help="As docker has it; only tasks can join all the same.")
@click.pass_obj
def create(
    session: Session,
    *,
    name: str,
    driver: str,
    options: tuple[str, ...],
    subnets: tuple[str, ...],
    labels: tuple[str, ...],
    internal: bool,
    attachable: bool,
) -> None:
    """Create a network and print its id.

    \b
    Example:
      swarmnet network create --driver overlay --opt encrypted my-multi-host-network
    """
    request = control_pb2.CreateNetworkRequest(
        name=name,
        driver=driver,
        options=parse_pairs(options, "--opt"),
        subnets=subnets,
        labels=parse_pairs(labels, "--label"),
        internal=internal,
        attachable=attachable,
        request_id=request_id(),
    )
    click.echo(session.manager.call(lambda control: control.CreateNetwork, request, repeatable=True).id)


@network.command()
@list_options
@click.pass_obj
def ls(session: Session, format_: str, quiet: bool, filters: tuple[str, ...], no_trunc: bool) -> None:
    """List networks.

    \b
    Example:
      swarmnet network ls --filter driver=overlay --format '{{.Name}} {{.Subnets}}'
    """
    matches = Filter(filters, FILTERS)
    request = control_pb2.ListRequest()
    answer = session.manager.call(lambda control: control.ListNetworks, request, repeatable=True)
    found = sorted(filter(matches, answer.networks), key=lambda each: each.name)
    NETWORKS.print([_row(each, no_trunc=no_trunc) for each in found], format_=format_, quiet=quiet)


@network.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--format", "format_", default="", metavar="FORMAT", help="json or a template.")
@click.pass_obj
def inspect(session: Session, networks: tuple[str, ...], format_: str) -> None:
    """Show networks in full, as JSON.

    \b
    Example:
      swarmnet network inspect --format '{{range .IPAM.Config}}{{.Subnet}}{{end}}' my-multi-host-network
    """

    def find(ref: str) -> Mapping[str, Any]:
        request = control_pb2.GetRequest(ref=ref)
        return document(session.manager.call(lambda control: control.GetNetwork, request, repeatable=True))

    inspect_each(networks, find, format_)


@network.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.pass_obj
def rm(session: Session, networks: tuple[str, ...]) -> None:
    """Remove networks that no service uses.

    \b
    Example:
      swarmnet network rm my-multi-host-network
    """

    def remove(ref: str) -> str:
        session.manager.call(lambda control: control.RemoveNetwork, control_pb2.GetRequest(ref=ref))
        return ref

    act_on_each(networks, remove)


def _row(each: types.Network, *, no_trunc: bool) -> Row:
    return {
        "ID": each.meta.id if no_trunc else each.meta.id[:SHORT_ID_LENGTH],
        "Name": each.name,
        "Driver": each.driver,
        "Scope": each.scope,
        "Encrypted": str(each.encrypted).lower(),
        "Subnets": ",".join(subnet.cidr for subnet in each.subnets),
        "VNI": str(each.vni),
        "Internal": str(each.internal).lower(),
        "Labels": labels_text(each.labels),
        "CreatedAt": rfc3339(each.meta.created_at),
    }


def document(each: types.Network) -> Mapping[str, Any]:
    """A network as inspect shows it."""
    return {
        "Name": each.name,
        "Id": each.meta.id,
        "Version": {"Index": each.meta.version},
        "Created": rfc3339(each.meta.created_at),
        "Scope": each.scope,
        "Driver": each.driver,
        "Encrypted": each.encrypted,
        "IPAM": {"Config": [{"Subnet": subnet.cidr, "Gateway": subnet.gateway} for subnet in each.subnets]},
        "VNI": each.vni,
        "Port": each.port,
        "Index": each.index,
        "Internal": each.internal,
        "Attachable": each.attachable,
        "Options": ordered(each.options),
        "Labels": ordered(each.labels),
    }
