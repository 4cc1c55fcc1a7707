"""`swarmnet node`: ls, inspect, update, promote, demote, rm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.arguments import parse_pairs
from swarmnet.cli.durations import rfc3339
from swarmnet.cli.filters import Filter, Matcher, has_label
from swarmnet.cli.output import (
    Listing,
    Row,
    act_on_each,
    fail_with,
    gather,
    inspect_each,
    labels_text,
    list_options,
    ordered,
    print_pairs,
)
from swarmnet.cli.session import Session
from swarmnet.core.errors import NotFound

NODES: Final = Listing(
    {
        "ID": "ID",
        "Hostname": "HOSTNAME",
        "Status": "STATUS",
        "Availability": "AVAILABILITY",
        "ManagerStatus": "MANAGER STATUS",
        "Self": "SELF",
        "Role": "ROLE",
        "Address": "ADDRESS",
        "DataPathAddress": "DATA PATH ADDRESS",
        "ESP": "ESP",
        "Fenced": "FENCED",
        "Lock": "LOCK",
        "Labels": "LABELS",
    },
    shown=("ID", "Hostname", "Status", "Availability", "ManagerStatus"),
    marked="Self",
)
FILTERS: Final[Mapping[str, Matcher[control_pb2.NodeView]]] = {
    "name": lambda view, text: text in view.node.hostname,
    "id": lambda view, text: view.node.meta.id.startswith(text),
    "label": lambda view, text: has_label(view.node.labels, text),
    "role": lambda view, text: role_word(view.node) == text,
}
_ROLES: Final = {"worker": types.ROLE_WORKER, "manager": types.ROLE_MANAGER}
_AVAILABILITIES: Final = {
    "active": types.AVAILABILITY_ACTIVE,
    "pause": types.AVAILABILITY_PAUSE,
    "drain": types.AVAILABILITY_DRAIN,
}


def role_word(each: types.Node) -> str:
    return _role_name(each.role)


def _wanted_role_word(each: types.Node) -> str:
    """As docker has it in the spec: the role that the operator wants, which the node may not have yet."""
    return _role_name(each.desired_role or each.role)


def _role_name(role: types.Role.ValueType) -> str:
    return types.Role.Name(role).removeprefix("ROLE_").lower()


def _availability_word(each: types.Node) -> str:
    return types.Availability.Name(each.availability).removeprefix("AVAILABILITY_").lower()


def _state_word(each: types.Node) -> str:
    return types.NodeState.Name(each.state).removeprefix("NODE_STATE_").lower()


@click.group()
def node() -> None:
    """Manage the swarm's nodes."""


def _list(session: Session) -> list[control_pb2.NodeView]:
    request = control_pb2.ListNodesRequest()
    return list(session.manager.call(lambda control: control.ListNodes, request, repeatable=True).nodes)


def _find(session: Session, ref: str) -> control_pb2.NodeView:
    if ref == "self":
        own = next((view for view in _list(session) if view.self), None)
        if own is None:
            raise NotFound("the manager asked does not know itself", hint="Name the node: swarmnet node ls.")
        return own
    request = control_pb2.GetRequest(ref=ref)
    return session.manager.call(lambda control: control.GetNode, request, repeatable=True)


@node.command()
@list_options
@click.pass_obj
def ls(session: Session, format_: str, quiet: bool, filters: tuple[str, ...], no_trunc: bool) -> None:
    """List the nodes; * marks the manager that was asked.

    \b
    Example:
      swarmnet node ls --filter role=worker --format '{{.Hostname}} {{.Status}}'
    """
    del no_trunc  # ids of nodes are whole anyway, as docker has it
    found = sorted(filter(Filter(filters, FILTERS), _list(session)), key=lambda view: view.node.hostname)
    NODES.print([_row(view) for view in found], format_=format_, quiet=quiet)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("--pretty", is_flag=True, help="Print it for people.")
@click.option("-f", "--format", "format_", default="", metavar="FORMAT", help="json or a template.")
@click.pass_obj
def inspect(session: Session, nodes: tuple[str, ...], pretty: bool, format_: str) -> None:
    """Show nodes in full, as JSON. `self` is the manager that was asked.

    \b
    Example:
      swarmnet node inspect self --pretty
    """
    if not pretty:
        inspect_each(nodes, lambda ref: document(_find(session, ref)), format_)
        return
    found, errors = gather(nodes, lambda ref: _find(session, ref))
    for view in found:
        print_pairs(_summary(view))
        click.echo()
    fail_with(errors)


@node.command()
@click.argument("node_ref", metavar="NODE")
@click.option("--role", type=click.Choice(list(_ROLES)), help="As node promote and node demote.")
@click.option("--availability", type=click.Choice(list(_AVAILABILITIES)), help="drain: no tasks.")
@click.option("-f", "--force", is_flag=True, help="With drain: give its tasks up, replace its keys, at once.")
@click.option("--label-add", "labels", multiple=True, metavar="KEY[=VALUE]", help="Set a label.")
@click.option("--label-rm", "remove_labels", multiple=True, metavar="KEY", help="Take a label away.")
@click.pass_obj
def update(
    session: Session,
    *,
    node_ref: str,
    role: str | None,
    availability: str | None,
    force: bool,
    labels: tuple[str, ...],
    remove_labels: tuple[str, ...],
) -> None:
    """Change a node's role, availability and labels.

    A drained node's tasks are stopped and move to others; the keys of their networks go with the last one.
    With --force nobody waits for the node: its tasks are given up at once, and these networks get new keys.

    \b
    Example:
      swarmnet node update --availability drain w1
    """
    request = control_pb2.UpdateNodeRequest(
        ref=node_ref,
        availability=_AVAILABILITIES[availability] if availability else None,
        labels=parse_pairs(labels, "--label-add"),
        remove_labels=remove_labels,
        role=_ROLES[role] if role else None,
        force=force,
    )
    session.manager.call(lambda control: control.UpdateNode, request, repeatable=True)
    click.echo(node_ref)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.pass_obj
