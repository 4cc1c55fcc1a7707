"""How every benchmark tells its figures: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Reach:
    """A bound for one number of a figure: its `median` or `max`, or `ratio`, that of the medians."""

    bound: float
    of: str = "median"
    at_least: bool = False

    def met(self, figure: dict[str, Any]) -> bool:
        number = figure[self.of]
        return bool(number >= self.bound if self.at_least else number <= self.bound)

    def words(self) -> str:
        return f"{self.of} at {'least' if self.at_least else 'most'}"


NO_PEER: Final[Sequence[float]] = ()


def line(
    bench: str,
    case: str,
    unit: str,
    values: Sequence[float],
    reach: Reach | float | None,
    *,
    peer: Sequence[float] = NO_PEER,
    peer_name: str = "",
) -> str:
    """One figure, and what a `peer` (another product, measured beside it) has for it.

    `reach` is a bound for the median, or any Reach; `ok` says whether it is kept. Both are null without one.
    """
    figure: dict[str, Any] = {"bench": bench, "case": case, "unit": unit, "n": len(values)}
    figure |= _summary(values)
    if peer:
        figure |= {"peer_name": peer_name, "peer_n": len(peer)}
        figure |= {"peer": median(peer), "peer_min": min(peer), "peer_max": max(peer)}
        figure["ratio"] = figure["median"] / figure["peer"] if figure["peer"] else None
    wanted = Reach(reach) if isinstance(reach, int | float) else reach
    figure |= {"reach": None, "ok": None} if wanted is None else _judged(figure, wanted)
    return json.dumps(
        {key: round(each, 3) if isinstance(each, float) else each for key, each in figure.items()}
    )


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def _judged(figure: dict[str, Any], reach: Reach) -> dict[str, Any]:
    return {"reach": reach.bound, "reach_is": reach.words(), "ok": reach.met(figure)}
