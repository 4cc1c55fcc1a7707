"""The swarmnet-worker command: its options, and the process that they ask for."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from swarmnet.core import logs
from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.core.limits import GOSSIP_PORT
from swarmnet.worker import hostport
from swarmnet.worker.config import Config

_ADVERTISE = "--advertise-addr"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarmnet-worker", description="A worker of a swarm: runs tasks and connects them."
    )
    parser.add_argument("--state-dir", type=Path, default=Path("/var/lib/swarmnet/worker"), metavar="DIR")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/swarmnet"), metavar="DIR")
    parser.add_argument(_ADVERTISE, default="", metavar="ADDR", help="default: as the default route")
    parser.add_argument(
        "--data-path-addr",
        default="",
        metavar="ADDR",
        help=f"source of VXLAN and ESP packets; default: {_ADVERTISE}",
    )
    parser.add_argument(
        "--data-path-advertise-addr",
        default="",
        metavar="ADDR",
        help="where other workers reach --data-path-addr, behind a NAT",
    )
    parser.add_argument(
        "--data-path-encap",
        choices=("none", "udp"),
        default="none",
        help="udp: ESP in UDP port 4500, where IP protocol 50 does not pass",
    )
    parser.add_argument("--gossip-addr", default=f"0.0.0.0:{GOSSIP_PORT}", metavar="HOST:PORT")
    parser.add_argument(
        "--image-store", type=Path, metavar="DIR", help="default: store in the state directory"
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="logfmt")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    return parser


def config_of(arguments: argparse.Namespace) -> Config:
    """InvalidArgument for impossible addresses, FailedPrecondition for directories that cannot be used."""
    advertise = hostport.checked_host(arguments.advertise_addr or hostport.detect(_ADVERTISE), _ADVERTISE)
    host, port = hostport.split(arguments.gossip_addr, GOSSIP_PORT)
    data_path = hostport.checked_host(arguments.data_path_addr or advertise, "--data-path-addr")
    config = Config(
        state_dir=arguments.state_dir.absolute(),
        run_dir=arguments.run_dir.absolute(),
        advertise=advertise,
        data_path=data_path,
        data_path_advertise=hostport.checked_host(
            arguments.data_path_advertise_addr or data_path, "--data-path-advertise-addr"
        ),
        data_path_udp=arguments.data_path_encap == "udp",
        gossip_listen=hostport.join(host, port),
        gossip_advertise=hostport.join(advertise, port),
        image_store=(arguments.image_store or arguments.state_dir / "store").absolute(),
        hostname=socket.gethostname(),
    )
    _prepare(config.state_dir, "state", 0o700)
    _prepare(config.run_dir, "run", 0o755)
    return config


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
            hint=f"Run swarmnet-worker as root, or choose another: --{what}-dir DIR.",
        ) from error


async def serve(config: Config) -> None:
    """Until SIGTERM or SIGINT, or until something in it fails."""
    from swarmnet.worker.datapath.datapath import Datapath
    from swarmnet.worker.gossip import Gossip
    from swarmnet.worker.local import make_server
    from swarmnet.worker.node import Worker

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    worker = Worker(
        config,
        make_datapath=lambda c: Datapath(c.run_dir, c.state_dir),
        make_gossip=lambda c, node_id, changed: Gossip(node_id, c.gossip_listen, c.gossip_advertise, changed),
        rng=random.SystemRandom(),
    )
    stopping = asyncio.create_task(stopped.wait())
    try:
        await worker.start()
        server = make_server(config.socket, worker)
        await server.start()
        await asyncio.wait((stopping, worker.failed), return_when=asyncio.FIRST_COMPLETED)
        await server.stop(grace=0.2)
        if worker.failed.done():
            await worker.failed
    finally:
        stopping.cancel()
        await worker.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    os.umask(0o077)
    parsed = _parser().parse_args(arguments)
    logs.configure(parsed.log_format, parsed.log_level)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(config_of(parsed)))
    except SwarmnetError as error:
        sys.exit(f"swarmnet-worker: {error}")
