"""A worker's process overwrites what it frees."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys

import pytest

from swarmnet.worker import memory

_LOOK = """
import ctypes
text = b"to be found " * int("5")
address = id(text) + bytes.__basicsize__ - 1
assert ctypes.string_at(address, 12) == b"to be found "
del text
print(ctypes.string_at(address, 12) == b"to be found ")
"""


def test_a_wiping_process_needs_no_other_environment() -> None:
    wiping = memory.wiping_environment({"PATH": "/bin"})
    assert wiping is not None
    assert wiping["PATH"] == "/bin"
    assert memory.wiping_environment(wiping) is None


def test_a_process_is_started_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *how: started.append(how))
    monkeypatch.setenv("PYTHONMALLOC", "")
    memory.wipe_what_is_freed()
    ((program, arguments, environment),) = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    assert environment["PYTHONMALLOC"] == "malloc"


@pytest.mark.parametrize("wiping", [False, True])
def test_what_was_freed_cannot_be_read_any_more(wiping: bool) -> None:
    assert bytes.__basicsize__ == ctypes.sizeof(ctypes.c_ssize_t) * 4 + 1
    environment = {"PATH": os.environ["PATH"]}
    if wiping:
        environment = memory.wiping_environment(environment) or {}
    found = subprocess.run(
        [sys.executable, "-c", _LOOK], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{not wiping}\n"


async def test_what_is_dropped_together_is_swept_once_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SWEEP_AFTER_S", 0.01)
    swept: asyncio.Queue[int] = asyncio.Queue()
    sweeper = memory.Sweeper(lambda: swept.put_nowait(1))
    for _ in range(3):
        sweeper.soon()
        async with asyncio.timeout(5):
            sweeper.soon()
            await swept.get()
        assert swept.empty()
