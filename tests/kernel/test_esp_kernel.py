"""The kernel that tests marked `kernel` get is one with ESP, and says so when tried."""

from __future__ import annotations

import pytest

from swarmnet.cli.lab import kernel


@pytest.mark.kernel
def test_this_kernel_really_has_esp() -> None:
    assert kernel.has_esp()
    assert kernel.choose("auto") == "host"
