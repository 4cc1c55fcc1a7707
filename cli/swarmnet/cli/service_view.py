"""Services and tasks as lists and inspect show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from swarmnet.api.v1 import control_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.convergence import state_word
from swarmnet.cli.durations import ago, rfc3339
from swarmnet.cli.filters import Matcher, has_label
from swarmnet.cli.output import Listing, Row, labels_text, ordered, shorten
from swarmnet.core.ids import SHORT_ID_LENGTH

SERVICES: Final = Listing(
    {
        "ID": "ID",
        "Name": "NAME",
        "Mode": "MODE",
        "Replicas": "REPLICAS",
        "Image": "IMAGE",
        "Ports": "PORTS",
        "Networks": "NETWORKS",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    shown=("ID", "Name", "Mode", "Replicas", "Image", "Ports"),
)
SERVICE_FILTERS: Final[Mapping[str, Matcher[control_pb2.ServiceView]]] = {
    "name": lambda view, text: view.service.spec.name.startswith(text),
    "id": lambda view, text: view.service.meta.id.startswith(text),
    "label": lambda view, text: has_label(view.service.spec.labels, text),
    "mode": lambda view, text: mode_word(view.service.spec) == text,
}
TASKS: Final = Listing(
    {
        "ID": "ID",
        "Name": "NAME",
        "Image": "IMAGE",
        "Node": "NODE",
        "DesiredState": "DESIRED STATE",
        "CurrentState": "CURRENT STATE",
        "Error": "ERROR",
        "Ports": "PORTS",
        "NodeID": "NODE ID",
        "Addresses": "ADDRESSES",
        "ExitCode": "EXIT CODE",
    },
    shown=("ID", "Name", "Image", "Node", "DesiredState", "CurrentState", "Error", "Ports"),
)
TASK_FILTERS: Final[Mapping[str, Matcher[Row]]] = {
    "name": lambda row, text: row["Name"].removeprefix(_EARLIER).startswith(text),
    "id": lambda row, text: row["ID"].startswith(text),
    "node": lambda row, text: row["Node"] == text or row["NodeID"].startswith(text),
    "desired-state": lambda row, text: row["DesiredState"].lower() == text.lower(),
}
_EARLIER: Final = " \\_ "


def mode_word(spec: types.ServiceSpec) -> str:
    return "global" if spec.mode == types.SERVICE_MODE_GLOBAL else "replicated"


def service_row(view: control_pb2.ServiceView, *, no_trunc: bool) -> Row:
    meta, spec = view.service.meta, view.service.spec
    return {
        "ID": meta.id if no_trunc else meta.id[:SHORT_ID_LENGTH],
        "Name": spec.name,
        "Mode": mode_word(spec),
        "Replicas": f"{view.running}/{view.desired}",
        "Image": spec.image,
        "Ports": "",
        "Networks": ",".join(spec.networks),
        "Labels": labels_text(spec.labels),
        "CreatedAt": rfc3339(meta.created_at),
    }


def task_rows(tasks: Iterable[types.Task], hostnames: Mapping[str, str]) -> list[Row]:
    """One row a task, nothing cut: by name, the newest of a name first, earlier ones marked."""
    rows: list[Row] = []
    previous = ""
    newest_first = sorted(tasks, key=lambda task: -task.meta.created_at.ToNanoseconds())
    for task in sorted(newest_first, key=lambda task: (task.spec.name, task.slot, task.node_id)):
        name = f"{task.spec.name}.{task.slot or task.node_id}"
        rows.append(_task_row(task, f"{_EARLIER}{name}" if name == previous else name, hostnames))
        previous = name
    return rows


def _task_row(task: types.Task, name: str, hostnames: Mapping[str, str]) -> Row:
    return {
        "ID": task.meta.id,
        "Name": name,
        "Image": task.spec.image,
        "Node": hostnames.get(task.node_id, task.node_id),
        "DesiredState": state_word(task.desired_state),
        "CurrentState": f"{state_word(task.state)} {ago(task.state_at)}".strip(),
        "Error": _quoted(task.message),
        "Ports": "",
        "NodeID": task.node_id,
        "Addresses": ",".join(
            address
            for attachment in task.attachments
            for address in (attachment.address, attachment.address_v6)
            if address
        ),
        "ExitCode": str(task.exit_code),
    }


def truncate_task(row: Row) -> Row:
    """The row as a table shows it unless --no-trunc is given."""
    return {**row, "ID": row["ID"][:SHORT_ID_LENGTH], "Error": _quoted(shorten(row["Error"][1:-1]))}


def _quoted(message: str) -> str:
    return f'"{message}"' if message else ""


def service_document(view: control_pb2.ServiceView) -> Mapping[str, Any]:
    """A service as inspect shows it: docker's shape."""
    meta, spec = view.service.meta, view.service.spec
    replicated = {"Replicated": {"Replicas": spec.replicas}}
    return {
        "ID": meta.id,
        "Version": {"Index": meta.version},
        "CreatedAt": rfc3339(meta.created_at),
        "UpdatedAt": rfc3339(meta.updated_at),
        "Spec": {
            "Name": spec.name,
            "Labels": ordered(spec.labels),
            "TaskTemplate": _task_template(spec),
            "Mode": {"Global": {}} if spec.mode == types.SERVICE_MODE_GLOBAL else replicated,
        },
        "ServiceStatus": {"RunningTasks": view.running, "DesiredTasks": view.desired},
    }


def _task_template(spec: types.ServiceSpec) -> Mapping[str, Any]:
    condition = types.RestartCondition.Name(spec.restart.condition).removeprefix("RESTART_CONDITION_")
    return {
        "ContainerSpec": {
            "Image": spec.image,
            "Args": list(spec.command),
            "Env": list(spec.env),
            "StopGracePeriod": spec.stop_grace_period.ToNanoseconds(),
        },
        "RestartPolicy": {
            "Condition": condition.lower().replace("_", "-"),
            "Delay": spec.restart.delay.ToNanoseconds(),
            "MaxAttempts": spec.restart.max_attempts,
        },
        "Placement": {"Constraints": list(spec.constraints)},
        "Networks": [{"Target": network} for network in spec.networks],
    }


def service_summary(view: control_pb2.ServiceView) -> list[tuple[str, object]]:
    """The lines of `inspect --pretty`."""
    spec = view.service.spec
    return [
        ("ID", view.service.meta.id),
        ("Name", spec.name),
        ("Labels", ordered(spec.labels)),
        ("Service Mode", mode_word(spec).capitalize()),
        ("Replicas", f"{view.running}/{view.desired}"),
        ("Image", spec.image),
        ("Args", " ".join(spec.command)),
        ("Env", list(spec.env)),
        ("Constraints", list(spec.constraints)),
        ("Networks", list(spec.networks)),
    ]
