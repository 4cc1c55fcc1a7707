"""Hosts as namespaces: network, mounts and name of their own, held by a process that does nothing else.

underlay 10.133.0.1/24 (bridge, in the lab's first network namespace)
  ├── m1 .11   m2 .12 …      eth0 of each manager's host
  ├── w1 .21   w2 .22 …      workers
  └── .31 …                  bare hosts: an attacker, a host that is to join later
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from swarmnet.cli.lab import linux
from swarmnet.cli.lab.place import HOSTS, RUN_DIR, STATE_DIR, Host, Kind
from swarmnet.core.errors import InvalidArgument

UNDERLAY: Final = "underlay"
_PREFIX: Final = "10.133.0."
_FIRST: Final[dict[Kind, int]] = {"manager": 11, "worker": 21, "bare": 31}
MAX_OF_A_KIND: Final = 10
MAX_BARE: Final = 200


class Site(NamedTuple):
    """A host to be made."""

    name: str
    kind: Kind
    address: str


def plan(managers: int, workers: int, bare: Sequence[str]) -> tuple[Site, ...]:
    """The hosts of a lab. InvalidArgument for too many, or a name taken twice."""
    if not (0 <= managers <= MAX_OF_A_KIND and 0 <= workers <= MAX_OF_A_KIND and len(bare) <= MAX_BARE):
        raise InvalidArgument(f"a lab has at most {MAX_OF_A_KIND} managers and {MAX_OF_A_KIND} workers")
    named: list[tuple[Kind, list[str]]] = [
        ("manager", [f"m{number}" for number in range(1, managers + 1)]),
        ("worker", [f"w{number}" for number in range(1, workers + 1)]),
        ("bare", list(bare)),
    ]
    hosts = tuple(
        Site(name, kind, f"{_PREFIX}{_FIRST[kind] + position}")
        for kind, names in named
        for position, name in enumerate(names)
    )
    _check_names([site.name for site in hosts])
    return hosts


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name.isalnum() or len(name) > 12 or name == UNDERLAY or names.count(name) > 1:
            raise InvalidArgument(
                f"host name {name!r} is taken or not a name",
                hint="1 to 12 letters and digits, each name once; m1… and w1… are the managers and workers",
            )


def make(sites: Sequence[Site], folder: Path) -> tuple[Host, ...]:
    """Makes the hosts, connects them, and returns when all of them are up."""
    names = "".join(f"{site.address} {site.name}\n" for site in sites)
    (folder / "etc-hosts").write_text(f"127.0.0.1 localhost\n{names}")
    linux.mount(folder / "etc-hosts", "/etc/hosts", flags=linux.MS_BIND)
    hosts = tuple(Host(*site, pid=_hold(site.name)) for site in sites)
    _connect(hosts)
    return hosts


def _hold(name: str) -> int:
    """The process that is the host: it makes the namespaces, says so, and waits for its death."""
    own = HOSTS / name
    for each in (own / "run", own / "state"):
        each.mkdir(parents=True, mode=0o700)
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        _be_host(name, own, say)
    os.close(say)
    with os.fdopen(ready, "rb") as pipe:
        if answer := pipe.read().decode():
            raise OSError(f"host {name} could not be made: {answer}")
    handle = Path("/run/netns", name)
    handle.touch()
    linux.mount(f"/proc/{pid}/ns/net", handle, flags=linux.MS_BIND)
    return pid


def _be_host(name: str, own: Path, say: int) -> NoReturn:
    try:
        linux.die_with_parent()
        os.setsid()
        linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWUTS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        socket.sethostname(name)
        linux.mount("sys", "/sys", "sysfs")
        for source, target in ((own / "run", RUN_DIR), (own / "state", STATE_DIR)):
            target.mkdir(parents=True, exist_ok=True)
            linux.mount(source, target, flags=linux.MS_BIND)
    except OSError as error:
        os.write(say, str(error).encode())
        os._exit(1)
    os.close(say)
    while True:
        signal.pause()


def _connect(hosts: Sequence[Host]) -> None:
    _ip("", [
        "link set lo up",
        f"link add {UNDERLAY} type bridge mcast_snooping 0",
        f"addr add {_PREFIX}1/24 dev {UNDERLAY}",
        f"link set {UNDERLAY} up",
        *(f"link add name {host.name} type veth peer name eth0 netns {host.pid}" for host in hosts),
        *(f"link set dev {host.name} master {UNDERLAY} up" for host in hosts),
    ])  # fmt: skip
    for host in hosts:
        _ip(host.name, ["link set lo up", f"addr add {host.address}/24 dev eth0", "link set eth0 up"])


def _ip(namespace: str, lines: Sequence[str]) -> None:
    where = ["-n", namespace] if namespace else []
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines), text=True, check=True)
