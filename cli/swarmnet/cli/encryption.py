"""`swarmnet encryption`: status and verify. What the kernels really do, never a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from swarmnet.api.v1 import control_pb2, encryption_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.durations import ago
from swarmnet.cli.output import Listing, Row
from swarmnet.cli.session import Session

_DROPPED_PLAINTEXT: Final = ("XfrmInNoPols", "XfrmInTmplMismatch", "XfrmOutPolBlock")
"""What the kernel counts when a guard drops a packet (Documentation/networking/xfrm_proc.rst)."""
_NONE: Final = "-"

TUNNELS: Final = Listing(
    {
        "Network": "NETWORK",
        "Node": "NODE",
        "Peer": "PEER",
        "Epoch": "EPOCH",
        "Role": "ROLE",
        "SPI": "SPI OUT/IN",
        "Sent": "SENT",
        "Received": "RECEIVED",
        "SentBytes": "SENT BYTES",
        "ReceivedBytes": "RECEIVED BYTES",
        "Age": "AGE",
        "Replayed": "REPLAYED",
        "NotAuthentic": "NOT AUTHENTIC",
    },
    shown=(
        "Network",
        "Node",
        "Peer",
        "Epoch",
        "Role",
        "SPI",
        "Sent",
        "Received",
        "Age",
        "Replayed",
        "NotAuthentic",
    ),
)
NODES: Final = Listing(
    {
        "Node": "NODE",
        "ID": "ID",
        "Networks": "NETWORKS",
        "Guarded": "GUARDED",
        "Firewall": "FIREWALL",
        "Tunnels": "TUNNELS",
        "DroppedPlaintext": "DROPPED PLAINTEXT",
        "Replayed": "REPLAYED",
        "NotAuthentic": "NOT AUTHENTIC",
        "Error": "ERROR",
    },
    shown=(
        "Node",
        "Networks",
        "Guarded",
        "Firewall",
        "Tunnels",
        "DroppedPlaintext",
        "Replayed",
        "NotAuthentic",
        "Error",
    ),
)
PAIRS: Final = Listing(
    {
        "From": "FROM",
        "To": "TO",
        "Probes": "PROBES",
        "Encrypted": "ENCRYPTED",
        "SeenOut": "ESP LEFT",
        "SeenIn": "ESP ARRIVED",
        "Decrypted": "DECRYPTED",
        "Plaintext": "IN CLEAR",
        "Verdict": "VERDICT",
    },
    shown=("From", "To", "Probes", "Encrypted", "SeenOut", "SeenIn", "Decrypted", "Plaintext", "Verdict"),
    quiet="Verdict",
)


@click.group()
def encryption() -> None:
    """See and prove what is encrypted on the wire."""


@encryption.command()
@click.argument("networks", nargs=-1, metavar="[NETWORK...]")
@click.option("--per-node", is_flag=True, help="A line for each node instead of each tunnel.")
@click.option("--format", "format_", default="", metavar="FORMAT", help="json, table, or a template.")
@click.pass_obj
def status(session: Session, networks: tuple[str, ...], per_node: bool, format_: str) -> None:
    """Show every tunnel of encrypted networks as the kernels have it now; * is the epoch that is sent with.

    \b
    Example:
      swarmnet encryption status my-multi-host-network
      swarmnet encryption status --per-node
    """
    request = control_pb2.GetEncryptionRequest(networks=networks)
    found = session.manager.call(lambda control: control.GetEncryption, request, repeatable=True)
    listing = NODES if per_node else TUNNELS
    rows = [_node_row(each) for each in found.nodes] if per_node else list(_tunnel_rows(found))
    listing.print(rows, format_=format_)
    if not per_node:
        _tell_silent((each.hostname, each.error) for each in found.nodes if each.error)


@encryption.command()
@click.argument("network")
@click.option("--format", "format_", default="", metavar="FORMAT", help="json, table, or a template.")
@click.pass_obj
def verify(session: Session, network: str, format_: str) -> None:
    """Have all nodes of NETWORK send probes to each other, and check that they went encrypted, both ways.

    Counted by the kernels' SAs, and seen on the underlay by a capture. Status 1 unless all pairs are proved.

    \b
    Example:
      swarmnet encryption verify my-multi-host-network
    """
    request = control_pb2.VerifyEncryptionRequest(network=network)
    found = session.manager.call(lambda control: control.VerifyEncryption, request)
    rows = sorted(_pair_rows(found), key=lambda row: (row["From"], row["To"]))
    PAIRS.print(rows, format_=format_)
    silent = [(each.hostname, each.error) for each in found.nodes if each.error]
    _tell_silent(silent)
    if silent or not rows or any(row["Verdict"] != "encrypted" for row in rows):
        raise SystemExit(1)


def _tell_silent(nodes: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
    for hostname, error in nodes:
        click.echo(f"{hostname} did not answer: {error}", err=True)


def _tunnel_rows(found: control_pb2.GetEncryptionResponse) -> Iterator[Row]:
    for node in found.nodes:
        for network in node.networks:
            for tunnel in network.tunnels:
                yield _tunnel_row(node.hostname, network, tunnel)


def _tunnel_row(
    hostname: str, network: encryption_pb2.NetworkEncryption, tunnel: encryption_pb2.Tunnel
) -> Row:
    out, back = tunnel.outbound, tunnel.inbound
    used = " *" if tunnel.epoch == network.sending else ""
    return {
        "Network": network.name or network.network_id,
        "Node": hostname,
        "Peer": tunnel.peer_hostname,
        "Epoch": f"{tunnel.epoch}{used}",
        "Role": types.EpochRole.Name(tunnel.role).removeprefix("EPOCH_ROLE_").lower(),
        "SPI": f"{_spi(tunnel, 'outbound')}/{_spi(tunnel, 'inbound')}",
        "Sent": str(out.packets),
        "Received": str(back.packets),
        "SentBytes": str(out.bytes),
        "ReceivedBytes": str(back.bytes),
        "Age": ago(out.added_at) if tunnel.HasField("outbound") else _NONE,
        "Replayed": str(back.replayed + back.outside_window),
        "NotAuthentic": str(back.not_authentic),
    }


def _spi(tunnel: encryption_pb2.Tunnel, end: Any) -> str:
    return f"{getattr(tunnel, end).spi:#010x}" if tunnel.HasField(end) else _NONE


def _node_row(node: encryption_pb2.NodeEncryption) -> Row:
    ends = [each.inbound for network in node.networks for each in network.tunnels]
    return {
        "Node": node.hostname,
        "ID": node.node_id,
        "Networks": str(len(node.networks)),
        "Guarded": _yes(all(each.guarded for each in node.networks) and not node.error),
        "Firewall": node.firewall or _NONE,
        "Tunnels": str(len(ends)),
        "DroppedPlaintext": str(sum(node.counters.get(name, 0) for name in _DROPPED_PLAINTEXT)),
        "Replayed": str(sum(each.replayed + each.outside_window for each in ends)),
        "NotAuthentic": str(sum(each.not_authentic for each in ends)),
        "Error": node.error,
    }


def _pair_rows(found: control_pb2.VerifyEncryptionResponse) -> Iterator[Row]:
    """A row for each direction, from what its two ends say."""
    ends = {(node.node_id, peer.peer_node_id): peer for node in found.nodes for peer in node.peers}
    names = {node.node_id: node.hostname for node in found.nodes}
    for (source, destination), sent in ends.items():
        received = ends.get((destination, source))
        yield _pair_row(names[source], sent.peer_hostname, sent, received)


def _pair_row(
    source: str,
    destination: str,
    sent: encryption_pb2.PeerProbes,
    received: encryption_pb2.PeerProbes | None,
) -> Row:
    got = received if received is not None else encryption_pb2.PeerProbes()
    return {
        "From": source,
        "To": destination,
        "Probes": str(sent.sent),
        "Encrypted": str(sent.encrypted),
        "SeenOut": str(sent.seen_out),
        "SeenIn": str(got.seen_in),
        "Decrypted": str(got.decrypted),
        "Plaintext": str(sent.plaintext_out + got.plaintext_in),
        "Verdict": verdict(sent, received),
    }


def verdict(sent: encryption_pb2.PeerProbes, received: encryption_pb2.PeerProbes | None) -> str:
    """Of one direction: "encrypted", or what is wrong with it, the worst first."""
    if sent.plaintext_out or (received is not None and received.plaintext_in):
        return "IN CLEAR"
    if sent.encrypted < sent.sent:
        return "not sent"
    if received is None:
        return "unknown"
    if received.decrypted < sent.sent:
        return "not received"
    return "encrypted" if sent.seen_out >= sent.sent and received.seen_in >= sent.sent else "not seen"


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
