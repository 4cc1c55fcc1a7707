"""`swarmnet service`: create, ls, ps, inspect, scale, rm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.arguments import parse_count, parse_environment, parse_pairs, request_id
from swarmnet.cli.convergence import Convergence
from swarmnet.cli.durations import duration_option
from swarmnet.cli.filters import Filter
from swarmnet.cli.follow import follow
from swarmnet.cli.output import act_on_each, fail_with, gather, inspect_each, list_options, print_pairs
from swarmnet.cli.service_view import (
    SERVICE_FILTERS,
    SERVICES,
    TASK_FILTERS,
    TASKS,
    service_document,
    service_row,
    service_summary,
    task_rows,
    truncate_task,
)
from swarmnet.cli.session import Session
from swarmnet.core.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

_CONDITIONS: Final = {
    "any": types.RESTART_CONDITION_ANY,
    "on-failure": types.RESTART_CONDITION_ON_FAILURE,
    "none": types.RESTART_CONDITION_NONE,
}
_MODES: Final = {"replicated": types.SERVICE_MODE_REPLICATED, "global": types.SERVICE_MODE_GLOBAL}
_detach = click.option("-d", "--detach", is_flag=True, help="Leave at once; do not wait for the tasks.")


@click.group()
def service() -> None:
    """Manage services and their tasks."""


@service.command(context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1)
@click.option("--name", default="", help="Its name; made from the image's unless given.")
@click.option("--replicas", default=None, metavar="N", help="How many tasks.  [default: 1]")
@click.option("--mode", type=click.Choice(list(_MODES)), default="replicated", show_default=True)
@click.option("--network", "networks", multiple=True, metavar="NETWORK", help="A network to join.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="A setting for its environment.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="A label.")
@click.option("--constraint", "constraints", multiple=True, metavar="EXPR",
              help="Where it may run, e.g. node.labels.zone==a.")  # fmt: skip
@click.option("--restart-condition", type=click.Choice(list(_CONDITIONS)), default="any", show_default=True)
@click.option(
    "--restart-delay", callback=duration_option, metavar="TIME", help="Between tries.  [default: 5s]"
)
@click.option("--restart-max-attempts", default="0", metavar="N", help="Tries before giving up; 0: no limit.")
@click.option("--stop-grace-period", callback=duration_option, metavar="TIME",
              help="From SIGTERM to SIGKILL.  [default: 10s]")  # fmt: skip
@_detach
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def create(session: Session, /, *, detach: bool, quiet: bool, **given: Any) -> None:
    """Create a service, print its id and wait until its tasks run.

    \b
    Example:
      swarmnet service create --name web --replicas 3 --network my-network \\
          --env PORT=80 my-image python3 -m http.server 80
    """
    request = control_pb2.CreateServiceRequest(spec=_make_spec(**given), request_id=request_id())
    created = session.manager.call(lambda control: control.CreateService, request, repeatable=True)
    click.echo(created.id)
    for warning in created.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if not detach:
        _converge(session, created.id, quiet=quiet)


def _make_spec(
    *,
    image: str,
    command: tuple[str, ...],
    name: str,
    replicas: str | None,
    mode: str,
    networks: tuple[str, ...],
    env: tuple[str, ...],
    labels: tuple[str, ...],
    constraints: tuple[str, ...],
    restart_condition: str,
    restart_delay: Duration | None,
    restart_max_attempts: str,
    stop_grace_period: Duration | None,
) -> types.ServiceSpec:
    if mode == "global" and replicas is not None:
        raise InvalidArgument(
            "replicas can only be used with replicated mode",
            hint="A global service runs one task on each node: leave out --replicas, or --mode global.",
        )
    return types.ServiceSpec(
        name=name or _name_for(image),
        image=image,
        command=command,
        env=parse_environment(env, os.environ),
        mode=_MODES[mode],
        replicas=0 if mode == "global" else parse_count(replicas or "1", "--replicas"),
        networks=networks,
        restart=types.RestartPolicy(
            condition=_CONDITIONS[restart_condition],
            delay=restart_delay,
            max_attempts=parse_count(restart_max_attempts, "--restart-max-attempts"),
        ),
        labels=parse_pairs(labels, "--label"),
        constraints=constraints,
        stop_grace_period=stop_grace_period,
    )


def _name_for(image: str) -> str:
    """The image's own name and a few random characters."""
    base = image.rpartition("/")[2].partition(":")[0]
    letters = "".join(c for c in base if c.isascii() and (c.isalnum() or c in "_.-")).lstrip("_.-")
    return f"{letters[:40] or 'service'}-{request_id()[-6:]}"


