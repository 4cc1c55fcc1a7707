"""Named network namespaces, made and entered by the data path's own thread without a fork.

A namespace is a file with nsfs mounted on it, as `ip netns` has it. Entering one (setns(2)) changes the
calling thread only, so all of this belongs to one dedicated thread; the others stay where they are.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from swarmnet.worker.datapath.netlink import NETLINK_ROUTE, Netlink

_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 0x1000
_MNT_DETACH: Final = 2
_IPV6_SETTINGS: Final = (("accept_ra", "0"), ("addr_gen_mode", "1"), ("disable_ipv6", "0"))
"""No addresses but the managers' own: none from routers, none made from the MAC."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def _thread_namespace() -> int:
    """A descriptor of the calling thread's own namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespaces:
    """The namespaces under one directory, and a routing socket in each that is in use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sockets: dict[str, Netlink] = {}

    def path(self, name: str) -> Path:
        return self._directory / name

    def names(self) -> list[str]:
        """Those that are mounted."""
        self._directory.mkdir(parents=True, exist_ok=True)
        return sorted(path.name for path in self._directory.iterdir() if self._mounted(path))

    def create(self, name: str) -> None:
        """Make the namespace, with IPv6 off for its future links; nothing if it is there already."""
        path = self.path(name)
        self._directory.mkdir(parents=True, exist_ok=True)
        if path.exists() and self._mounted(path):
            return
        path.touch(mode=0o600)
        with _returning():
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            _disable_ipv6()
            source = b"/proc/thread-self/ns/net"
            _check(_libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None), f"mount on {path}")

    def remove(self, name: str) -> None:
        """Take the name away. The namespace lives on while a process is in it."""
        self.release(name)
        path = self.path(name)
        if path.exists() and self._mounted(path):
            _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")
        path.unlink(missing_ok=True)

    @contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """The calling thread is in the namespace meanwhile."""
        descriptor = self.open(name)
        try:
            with _returning():
                _check(_libc.setns(descriptor, _CLONE_NEWNET), f"setns {name}")
                yield
        finally:
            os.close(descriptor)

    def open(self, name: str) -> int:
        """A descriptor of the namespace, for the caller to close."""
        return os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)

    def netlink(self, name: str) -> Netlink:
        """The routing socket in the namespace; `release` or `remove` closes it."""
        if name not in self._sockets:
            with self.entered(name):
                self._sockets[name] = Netlink(NETLINK_ROUTE)
        return self._sockets[name]

    def enable_ipv6(self, name: str, links: Iterable[str]) -> None:
        """Let the links have the IPv6 addresses they are given, and no others. OSError without IPv6 here."""
        with self.entered(name):
            for link in links:
                settings = Path("/proc/sys/net/ipv6/conf", link)
                for setting, value in _IPV6_SETTINGS:
                    (settings / setting).write_text(value)

    def release(self, name: str) -> None:
        found = self._sockets.pop(name, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        for name in list(self._sockets):
            self.release(name)

    @staticmethod
    def _mounted(path: Path) -> bool:
        """Whether nsfs is mounted there; a file that a crash left is on the directory's device."""
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev


@contextmanager
def _returning() -> Iterator[None]:
    """The calling thread is back in its namespace afterwards; if it can't be, the process ends."""
    home = _thread_namespace()
    try:
        yield
    finally:
        if _libc.setns(home, _CLONE_NEWNET) != 0:
            os.abort()
        os.close(home)


def _disable_ipv6() -> None:
    """No link-local addresses, router solicitations or multicast reports on links made from now on."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
