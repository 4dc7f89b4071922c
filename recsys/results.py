"""What the functions of `recsys` return: prepared data, a tower, a run, a study; and how a notebook shows them."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.ablation.comparison import Comparison
from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.inspection.findings import DataFinding
from recsys.inspection.prepared_rows import PreparedReport
from recsys.metrics.registry import study_metrics
from recsys.progress import Progress, silent
from recsys.run import prepared_report
from recsys.run.curves import gradient_norms
from recsys.run.folder import RunResult
from recsys.run.record import CUTOFF
from recsys.run.score import score_frame
from recsys.study import ablate as study_of_arms
from recsys.study import from_study
from recsys.towers.artifact import TowerArtifact


@dataclass(frozen=True)
class Data:
    """Prepared rows.

    Attributes:
        overrides: what the configuration of everything that is made of them begins with.
    """

    encoded: EncodedDataset
    overrides: tuple[str, ...]

    @cached_property
    def config(self) -> RunConfig:
        """The configuration so far."""
        return compose_config(self.overrides)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: self.encoded.rows(split) for split in self.encoded.splits}

    @property
    def counts(self) -> dict[str, int]:
        """What was left out, filled, mended or repeated on the way, as `recsys prepare` shows it."""
        return {what: number for what, number in self.encoded.manifest.counts.items() if number}

    def report(self) -> pd.DataFrame:
        """One row per feature, and one for the user segment: how often it has a value, and its AUC by itself.

        `finding` says what is wrong with it, such as that it knows the label; empty: nothing. What is meant by each
        figure: `recsys/inspection/summaries.py`.
        """
        rows = []
        for each in self._report.features:
            row: dict[str, Any] = {"feature": each.name, "kind": each.kind}
            for split, look in each.splits.items():
                row |= {f"{split} coverage": look.coverage, f"{split} mean_length": look.mean_length}
            aucs = {f"{split} auc": look.auc for split, look in each.splits.items()} | {"known auc": each.known_auc}
            row |= {name: value and value.value for name, value in aucs.items()}
            said = (finding.found for finding in self._report.findings if finding.subject == each.name)
            rows.append(row | {"finding": "; ".join(said)})
        return pd.DataFrame(rows).set_index("feature")

    @cached_property
    def splits(self) -> pd.DataFrame:
        """One row per split and user segment ("all" first): rows and label rate; of a split also its users and items.

        Users and items are those that training knows; rows of others count in `unseen_user_share`, `unseen_item_share`.
        """
        of_split = ("known_users", "known_items", "unseen_user_share", "unseen_item_share")
        rows = []
        for each in self._report.splits:
            whole = {"split": each.split, "segment": ALL, "rows": each.rows, "label_rate": each.label_rate}
            rows.append(whole | {name: getattr(each, name) for name in of_split})
            rows += [
                {"split": each.split, "segment": part.segment, "rows": part.rows, "label_rate": part.label_rate}
                for part in each.segments
            ]
        return pd.DataFrame(rows).set_index(["split", "segment"])

    @cached_property
    def findings(self) -> pd.DataFrame:
        """What to look at, the gravest first: `subject`, what was `found`, what it usually `means`, what to `do`."""
        columns = [each.name for each in fields(DataFinding)]
        return pd.DataFrame([asdict(each) for each in self._report.findings], columns=columns)

    @cached_property
    def _report(self) -> PreparedReport:
        return prepared_report.run(self.encoded, silent)

    def _repr_html_(self) -> str:
        counts = pd.Series({f"{split} rows": number for split, number in self.rows.items()} | self.counts)
        return _html(f"Data {self.encoded.contract.schema.name}", counts.map("{:,}".format).to_frame(""))

    def __repr__(self) -> str:
        rows = ", ".join(f"{number:,} {split}" for split, number in self.rows.items())
        return f"<Data {self.encoded.contract.schema.name}: {rows} rows>"


@dataclass(frozen=True)
class Tower:
    """A pre-trained embedding tower.

    Attributes:
        encoded: the rows that it was made for.
        overrides: what makes a configuration stand on it.
    """

    artifact: TowerArtifact
    encoded: EncodedDataset
    overrides: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it came from: objective, validation loss and recall, data."""
        return dict(self.artifact.provenance)

    def _repr_html_(self) -> str:
        return _html(
            f"Tower of width {self.artifact.spec.width}", pd.Series(self.provenance, dtype=object).to_frame("")
        )

    def __repr__(self) -> str:
        return f"<Tower of width {self.artifact.spec.width}: {self.provenance.get('made_by', '')}>"