def promote(session: Session, nodes: tuple[str, ...]) -> None:
    """Make managers of workers on whose hosts swarmnet-manager runs too, outside of any swarm.

    The node's tasks move to other workers first; `swarmnet node ls` shows when it is a manager.

    \b
    Example:
      swarmnet node promote w1
    """
    act_on_each(nodes, lambda ref: _change_role(session, ref, "manager"))


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.pass_obj
def demote(session: Session, nodes: tuple[str, ...]) -> None:
    """Make workers of managers; refused where too few managers would be left to agree.

    The swarmnet-worker on the node's host takes over; without one the node is shown as down.

    \b
    Example:
      swarmnet node demote m2
    """
    act_on_each(nodes, lambda ref: _change_role(session, ref, "worker"))


def _change_role(session: Session, ref: str, role: str) -> str:
    """Docker's words for it. By id from here on: what a name means could change in between."""
    each = _find(session, ref).node
    if _wanted_role_word(each) == role:
        return f"Node {each.meta.id} is already a {role}."
    request = control_pb2.UpdateNodeRequest(ref=each.meta.id, role=_ROLES[role])
    session.manager.call(lambda control: control.UpdateNode, request, repeatable=True)
    if role == "manager":
        return f"Node {ref} promoted to a manager in the swarm."
    return f"Manager {ref} demoted in the swarm."


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("-f", "--force", is_flag=True, help="Even one that is up.")
@click.pass_obj
def rm(session: Session, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes that are down; the keys they held are replaced at once.

    \b
    Example:
      swarmnet node rm w3
    """

    def remove(ref: str) -> str:
        request = control_pb2.RemoveNodeRequest(ref=ref, force=force)
        session.manager.call(lambda control: control.RemoveNode, request)
        return ref

    act_on_each(nodes, remove)


def _row(view: control_pb2.NodeView) -> Row:
    each = view.node
    return {
        "ID": each.meta.id,
        "Hostname": each.hostname,
        "Status": _state_word(each).capitalize(),
        "Availability": _availability_word(each).capitalize(),
        "ManagerStatus": view.manager_status,
        "Self": str(view.self).lower(),
        "Role": role_word(each),
        "Address": each.address,
        "DataPathAddress": each.data_path_address,
        "ESP": str(each.capabilities.esp).lower(),
        "Fenced": str(each.fenced).lower(),
        "Lock": view.lock,
        "Labels": labels_text(each.labels),
    }


def document(view: control_pb2.NodeView) -> Mapping[str, Any]:
    """A node as inspect shows it: docker's shape, and what only swarmnet knows."""
    each, capabilities = view.node, view.node.capabilities
    shown: dict[str, Any] = {
        "ID": each.meta.id,
        "Version": {"Index": each.meta.version},
        "CreatedAt": rfc3339(each.meta.created_at),
        "UpdatedAt": rfc3339(each.meta.updated_at),
        "Spec": {
            "Labels": ordered(each.labels),
            "Role": _wanted_role_word(each),
            "Availability": _availability_word(each),
        },
        "Description": {
            "Hostname": each.hostname,
            "Kernel": capabilities.kernel,
            "Executors": list(capabilities.executors),
            "Images": list(capabilities.images),
            "ESP": capabilities.esp,
            "ESPReason": capabilities.esp_reason,
            "Index": each.index,
            "Manager": capabilities.manager,
            "ManagerReason": capabilities.manager_reason,
            "TLSInfo": {
                "IssuerDigest": each.certificate_root,
                "TrustedRoots": list(each.trusted_roots),
                "ExpiresAt": rfc3339(each.certificate_expires_at),
            },
        },
        "Status": {
            "State": _state_word(each),
            "Message": each.message,
            "Addr": each.address,
            "DataPathAddr": each.data_path_address,
            "Fenced": each.fenced,
        },
    }
    if view.manager_status:
        shown["ManagerStatus"] = {
            "Leader": view.manager_status == "Leader",
            "Reachability": "unreachable" if view.manager_status == "Unreachable" else "reachable",
            "Addr": each.address,
            "BootstrapAddr": each.bootstrap_address,
            "Lock": view.lock,
        }
    return shown


def _role_summary(each: types.Node) -> str:
    now, wanted = role_word(each).capitalize(), _wanted_role_word(each)
    return now if wanted == role_word(each) else f"{now} (becoming a {wanted})"


def _summary(view: control_pb2.NodeView) -> list[tuple[str, object]]:
    each, capabilities = view.node, view.node.capabilities
    status = {
        "State": _state_word(each).capitalize(),
        "Message": each.message,
        "Availability": _availability_word(each).capitalize(),
        "Address": each.address,
    }
    lines: list[tuple[str, object]] = [
        ("ID", each.meta.id),
        ("Hostname", each.hostname),
        ("Role", _role_summary(each)),
        ("Joined at", rfc3339(each.meta.created_at)),
        ("Labels", ordered(each.labels)),
        ("Status", status),
    ]
    if view.manager_status:
        return [*lines, ("Manager Status", view.manager_status)]
    esp = "yes" if capabilities.esp else f"no: {capabilities.esp_reason}"
    return [
        *lines,
        ("Data path address", each.data_path_address),
        ("ESP", esp),
        ("Kernel", capabilities.kernel),
    ]
