"""What a run reported while it learned, under its tracked names: a line a report, in one file of the run's folder.

A run that goes on from a checkpoint cuts the file back to it, so a checkpoint holds no curves; charts, the study's
report and `Run.gradient_norms` are made of this file.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from recsys.files import write_text_atomically
from recsys.run.folder import read_record
from recsys.tracking import names
from recsys.tracking.figures import Curve

CURVES = "curves.jsonl"


class CurveFile:
    """The curves of a run, written while it learns.

    Args:
        folder: of the run; made with the first line.
        up_to_step: of the checkpoint that the run goes on from; 0 begins anew.
    """

    def __init__(self, folder: Path, up_to_step: int = 0) -> None:
        self._path = folder / CURVES
        if self._path.exists():
            lines = [line for line in _whole_lines(self._path) if json.loads(line)["step"] <= up_to_step]
            write_text_atomically(self._path, "".join(lines if up_to_step else []))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append what one report says; values that are not finite are left out."""
        finite, _ = names.split_finite(metrics)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
            file.flush()
            # A checkpoint of this step may be on disk a moment later, and a machine may lose what is not.
            os.fsync(file.fileno())


def load_curves(folder: Path) -> dict[str, Curve]:
    """Return every curve of a run by its tracked name, as its steps and its values.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    return read_record(folder / CURVES, _curves_of)


def _curves_of(text: str) -> dict[str, Curve]:
    points = dict[str, dict[int, float]]()
    for line in text.splitlines():
        report = json.loads(line)
        step = int(report.pop("step"))
        for name, value in report.items():
            points.setdefault(name, {})[step] = float(value)
    if not points:
        raise ValueError("it holds no report")
    return {name: (list(curve), list(curve.values())) for name, curve in points.items()}


def gradient_norms(folder: Path) -> list[tuple[int, str, float]]:
    """Return a run's gradient norms as rows of step, part and norm.

    Raises:
        DataError: see `load_curves`.
    """
    found = {names.part_of_norm(name): curve for name, curve in load_curves(folder).items()}
    rows = [
        (int(step), part, norm)
        for part, (steps, norms) in found.items()
        if part
        for step, norm in zip(steps, norms, strict=True)
    ]
    return sorted(rows)


def charted_values(runs: Iterable[Mapping[str, Curve]]) -> dict[str, list[float]]:
    """What the losses and AUCs of several runs ever were, by tracked name, for `study_views`."""
    losses = (names.TRAIN_LOSS, names.score(names.VALIDATION, "log_loss"))
    found: dict[str, list[float]] = {}
    for curves in runs:
        for name, (_, values) in curves.items():
            if name in losses or name.startswith(names.auc(names.VALIDATION, "")):
                found.setdefault(name, []).extend(values)
    return found


def _whole_lines(path: Path) -> list[str]:
    # The last one may be torn where the process was killed; its report is taken again after the checkpoint.
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
