"""Which kernel a lab needs, and whether the running one will do."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final, Literal

from swarmnet.core.errors import NotSupportedHere

Kernel = Literal["auto", "host", "uml"]

UML: Final = "linux.uml"
_PROBE: Final = (
    "unshare", "--net",
    "ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x1000",
    "mode", "transport", "aead", "rfc4106(gcm(aes))", "0x" + "00" * 36, "128",
)  # fmt: skip


def has_esp() -> bool:
    """Whether this kernel does AES-GCM ESP: tried, by adding an SA in a network namespace of its own."""
    return subprocess.run(_PROBE, capture_output=True, check=False).returncode == 0


def choose(kernel: Kernel) -> Literal["host", "uml"]:
    """`auto` is the running kernel where it has ESP, else user-mode-linux."""
    require_root()
    if kernel == "host" or (kernel == "auto" and has_esp()):
        return "host"
    if shutil.which(UML) is None:
        raise NotSupportedHere(
            f"this kernel has no ESP and {UML} is not installed",
            hint="apt-get install user-mode-linux kmod, or use --kernel host with plain networks",
        )
    return "uml"


def require_root() -> None:
    if os.geteuid() != 0:
        raise NotSupportedHere("a lab makes network namespaces, which takes root", hint="run it with sudo")
