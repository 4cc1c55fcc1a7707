"""`swarmnet raft`: status and transfer-leader."""

from __future__ import annotations

from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2
from swarmnet.cli.output import Listing, Row, print_pairs
from swarmnet.cli.session import Session

UNKNOWN: Final = "-"
MEMBERS: Final = Listing(
    {
        "ID": "ID",
        "Hostname": "HOSTNAME",
        "Address": "ADDRESS",
        "Status": "STATUS",
        "Match": "MATCH",
        "Lag": "LAG",
        "LastHeard": "LAST HEARD",
        "Self": "SELF",
    },
    shown=("ID", "Hostname", "Address", "Status", "Match", "Lag", "LastHeard"),
    marked="Self",
)


@click.group()
def raft() -> None:
    """See how the managers agree, and who leads them."""


@raft.command()
@click.option("--format", "format_", default="", metavar="FORMAT", help="json, or a template.")
@click.pass_obj
def status(session: Session, format_: str) -> None:
    """Show where Raft stands, as the manager that is asked sees it (*); it answers without a leader, too.

    MATCH is the last entry that the leader knows a manager to have, LAG how many it lacks; - is unknown.

    \b
    Example:
      swarmnet raft status --format '{{.Leader.Hostname}} {{.AppliedIndex}}'
    """
    request = control_pb2.GetRaftStatusRequest()
    found = session.manager.call(lambda control: control.GetRaftStatus, request, repeatable=True)
    shown = document(found)
    if format_:
        from swarmnet.cli.template import parse

        template = "{{json .}}" if format_ == "json" else format_
        click.echo(parse(template).render(shown))
        return
    print_pairs(_summary(shown))
    click.echo()
    MEMBERS.print([_row(each) for each in shown["Managers"]])


@raft.command("transfer-leader")
@click.argument("node", default="", metavar="[NODE]")
@click.pass_obj
def transfer_leader(session: Session, node: str) -> None:
    """Hand leadership over, to NODE or to the manager that has most of the log.

    For before a leader's host is taken down; swarmnet-manager does it by itself when it is stopped (SIGTERM).

    \b
    Example:
      swarmnet raft transfer-leader m2
    """
    request = control_pb2.TransferLeadershipRequest(ref=node)
    answer = session.manager.call(lambda control: control.TransferLeadership, request)
    click.echo(f"Leader: {answer.leader_id}")


def document(found: control_pb2.RaftStatus) -> dict[str, Any]:
    """What templates and JSON see. An index that is not known is null."""
    leader = next((each for each in found.members if each.node_id == found.leader_id), None)
    return {
        "Self": found.node_id,
        "Term": found.term,
        "Leader": {"ID": found.leader_id, "Hostname": leader.hostname if leader is not None else ""},
        "CommitIndex": found.commit_index,
        "AppliedIndex": found.applied_index,
        "LastIndex": found.last_index,
        "LastTerm": found.last_term,
        "Journal": {"Bytes": found.journal_bytes, "Entries": found.journal_entries},
        "Snapshot": {"Bytes": found.snapshot_bytes, "Index": found.snapshot_index},
        "Managers": [_member(each, found) for each in found.members],
    }


def _member(each: control_pb2.RaftMemberStatus, found: control_pb2.RaftStatus) -> dict[str, Any]:
    match = each.match_index if each.HasField("match_index") else None
    status = "Leader" if each.node_id == found.leader_id else "Reachable" if each.reachable else "Unreachable"
    ends = [one.match_index for one in found.members if one.HasField("match_index")]
    return {
        "ID": each.node_id,
        "Hostname": each.hostname,
        "Address": each.address,
        "Self": each.node_id == found.node_id,
        "Status": status,
        "Match": match,
        "Lag": None if match is None else max(ends) - match,
        "LastHeardSeconds": each.last_heard.ToMilliseconds() / 1000 if each.HasField("last_heard") else None,
    }


def _row(each: dict[str, Any]) -> Row:
    heard_s = each["LastHeardSeconds"]
    return {
        **{name: UNKNOWN if value is None else str(value) for name, value in each.items()},
        "Self": str(each["Self"]).lower(),
        "LastHeard": UNKNOWN if heard_s is None else f"{heard_s:.1f} s ago",
    }


def _summary(shown: dict[str, Any]) -> list[tuple[str, object]]:
    managers, leader = shown["Managers"], shown["Leader"]
    up = sum(each["Status"] != "Unreachable" for each in managers)
    none = f"none: {up} of {len(managers)} managers can be reached, {len(managers) // 2 + 1} are needed"
    return [
        ("Term", shown["Term"]),
        ("Leader", f"{leader['Hostname']} ({leader['ID']})" if leader["ID"] else none),
        ("Applied index", shown["AppliedIndex"]),
        ("Commit index", shown["CommitIndex"]),
        ("Last entry", f"{shown['LastIndex']} of term {shown['LastTerm']}"),
        ("Journal", f"{shown['Journal']['Entries']} entries, {shown['Journal']['Bytes']} bytes"),
        ("Snapshot", _snapshot_text(shown["Snapshot"])),
    ]


def _snapshot_text(snapshot: dict[str, int]) -> str:
    if not snapshot["Index"]:
        return "none yet"
    return f"up to entry {snapshot['Index']}, {snapshot['Bytes']} bytes"
