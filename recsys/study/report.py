"""A study's report, from what its arms left on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from recsys.ablation.study_report import Evidence
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.split_evaluation import Evaluation, evaluation_from_json
from recsys.run.curves import load_curves
from recsys.run.drift_report import load_drift, summaries_of
from recsys.run.folder import read_record
from recsys.study.finished import FinishedArm, by_condition
from recsys.tracking import names
from recsys.tracking.figures import Curve

_LIBRARIES = ("torch", "torchrec", "pyarrow", "mlflow")
BySeed = dict[str, dict[str, list[Curve]]]


@dataclass(frozen=True)
class Origin:
    """What a study was made of: its data, its code, and the words that were typed."""

    encoded: EncodedDataset
    code_version: str
    typed: Sequence[str]
    seeds: Sequence[int]

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of what a stranger needs to make the study again."""
        contract = self.encoded.contract
        rows = ", ".join(f"{self.encoded.rows(split):,} {split}" for split in ("train", "validation", "test"))
        return [
            ("data", f"{contract.schema.name}, contract {contract.fingerprint}"),
            ("rows", rows),
            ("code", self.code_version),
            ("seeds", ", ".join(map(str, self.seeds))),
            *((library, version(library)) for library in _LIBRARIES),
        ]

    def command(self) -> str:
        """What to type."""
        return " ".join(["recsys ablate", *self.typed])


def gather(
    finished: Sequence[FinishedArm],
    scores: Mapping[str, Sequence[Mapping[str, float]]],
    auc_by_segment: Mapping[str, Mapping[str, tuple[float, float, float]]],
    held_equal: Sequence[str],
    origin: Origin,
) -> Evidence:
    """Read every arm's curves and evaluation back."""
    curves = _curves_by_condition(finished)
    prefix = names.grad_norm("")
    parts = [name for name in curves if name.startswith(prefix) and name != names.grad_norm(names.WHOLE)]
    return Evidence(
        scores=scores,
        costs=by_condition(finished, FinishedArm.costs),
        curves=curves,
        norms={name.removeprefix(prefix): found for name, found in curves.items() if name in parts},
        calibration=_calibration(finished),
        auc_by_segment=auc_by_segment,
        drift=_drift(finished),
        held_equal=held_equal,
        reproduce=origin.command(),
        facts=origin.facts(),
    )


def _curves_by_condition(finished: Sequence[FinishedArm]) -> BySeed:
    """Curve -> condition -> one a seed."""
    found: BySeed = {}
    for each in finished:
        for name, curve in load_curves(each.folder).items():
            found.setdefault(name, {}).setdefault(each.arm.condition, []).append(curve)
    return found


def _calibration(finished: Sequence[FinishedArm]) -> dict[str, list[tuple[float, float, float]]]:
    """Condition -> reliability bins; the seeds' bins of one rank hold equally many rows, so their means are pooled."""
    evaluations: dict[str, list[Evaluation]] = {}
    for each in finished:
        evaluation = read_record(each.folder / "evaluation.json", evaluation_from_json)
        evaluations.setdefault(each.arm.condition, []).append(evaluation)
    pooled = {}
    for condition, seeds in evaluations.items():
        bins = [[(b.predicted, b.observed, b.weight) for b in seed.reliability] for seed in seeds]
        shortest = min(map(len, bins))
        means = np.mean([rows[:shortest] for rows in bins], axis=0)
        pooled[condition] = [(float(p), float(y), float(w)) for p, y, w in means]
    return pooled


def _drift(finished: Sequence[FinishedArm]) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """Condition -> kind of group -> group -> figures, means over the seeds; of conditions that move the tower."""
    seeds: dict[str, list[Mapping[str, Mapping[str, Mapping[str, float | None]]]]] = {}
    for each in finished:
        if report := load_drift(each.folder):
            seeds.setdefault(each.arm.condition, []).append(summaries_of(report))
    return {
        condition: {
            kind: {group: _means([one[kind][group] for one in found]) for group in groups}
            for kind, groups in found[0].items()
        }
        for condition, found in seeds.items()
    }


def _means(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    known = {name: [each[name] for each in figures if each[name] is not None] for name in figures[0]}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}  # type: ignore[arg-type]
