"""What the demo shows: numbered steps, commands as typed, what came of them. Colours on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

MAX_LINES = 12
"""Of one command's output; the rest is counted."""


class Screen:
    def __init__(self, steps: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
        self._steps = steps
        self._number = 0

    @property
    def is_terminal(self) -> bool:
        return self.console.is_terminal

    @contextmanager
    def step(self, title: str) -> Generator[list[str]]:
        """One step; what is put into the list stands behind its ✓. An exception: ✗, and on up."""
        self._number += 1
        counter = f"[{self._number:>2}/{self._steps}]"
        self.console.print(Text.assemble("\n", (counter, "bold cyan"), " ", (title, "bold")))
        started = time.monotonic()
        facts: list[str] = []
        try:
            yield facts
        except BaseException:
            self._verdict("✗", "bold red", started, facts)
            raise
        self._verdict("✓", "bold green", started, facts)

    def command(self, host: str, argv: str) -> None:
        self.console.print(Text.assemble("    ", (f"{host}# ", "dim"), (argv, "bold")))

    def output(self, text: str) -> None:
        lines = text.rstrip().splitlines()
        shown = lines if len(lines) <= MAX_LINES else lines[: MAX_LINES - 1]
        for line in shown:
            self.console.print(Text(f"    {line}"))
        if len(shown) < len(lines):
            self.console.print(Text(f"    … {len(lines) - len(shown)} more lines", style="dim"))

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def _verdict(self, mark: str, style: str, started: float, facts: list[str]) -> None:
        taken = f"{time.monotonic() - started:6.2f} s"
        self.console.print(Text.assemble("  ", (mark, style), (taken, "dim"), "  ", "; ".join(facts)))
        self.console.file.flush()
