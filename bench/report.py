"""How every benchmark tells its figures: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median


def line(bench: str, case: str, unit: str, values: Sequence[float], reach: float) -> str:
    """One figure. `reach` is what the median has to stay at or below; `ok` says whether it does."""
    middle = median(values)
    return json.dumps(
        {
            "bench": bench,
            "case": case,
            "unit": unit,
            "n": len(values),
            "min": round(min(values), 3),
            "median": round(middle, 3),
            "max": round(max(values), 3),
            "reach": reach,
            "ok": middle <= reach,
        }
    )
