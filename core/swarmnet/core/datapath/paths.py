"""What is said of the paths to other nodes that carry less than this host's interface does."""

from __future__ import annotations

from ipaddress import ip_address

from swarmnet.core.datapath.layout import task_mtu
from swarmnet.core.errors import FailedPrecondition


def news_of_path(before: int, found: int, mtu: int, address: str, *, encap: bool) -> str:
    """What to tell of the path to `address`, which carries packets of `found` bytes; empty if it is no news.

    `before`: what it carried when it was looked at last; `mtu`: of this host's interface. 0: not known.
    """
    if not found or found == before or (found >= mtu and before in (0, mtu)):
        return ""
    if found >= mtu:
        return f"packets of {mtu} bytes reach {address} again"
    try:
        fits = task_mtu(found, encrypted=True, ip_version=ip_address(address).version, encap=encap)
        remedy = f"mend the path, or create networks with --opt mtu={fits} or less"
    except FailedPrecondition:
        remedy = "mend the path: it is too narrow for any network"
    lost = f"packets of {mtu} bytes do not reach {address}, of {found} they do"
    return f"{lost}: larger ones of tasks are lost; {remedy}"
