"""The swarmnet-manager command."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Final

from swarmnet.core import logs
from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.core.limits import BOOTSTRAP_PORT, MANAGER_PORT, METRICS_PORT, RAFT_PORT
from swarmnet.manager.settings import Settings, checked_host, checked_loopback, detect_address, with_port

_GARBAGE_OBJECTS: Final = 2_000
"""More of them than went before the collector looks at the young ones: calls in progress are far fewer."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmnet-manager",
        description="A manager of a swarm: agrees with the others on everything, and hands out keys.",
    )
    parser.add_argument("--state-dir", type=Path, default=Path("/var/lib/swarmnet/manager"), metavar="DIR")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/swarmnet"), metavar="DIR")
    parser.add_argument("--listen-addr", default=f"0.0.0.0:{MANAGER_PORT}", metavar="HOST:PORT")
    parser.add_argument("--bootstrap-addr", default=f"0.0.0.0:{BOOTSTRAP_PORT}", metavar="HOST:PORT")
    parser.add_argument("--raft-addr", default=f"0.0.0.0:{RAFT_PORT}", metavar="HOST:PORT")
    parser.add_argument("--advertise-addr", default="", metavar="ADDR", help="default: as the default route")
    parser.add_argument(
        "--metrics-addr",
        default=f"127.0.0.1:{METRICS_PORT}",
        metavar="HOST:PORT",
        help="on the loopback: /metrics, /livez, /readyz; '' for none",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="logfmt")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """InvalidArgument for impossible addresses, FailedPrecondition for directories it cannot use."""
    settings = Settings(
        state_dir=arguments.state_dir.absolute(),
        run_dir=arguments.run_dir.absolute(),
        listen=with_port(arguments.listen_addr, MANAGER_PORT),
        bootstrap=with_port(arguments.bootstrap_addr, BOOTSTRAP_PORT),
        raft=with_port(arguments.raft_addr, RAFT_PORT),
        advertise=checked_host(arguments.advertise_addr or detect_address()),
        metrics=checked_loopback(arguments.metrics_addr),
    )
    _prepare(settings.state_dir, "state", 0o700)
    _prepare(settings.run_dir, "run", 0o755)
    return settings


def _prepare(directory: Path, what: str, mode: int) -> None:
    probe = directory / f".writable.{os.getpid()}"
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        if what == "state":
            directory.chmod(mode)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FailedPrecondition(
            f"the {what} directory {directory} is not writable: {error.strerror}",
            hint=f"Run swarmnet-manager as root, or choose another: --{what}-dir DIR.",
        ) from error


def prepare_grpc() -> None:
    """Must be called before grpc is imported.

    Its own log says every failed handshake at length: junk at a port would fill the disk.

    gRPC has no setting for the lowest TLS version. Its list of TLS 1.2 cipher suites is the way: the one left
    there needs an RSA certificate, which no node has, so TLS 1.2 finds no suite and only 1.3 remains.
    The servers' admission looks at the version once more.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"


def _collect_garbage_seldom() -> None:
    """Nearly all that a call makes is freed without the collector, which would look at the calls in progress
    and the whole state again and again: a tenth of the time of a busy leader. When it looks it holds up the
    event loop, so it does in small portions."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 5, 250)


async def _serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT, or until something in it fails."""
    from swarmnet.manager.daemon import Daemon

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    daemon = Daemon(settings)
    stopping = asyncio.create_task(stopped.wait())
    try:
        await daemon.start()
        _collect_garbage_seldom()
        await asyncio.wait((stopping, daemon.failed), return_when=asyncio.FIRST_COMPLETED)
        if daemon.failed.done():
            await daemon.failed
    finally:
        stopping.cancel()
        await daemon.stop()


def main() -> None:
    arguments = _parser().parse_args()
    logs.configure(arguments.log_format, arguments.log_level)
    prepare_grpc()
    try:
        asyncio.run(_serve(settings_of(arguments)))
    except SwarmnetError as error:
        sys.exit(f"swarmnet-manager: {error}")


if __name__ == "__main__":
    main()
