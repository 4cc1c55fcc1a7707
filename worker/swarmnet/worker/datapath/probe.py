"""Whether this kernel can encrypt: tried by really adding and deleting an SA, not read off a version."""

from __future__ import annotations

import errno
import os
from typing import Final

from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.errors import NotSupportedHere
from swarmnet.core.limits import ENCRYPTED_PORT_FIRST, ESP_KEY_BYTES, ESP_SALT_BYTES
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.datapath.netlink import NETLINK_XFRM, Netlink, NetlinkError
from swarmnet.worker.datapath.xfrm import delete_sa, new_sa

_SPI: Final = 0x000F_E57A
"""Of network index 0, which no network has; not below 256 (RFC 4303, section 2.1)."""
_LOOPBACK: Final = "127.0.0.1"
_MODULES: Final = {
    errno.EPROTONOSUPPORT: "esp4",
    errno.ENOSYS: "gcm, seqiv and aes",
    errno.ENOENT: "gcm, seqiv and aes",
}


def open_xfrm() -> Netlink:
    """An XFRM socket in the calling thread's namespace. NotSupportedHere if the kernel has none."""
    try:
        return Netlink(NETLINK_XFRM)
    except OSError as error:
        raise NotSupportedHere(
            f"this kernel offers no IPsec configuration (XFRM netlink: {error.strerror})",
            hint="Load the kernel module xfrm_user.",
        ) from error


def probe_esp(netlink: Netlink) -> None:
    """Add an SA as networks have them, delete it. NotSupportedHere: the kernel's words and what to load."""
    key = SecretBytes(os.urandom(ESP_KEY_BYTES + ESP_SALT_BYTES))
    sa = Sa(_LOOPBACK, _LOOPBACK, _SPI, 0, ENCRYPTED_PORT_FIRST, "", key=key)
    netlink.batch([delete_sa(sa)])  # one that a killed probe left
    try:
        netlink.execute(new_sa(sa))
    except NetlinkError as error:
        raise NotSupportedHere(
            f"this kernel cannot do AES-256-GCM ESP: {error.strerror} (errno {error.errno})",
            hint=_hint(error),
        ) from error
    netlink.execute(delete_sa(sa))


def _hint(error: NetlinkError) -> str:
    if error.errno == errno.EPERM:
        return "The worker needs the capability CAP_NET_ADMIN."
    modules = _MODULES.get(error.errno or 0, "xfrm_user, esp4, gcm and seqiv")
    return f"Load the kernel modules: {modules}; or run a kernel that has them."
