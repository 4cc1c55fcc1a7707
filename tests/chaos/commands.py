"""Programs that the chaos run needs done."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from swarmnet.cli.lab.place import host_environment

_SOURCES: Final = str(Path(__file__).parents[2])


def environment() -> dict[str, str]:
    """Of a machine's programs: this source tree is found from any folder."""
    inherited = host_environment()
    return inherited | {"PYTHONPATH": os.pathsep.join([_SOURCES, inherited.get("PYTHONPATH", "")])}


async def run(*argv: str, text: str = "") -> None:
    """OSError with what it printed, when it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
    )
    output, _ = await process.communicate(text.encode())
    if process.returncode:
        raise OSError(f"{' '.join(argv)}: {output.decode()}")