@dataclass(frozen=True)
class Run:
    """A finished run: one ranker, with the weights that validated best."""

    result: RunResult
    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """Scores on the test split as "<metric>/<segment>": "auc/all", "log_loss/all", "auc/new"."""
        return dict(self.result.scores)

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The same of the constant and the logistic regression on the same rows, by name."""
        return self.result.baselines

    @cached_property
    def gradient_norms(self) -> pd.DataFrame:
        """One row per reported step and part: `step`, `part`, `norm`; before clipping, 0 for a frozen part."""
        return pd.DataFrame(gradient_norms(self.folder), columns=["step", "part", "norm"])

    def score(self, rows: Any, *, events: str | Path | None = None, progress: Progress = silent) -> NDArray[np.float64]:
        """Return the probability of a positive label for raw rows, a frame as `prepare` takes it; shape (rows,).

        Args:
            rows: the columns of the rows that were prepared; features of the past, and what side tables say, may be
                absent, and are then read from the events.
            events: the folder or URI of the events; None: those that were prepared.

        Raises:
            DataError: a column is missing or holds what the schema does not allow.
        """
        return score_frame(self.folder, rows, Path(events) if events else None, progress)

    def _repr_html_(self) -> str:
        scores = {self.result.name: self.metrics} | {f"baseline: {name}": each for name, each in self.baselines.items()}
        columns = [name for name in study_metrics(CUTOFF) if f"{name}/all" in self.metrics]
        rows = {name: [each.get(f"{column}/all") for column in columns] for name, each in scores.items()}
        return _html("Test split", pd.DataFrame.from_dict(rows, orient="index", columns=columns))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {self.metrics[f'{name}/all']:.4f}" for name in ("auc", "log_loss"))
        return f"<Run {self.result.name}: {shown}; {self.folder}>"


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        overrides: of the call that ran it.
    """

    study: study_of_arms.FinishedStudy
    overrides: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Which value of the contrast is better, for whom, by how much; or how many more seeds would settle it."""
        return self.study.verdict

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per arm and baseline: its seeds, and over them mean and standard deviation of each metric."""
        rows = {}
        for arm, seeds in self.study.scores.items():
            scores = pd.DataFrame(seeds)
            rows[arm] = {"seeds": len(scores)} | {
                column: value
                for name in study_metrics(CUTOFF)
                if f"{name}/all" in scores
                for column, value in (
                    (name, scores[f"{name}/all"].mean()),
                    (f"{name} deviation", scores[f"{name}/all"].std()),
                )
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row per contrast, metric and segment: the paired difference, its 95 % interval, and the verdict."""
        return _differences(self.study.comparisons)

    def mixed_model(self, progress: Progress = silent) -> "MixedRuns":
        """Train one model of the verdicts: the tower frozen for some user segments, and learning for others.

        What every segment may change of the tower is chosen on validation rows, and the model judged on test rows; what
        is trained already is found. See `docs/for_whom.md`.

        Raises:
            UsageError: the study does not compare training modes, or does so under several values of another key.
        """
        return MixedRuns(from_study.run(self.study.id, self.overrides, progress))

    @property
    def report(self) -> Path:
        """The whole report, an HTML page."""
        return self.study.folder / "report.html"

    def _repr_html_(self) -> str:
        decisive = self.differences[self.differences["metric"] == study_of_arms.DECISIVE]
        parts = [self.table.to_html(float_format="{:.4f}".format), decisive.to_html(index=False)]
        return f"{''.join(parts)}<p><b>Verdict.</b> {html.escape(self.verdict)}</p>"

    def __repr__(self) -> str:
        return f"<Study {self.study.id}: {self.verdict}>"


@dataclass(frozen=True)
class MixedRuns:
    """What came of a study's verdicts: each segment's rung, and the runs of the model that has them, one a seed."""

    mixed: from_study.MixedModel

    @property
    def rungs(self) -> dict[str, str]:
        """Segment -> what it may change of the tower: nothing ("frozen"), "adapter", "tables", "dense" or "all"."""
        return dict(self.mixed.rungs)

    @cached_property
    def choices(self) -> pd.DataFrame:
        """One row per segment ("all" first): the training mode that validation rows ask for, and the grounds."""
        return pd.DataFrame([asdict(each) for each in self.mixed.choices]).set_index("segment")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """As of a study: the model minus the uniform modes on test rows; no rows where all segments take one mode."""
        return _differences(self.mixed.comparisons)

    @property
    def folders(self) -> list[Path]:
        """Of the model's runs; none where all segments take one mode, which is an arm of the study."""
        return list(self.mixed.folders)

    def __repr__(self) -> str:
        return f"<MixedRuns of {self.mixed.study}: {', '.join(f'{name} {rung}' for name, rung in self.rungs.items())}>"


def _differences(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    columns = ("metric", "segment", "difference", "low", "high", "verdict")
    rows = [
        {"first": comparison.contrast.first, "second": comparison.contrast.second}
        | {name: getattr(each, name) for name in columns}
        | {"verdict": str(each.verdict)}
        for comparison in comparisons
        for each in comparison.differences
    ]
    return pd.DataFrame(rows, columns=["first", "second", *columns])


def _html(title: str, table: pd.DataFrame) -> str:
    shown: str = table.to_html(float_format="{:.4f}".format, na_rep="")
    return f"<p><b>{html.escape(title)}</b></p>{shown}"