def _converge(session: Session, service_id: str, *, quiet: bool) -> None:
    """Wait for the service's tasks. After Ctrl-C the swarm goes on by itself."""
    try:
        follow(session.manager, Convergence(service_id), None if quiet else sys.stdout)
    except KeyboardInterrupt:
        click.echo(
            f"Operation continuing in background.\nUse `swarmnet service ps {service_id}` to check progress.",
            err=True,
        )
        raise
    if not quiet:
        click.echo(f"verify: Service {service_id} converged")


@service.command()
@list_options
@click.pass_obj
def ls(session: Session, format_: str, quiet: bool, filters: tuple[str, ...], no_trunc: bool) -> None:
    """List services.

    \b
    Example:
      swarmnet service ls --filter name=web --format '{{.Name}} {{.Replicas}}'
    """
    matches = Filter(filters, SERVICE_FILTERS)
    request = control_pb2.ListRequest()
    answer = session.manager.call(lambda control: control.ListServices, request, repeatable=True)
    found = sorted(filter(matches, answer.services), key=lambda view: view.service.spec.name)
    SERVICES.print([service_row(view, no_trunc=no_trunc) for view in found], format_=format_, quiet=quiet)


def _find(session: Session, ref: str) -> control_pb2.ServiceView:
    request = control_pb2.GetRequest(ref=ref)
    return session.manager.call(lambda control: control.GetService, request, repeatable=True)


@service.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@list_options
@click.pass_obj
def ps(session: Session, *, services: tuple[str, ...], format_: str, quiet: bool, filters: tuple[str, ...],
       no_trunc: bool) -> None:  # fmt: skip
    """List the tasks of services: where they run, and why one does not.

    \b
    Example:
      swarmnet service ps web --no-trunc
    """
    matches = Filter(filters, TASK_FILTERS)
    found, errors = gather(services, lambda ref: _find(session, ref).service.meta.id)
    if found:
        rows = [row for row in _rows_of(session, found) if matches(row)]
        TASKS.print(rows if no_trunc else [truncate_task(row) for row in rows], format_=format_, quiet=quiet)
    fail_with(errors)


def _rows_of(session: Session, service_ids: list[str]) -> list[Mapping[str, str]]:
    request = control_pb2.ListTasksRequest(services=service_ids)
    tasks = session.manager.call(lambda control: control.ListTasks, request, repeatable=True).tasks
    answer = session.manager.call(
        lambda control: control.ListNodes, control_pb2.ListNodesRequest(), repeatable=True
    )
    return task_rows(tasks, {view.node.meta.id: view.node.hostname for view in answer.nodes})


@service.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--pretty", is_flag=True, help="Print it for people.")
@click.option("-f", "--format", "format_", default="", metavar="FORMAT", help="json or a template.")
@click.pass_obj
def inspect(session: Session, services: tuple[str, ...], pretty: bool, format_: str) -> None:
    """Show services in full, as JSON.

    \b
    Example:
      swarmnet service inspect --pretty web
    """
    if not pretty:
        inspect_each(services, lambda ref: service_document(_find(session, ref)), format_)
        return
    found, errors = gather(services, lambda ref: _find(session, ref))
    for view in found:
        print_pairs(service_summary(view))
        click.echo()
    fail_with(errors)


@service.command()
@click.argument("targets", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@_detach
@click.pass_obj
def scale(session: Session, targets: tuple[str, ...], detach: bool) -> None:
    """Change how many tasks services have, and wait until they run.

    \b
    Example:
      swarmnet service scale web=5
    """
    wanted = [_parse_target(target) for target in targets]  # all of them first: a bad one changes nothing

    def change(target: tuple[str, int]) -> str:
        request = control_pb2.ScaleServiceRequest(ref=target[0], replicas=target[1])
        view = session.manager.call(lambda control: control.ScaleService, request, repeatable=True)
        click.echo(f"{target[0]} scaled to {target[1]}")
        return view.service.meta.id

    scaled, errors = gather(wanted, change)
    for service_id in [] if detach else scaled:
        _converge(session, service_id, quiet=False)
    fail_with(errors)


def _parse_target(text: str) -> tuple[str, int]:
    name, equals, count = text.rpartition("=")
    if not equals or not name:
        raise InvalidArgument(f"invalid scale specifier {text!r}", hint="Write SERVICE=REPLICAS, e.g. web=5.")
    return name, parse_count(count, f"number of replicas for {name}")


@service.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.pass_obj
def rm(session: Session, services: tuple[str, ...]) -> None:
    """Remove services and their tasks.

    \b
    Example:
      swarmnet service rm web
    """

    def remove(ref: str) -> str:
        session.manager.call(lambda control: control.RemoveService, control_pb2.GetRequest(ref=ref))
        return ref

    act_on_each(services, remove)
