"""The second guard: a firewall rule per direction that drops UDP to the encrypted networks' ports in clear.

It covers the whole port range, is put in once when the worker starts, and knows nothing of keys, peers or
networks. XFRM's own guards (core/datapath/xfrm.py) stand beside it: flushing one table opens no network.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from swarmnet.core.errors import NotSupportedHere
from swarmnet.core.limits import ENCRYPTED_PORT_FIRST, ENCRYPTED_PORT_LAST

_TABLE: Final = "swarmnet"
_RULES: Final = f"""\
add table inet {_TABLE}
delete table inet {_TABLE}
table inet {_TABLE} {{
  chain output {{
    type filter hook output priority mangle; policy accept;
    udp dport {ENCRYPTED_PORT_FIRST}-{ENCRYPTED_PORT_LAST} rt ipsec missing counter drop
  }}
  chain input {{
    type filter hook input priority mangle; policy accept;
    udp dport {ENCRYPTED_PORT_FIRST}-{ENCRYPTED_PORT_LAST} meta ipsec missing counter drop
  }}
}}
"""
"""One transaction of the kernel: at no moment is the range open between an old table and the new one."""
_IPV6: Final = Path("/proc/sys/net/ipv6")
"""There if the kernel has IPv6."""
_IPTABLES: Final = tuple(
    f"{chain} -p udp -m udp --dport {ENCRYPTED_PORT_FIRST}:{ENCRYPTED_PORT_LAST}"
    f" -m policy --dir {direction} --pol none -j DROP"
    for chain, direction in (("INPUT", "in"), ("OUTPUT", "out"))
)
"""As iptables lists them."""


class Guard(Protocol):
    """A firewall that can hold the two rules."""

    @property
    def name(self) -> str: ...

    async def install(self) -> None:
        """Put the rules in, or leave them. OSError or `CommandFailed` if this firewall is not to be had."""

    async def mend(self) -> bool:
        """Put back what is gone of the installed rules; whether anything was. OSError, `CommandFailed`."""

    async def remove(self) -> None:
        """Take the rules out; nothing if they are not there. OSError or `CommandFailed` if that fails."""


class CommandFailed(Exception):
    """A firewall command said no. The message is its own."""


async def _run(*argv: str, stdin: str = "") -> str:
    """Standard output. CommandFailed with the line of standard error that says why."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
    out, said = await process.communicate(stdin.encode())
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"]
        raise CommandFailed(next((line for line in lines if "rror" in line), lines[-1]))
    return out.decode(errors="replace")


@dataclass(slots=True)
class Nftables:
    """A table of our own, for IPv4 and IPv6, before the filter chains."""

    name: str = "nftables"
    _installed: str = ""
    """The table as nft lists it, without counters."""

    async def install(self) -> None:
        await _run("nft", "-f", "-", stdin=_RULES)
        self._installed = await self._listed()

    async def mend(self) -> bool:
        try:
            if await self._listed() == self._installed:
                return False
        except CommandFailed:
            pass  # there is no such table
        await self.install()
        return True

    async def remove(self) -> None:
        await _run("nft", "-f", "-", stdin=f"add table inet {_TABLE}\ndelete table inet {_TABLE}\n")

    async def _listed(self) -> str:
        return await _run("nft", "--stateless", "list", "table", "inet", _TABLE)


@dataclass(frozen=True, slots=True)
class Iptables:
    """A rule at the head of INPUT and of OUTPUT. `name` is the command, e.g. iptables-legacy.

    For IPv4, and for IPv6 where the kernel has it. Listed and written whole tables at a time, since each call
    of the command is slow where forks are.
    """

    name: str

    async def install(self) -> None:
        await self.mend()

    async def mend(self) -> bool:
        mended = False
        for command in self._commands():
            rules = await _run(command, "-w", "-S")
            missing = [f"-I {rule}" for rule in _IPTABLES if f"-A {rule}" not in rules.splitlines()]
            if missing:
                await self._write(command, missing)
                mended = True
        return mended

    async def remove(self) -> None:
        for command in self._commands():
            rules = (await _run(command, "-w", "-S")).splitlines()
            present = [f"-D {rule}" for rule in _IPTABLES for line in rules if line == f"-A {rule}"]
            if present:
                await self._write(command, present)

    def _commands(self) -> tuple[str, ...]:
        ipv6 = self.name.replace("iptables", "ip6tables")
        return (self.name, ipv6) if _IPV6.exists() else (self.name,)

    @staticmethod
    async def _write(command: str, lines: list[str]) -> None:
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        await _run(f"{command}-restore", "-w", "--noflush", stdin=text)


async def install() -> Guard:
    """The first firewall that takes the rules. NotSupportedHere, with what each said, if none does."""
    refusals = []
    for guard in (Nftables(), Iptables("iptables-legacy"), Iptables("iptables")):
        try:
            await guard.install()
        except (OSError, CommandFailed) as error:
            refusals.append(f"{guard.name}: {error}")
        else:
            return guard
    raise NotSupportedHere(
        f"no firewall took the rules that drop unencrypted overlay packets ({'; '.join(refusals)})",
        hint="Install nftables or iptables; the kernel needs nf_tables, or ip_tables with xt_policy.",
    )
