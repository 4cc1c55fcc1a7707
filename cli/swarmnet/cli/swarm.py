"""`swarmnet swarm`: init, join, join-token, leave, update, unlock, ca, credentials, backup, restore."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from swarmnet.api.v1 import ca_pb2, control_pb2, local_pb2
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli import backup
from swarmnet.cli.arguments import parse_count
from swarmnet.cli.ca import ca
from swarmnet.cli.daemons import Kind, find_daemon
from swarmnet.cli.durations import duration_option
from swarmnet.cli.lock import autolock_option, known_key, print_unlock_key, unlock, unlock_key
from swarmnet.cli.session import CREDENTIALS_DIR, Session
from swarmnet.core.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

_ROLES: Final = {"worker": types.ROLE_WORKER, "manager": types.ROLE_MANAGER}
_rotation_period = click.option("--key-rotation-period", callback=duration_option, metavar="TIME",
                                help="How long a key is used. [default: 12h]")  # fmt: skip
_rotation_deadline = click.option("--key-rotation-deadline", callback=duration_option, metavar="TIME",
                                  help="Fence nodes that are later. [default: 5m]")  # fmt: skip
_cert_expiry = click.option("--cert-expiry", callback=duration_option, metavar="TIME",
                            help="How long certificates of nodes last. [default: 2160h]")  # fmt: skip
_encrypt_by_default = click.option("--encrypt-by-default/--no-encrypt-by-default", default=None,
                                   help="Encrypt new networks unless they are told not to.")  # fmt: skip
_which = (
    click.option("--manager", "kind", flag_value="manager", help="This host's swarmnet-manager."),
    click.option("--worker", "kind", flag_value="worker", help="This host's swarmnet-worker."),
)


@click.group()
def swarm() -> None:
    """Make, join and leave a swarm, back it up and restore it."""


swarm.add_command(backup.backup)
swarm.add_command(backup.restore)
swarm.add_command(ca)
swarm.add_command(unlock)
swarm.add_command(unlock_key)


@swarm.command()
@_rotation_period
@_rotation_deadline
@_cert_expiry
@_encrypt_by_default
@click.option("--default-addr-pool", "pools", multiple=True, metavar="CIDR",
              help="Where subnets of networks come from. [default: 10.0.0.0/8]")  # fmt: skip
@click.option("--default-addr-pool-mask-length", "prefix", default="0", metavar="BITS",
              help="Their size. [default: 24]")  # fmt: skip
@autolock_option
@click.option("--force-new-cluster", is_flag=True, help="Recover from a lost majority of managers.")
@click.pass_obj
def init(
    session: Session,
    *,
    key_rotation_period: Duration | None,
    key_rotation_deadline: Duration | None,
    cert_expiry: Duration | None,
    encrypt_by_default: bool | None,
    pools: tuple[str, ...],
    prefix: str,
    autolock: bool | None,
    force_new_cluster: bool,
) -> None:
    """Make a swarm, with this host's swarmnet-manager as its first manager.

    With --force-new-cluster, a manager of a swarm that lost its majority for good becomes its only manager,
    with the state that it has. Use it once, on the manager whose journal ends last: `swarmnet raft status`.

    With --autolock, a manager that was restarted needs the unlock key that is printed: `swarm unlock`.

    \b
    Example:
      swarmnet swarm init --autolock
    """
    request = local_pb2.InitRequest(
        key_rotation_period=key_rotation_period,
        key_rotation_deadline=key_rotation_deadline,
        certificate_lifetime=cert_expiry,
        encrypt_by_default=encrypt_by_default,
        address_pools=pools,
        subnet_prefix_length=parse_count(prefix, "--default-addr-pool-mask-length"),
        autolock=bool(autolock),
        force_new_cluster=force_new_cluster,
    )
    answer = find_daemon(session.run_dir, "manager").call(lambda daemon: daemon.Init, request)
    if force_new_cluster:
        _print_recovered(answer)
        return
    click.echo(f"Swarm initialized: current node ({answer.node_id}) is now a manager.\n")
    _print_join("worker", answer.worker_token, answer.address)
    click.echo(
        "To add a manager to this swarm, run 'swarmnet swarm join-token manager' and follow the instructions."
    )
    if autolock:
        click.echo()
        print_unlock_key(known_key(session))


def _print_recovered(answer: local_pb2.InitResponse) -> None:
    recovered = answer.recovered
    tail = recovered.last_index - recovered.committed_index
    click.echo(
        f"Swarm recovered: current node ({answer.node_id}) is now its only manager.\n\n"
        f"It went on from entry {recovered.last_index} of its journal; the managers had agreed on entry "
        f"{recovered.committed_index}, as far as it knew.\n"
        f"- Entries that were not known to be agreed on, and count now: {tail}.\n"
        "- Entries that the others had agreed on without this manager are lost: the last changes may be "
        "missing.",
    )
    backup.print_taken_out(recovered.removed)
    click.echo("\nTo add managers to this swarm, run 'swarmnet swarm join-token manager'.")


def _print_join(role: str, token: str, address: str) -> None:
    click.echo(
        f"To add a {role} to this swarm, run the following command:\n\n"
        f"    swarmnet swarm join --token {token} {address}\n"
    )


@swarm.command()
@click.argument("addresses", nargs=-1, required=True, metavar="HOST[:PORT]...")
@click.option("--token", default="", metavar="TOKEN", help="As `swarm join-token` prints it; - reads stdin.")
@click.option("--token-file", default="", metavar="FILE", help="A file that holds it; - reads stdin.")
@_which[0]
@_which[1]
@click.pass_obj
def join(
    session: Session, *, addresses: tuple[str, ...], token: str, token_file: str, kind: Kind | None
) -> None:
    """Join a swarm, as a worker or a manager: as the token and this host's daemon are.

    The token is a secret, and others on this host can read a command line: --token-file keeps it out.

    \b
    Example:
      swarmnet swarm join --token-file token.txt 10.0.0.11:2378
    """
    request = local_pb2.JoinRequest(token=_read_token(token, token_file), addresses=addresses)
    daemon = find_daemon(session.run_dir, kind)
    daemon.call(lambda local: local.Join, request)
    click.echo(f"This node joined a swarm as a {daemon.kind}.")


def _read_token(token: str, token_file: str) -> str:
    if bool(token) == bool(token_file):
        raise InvalidArgument(
            "a join token is needed, once",
            hint="Give --token TOKEN or --token-file FILE. "
            "`swarmnet swarm join-token worker` prints it on a manager.",
        )
    if "-" in {token, token_file}:
        return sys.stdin.readline().strip()
    if token:
        return token
    try:
        with open(token_file, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InvalidArgument(
            f"cannot read the token file {token_file}: {why}", hint="Give the file that holds the join token."
        ) from None


@swarm.command("join-token")
@click.argument("role", type=click.Choice(list(_ROLES)))
@click.option("--rotate", is_flag=True, help="Make a new token; the old one stops working at once.")
@click.option("-q", "--quiet", is_flag=True, help="Print the token only.")
@click.pass_obj
def join_token(session: Session, role: str, rotate: bool, quiet: bool) -> None:
    """Print the command that joins a worker or a manager.

    \b
    Example:
      swarmnet swarm join-token worker
    """
    if rotate:
        request = control_pb2.RotateJoinTokenRequest(role=_ROLES[role])
        tokens = session.manager.call(lambda control: control.RotateJoinToken, request)
    else:
        tokens = session.manager.call(
            lambda control: control.GetJoinTokens, control_pb2.GetJoinTokensRequest(), repeatable=True
        )
    token = tokens.worker if role == "worker" else tokens.manager
    if quiet:
        click.echo(token)
        return
    if rotate:
        click.echo(f"Successfully rotated {role} join token.\n")
    _print_join(role, token, tokens.manager_address)


@swarm.command()
@click.option("-f", "--force", is_flag=True, help="Even the last manager, or one that the majority needs.")
@_which[0]
@_which[1]
@click.pass_obj
def leave(session: Session, force: bool, kind: Kind | None) -> None:
    """Leave the swarm: a worker stops its tasks and takes all its networks out of the kernel.

    \b
    Example:
      swarmnet swarm leave
    """
    daemon = find_daemon(session.run_dir, kind)
    daemon.call(lambda local: local.Leave, local_pb2.LeaveRequest(force=force))
    click.echo("Node left the swarm.")


@swarm.command()
@_rotation_period
@_rotation_deadline
@_cert_expiry
@_encrypt_by_default
@autolock_option
@click.pass_obj
def update(
    session: Session,
    *,
    key_rotation_period: Duration | None,
    key_rotation_deadline: Duration | None,
    cert_expiry: Duration | None,
    encrypt_by_default: bool | None,
    autolock: bool | None,
) -> None:
    """Change the settings of the swarm. Certificates last as long as set from their next renewal on.

    \b
    Example:
      swarmnet swarm update --key-rotation-period 6h
      swarmnet swarm update --autolock=false
    """
    request = control_pb2.UpdateClusterRequest(
        key_rotation_period=key_rotation_period,
        key_rotation_deadline=key_rotation_deadline,
        certificate_lifetime=cert_expiry,
        encrypt_by_default=encrypt_by_default,
        autolock=autolock,
    )
    if not request.ListFields():
        raise InvalidArgument("nothing to update", hint="Give --key-rotation-period TIME, for example 6h.")
    session.manager.call(lambda control: control.UpdateCluster, request, repeatable=True)
    click.echo("Swarm updated.")
    if autolock:
        click.echo()
        print_unlock_key(known_key(session))


@swarm.command()
@click.argument("folder", type=click.Path(), default=CREDENTIALS_DIR)
@click.pass_obj
def credentials(session: Session, folder: str) -> None:
    """Make a certificate that lets `swarmnet` on another host ask the managers, as files in FOLDER.

    \b
    Example:
      swarmnet swarm credentials ./credentials
    """
    from swarmnet.api.v1.ca_pb2_grpc import CertificateAuthorityStub
    from swarmnet.cli.credentials import make_request, save
    from swarmnet.cli.manager import CALL_TIMEOUT_S

    manager = session.manager
    key, csr_pem = make_request()
    rpc = CertificateAuthorityStub(manager.channel()).IssueClientCertificate
    answer = manager.invoke(rpc, ca_pb2.RenewCertificateRequest(csr_pem=csr_pem), CALL_TIMEOUT_S)
    folder = os.path.abspath(os.path.expanduser(folder))
    files = save(folder, key, answer.certificate_pem, answer.root_certificate_pem)
    click.echo(
        f"export SWARMNET_HOST={','.join(answer.manager_addresses)}\n"
        f"export SWARMNET_CACERT={files.root}\n"
        f"export SWARMNET_CERT={files.certificate}\n"
        f"export SWARMNET_KEY={files.key}"
    )
