"""What a GPU must reach, judged from the rows of `gpu.py`; each figure is of the case that its docstring names."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_cases import (
    ALONE,
    BARE,
    COMPOSITIONS,
    CONDITIONAL,
    DENSE,
    LOADER,
    NORMS_BY_DEFAULT,
    NORMS_EVERY_STEP,
    OURS,
    PARQUET,
    SHARED,
    SHUFFLED,
    TABLES,
)
from timed_windows import Row

_SIGNS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        value: from what finds figures by case, way and name; raises `LookupError` where one was not measured.
    """

    name: str
    sign: str
    limit: float
    value: Callable[["Figures"], float]


class Figures:
    """The figures of the rows of one width and batch size, where rows have such.

    Raises:
        LookupError: by `of`, where the figure was not measured.
    """

    def __init__(self, rows: Sequence[Row], width: int, batch_size: int) -> None:
        self._rows = [
            row for row in rows if row.get("width", width) == width and row.get("batch_size", batch_size) == batch_size
        ]

    def of(self, case: str, way: str, figure: str = "rows_per_second") -> float:
        """Return one figure."""
        for row in self._rows:
            if (row["case"], row["way"]) == (case, way) and figure in row:
                return float(row[figure])
        raise LookupError(f"{case}, {way}: {figure} was not measured")


def _speed_over(way: str, base: str) -> Callable[[Figures], float]:
    return lambda figures: figures.of(TABLES, way) / figures.of(TABLES, base)


TARGETS = (
    Target("our loop over bare TorchRec, resident batches", ">=", 0.95, _speed_over(OURS, BARE)),
    Target("our loop from Parquet over resident batches", ">=", 0.9, _speed_over(PARQUET, OURS)),
    Target("idle share of the device, from Parquet", "<", 0.03, lambda f: f.of(TABLES, PARQUET, "idle_share")),
    Target("the same between steps alone", "<", 0.03, lambda f: f.of(TABLES, PARQUET, "idle_between_steps")),
    Target("cost of exact norms at every step", "<", 0.06, lambda f: _speed_over(OURS, NORMS_EVERY_STEP)(f) - 1),
    Target("cost of exact norms by default", "<", 0.005, lambda f: _speed_over(OURS, NORMS_BY_DEFAULT)(f) - 1),
    Target(
        "time of conditional over one shared expert",
        "<=",
        1.3,
        lambda f: f.of(COMPOSITIONS, CONDITIONAL, "step_ms") / f.of(COMPOSITIONS, SHARED, "step_ms"),
    ),
    Target("dense half in bf16 over the chip", ">=", 0.3, lambda f: f.of(DENSE, f"{ALONE}, bf16", "dense_flop_share")),
    Target("rows/s of our loop, 26 tables", ">=", 5e6, lambda f: f.of(TABLES, OURS)),
    Target("rows/s of the loader alone, shuffled", ">=", 8e6, lambda f: f.of(LOADER, SHUFFLED)),
)


def judged(rows: Sequence[Row], width: int, batch_size: int) -> list[dict[str, Any]]:
    """Return each target with its value and whether it was met; None for both where it was not measured."""
    figures, found = Figures(rows, width, batch_size), []
    for target in TARGETS:
        try:
            value = target.value(figures)
        except LookupError:
            value = None
        is_met = None if value is None else bool(_SIGNS[target.sign](value, target.limit))
        found.append(
            {"name": target.name, "wanted": f"{target.sign} {target.limit:g}", "value": value, "is_met": is_met}
        )
    return found
