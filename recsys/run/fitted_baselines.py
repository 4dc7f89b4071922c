"""The constant and the logistic regression that every ranker is compared with: fitted once per data set, and kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from recsys.all_segments import ALL
from recsys.composition.gate_reading import GateReading
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.baselines import CONSTANT, LOGISTIC, LogisticRanker, fit_baselines, gain_error
from recsys.evaluation.split_evaluation import evaluate, predict
from recsys.features.batch import Batch
from recsys.metrics.auc import AUC
from recsys.metrics.log_loss import LOG_LOSS, NORMALISED_ENTROPY
from recsys.metrics.registry import is_gain
from recsys.progress import Progress
from recsys.run.record import validation_figures
from recsys.run.result_keys import code_of, rows_of
from recsys.run.streams import TRAIN, VALIDATION, scoring_stream, started
from recsys.scheduling.stage import Stage, run_stage
from recsys.sharding.first_process import by_first
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext
from recsys.tracking.gate_names import gate
from recsys.training.stages import LEAST_GAIN

_ENTROPY = f"{NORMALISED_ENTROPY.name}/{ALL}"
COMPARED = {f"{metric.name}/{ALL}": metric.label for metric in (AUC, LOG_LOSS, NORMALISED_ENTROPY)}
"""What a ranker and the baselines are compared in: flat name and label."""
# The newest days of training with at most so many rows: more would tell three kinds of weights nothing new.
_MOST_ROWS = 500_000


def run(config: RunConfig, encoded: EncodedDataset, progress: Progress) -> dict[str, LogisticRanker]:
    """Return the baselines of prepared data by name, fitted on its training rows or found fitted already.

    Raises:
        BusyError: another process fits them now.
    """
    stage = Stage(
        "baselines",
        inputs=rows_of(encoded, (TRAIN, VALIDATION)),
        # The last of so many rows come in whole batches.
        parameters={"batch_size": config.evaluation.batch_size},
        code_version=code_of(_fit),
    )

    def work(folder: Path) -> None:
        progress("fitting the baselines", 0, 0)
        for name, ranker in _fit(config, encoded).items():
            save_file(ranker.state_dict(), folder / f"{name}.safetensors")

    final = config.runtime.encoded / f"{config.data.name}-baselines-{stage.key}"
    return dict(_loaded(encoded, Path(by_first(lambda: str(run_stage(stage, final, work).path)))))


def validation_of(
    wrapped: nn.Module, start: nn.Module, config: RunConfig, encoded: EncodedDataset, context: ProcessContext
) -> Callable[[], dict[str, float]]:
    """Return what the training loop validates by: the ranker's figures, and how much better than the start it must be.

    Among the figures are its gates by segment, where its composition has some, under their tracked names.

    Of two models that validation cannot tell apart the simpler one is kept (the one-standard-error rule of Breiman et
    al., "Classification and Regression Trees", 1984), which is the regression that the ranker starts as; or the model
    that is in use already.

    Args:
        start: as the ranker is before its first step; it is measured now.
    """
    stream = scoring_stream(config, encoded, VALIDATION, context)
    at_start = predict(start, stream)
    ranker, segments = unwrapped(wrapped), encoded.contract.schema.segments
    assert isinstance(ranker, Ranker)

    def validate() -> dict[str, float]:
        with GateReading(ranker.composition, len(segments)) as gates:
            predictions = predict(wrapped, stream)
        figures = validation_figures(evaluate(predictions, segments))
        for branch, by_segment in gates.means(context.world_size).items():
            figures |= {gate(branch, segments[segment]): mean for segment, mean in by_segment.items()}
        return figures | {LEAST_GAIN: gain_error(predictions, at_start)}

    return validate


def evaluated(
    baselines: Mapping[str, LogisticRanker],
    config: RunConfig,
    encoded: EncodedDataset,
    split: str,
    context: ProcessContext,
) -> dict[str, dict[str, float]]:
    """Return what the baselines score on a split, by their names: flat metrics such as "auc/all"."""
    segments = encoded.contract.schema.segments
    stream = scoring_stream(config, encoded, split, context, ("user_key",))
    return {
        name: evaluate(predict(ranker.to(context.device), stream), segments).flat_metrics("")
        for name, ranker in baselines.items()
    }


def shortfall(name: str, scores: Mapping[str, float], baseline: str, others: Mapping[str, float]) -> str:
    """Say where a ranker is no better than a baseline; empty where it is better throughout."""
    worse = [
        f"{words} {figure_of(scores, metric)} against {figure_of(others, metric)}"
        for metric, words in COMPARED.items()
        if metric != _ENTROPY
        and metric in scores
        and metric in others
        and not is_gain(metric.partition("/")[0], scores[metric] - others[metric])
    ]
    if not worse:
        return ""
    return (
        f"{name} does not beat the {baseline} baseline: {', '.join(worse)}. More rows, or features that tell more, may "
        "change that; until then the baseline does as well."
    )


def figure_of(scores: Mapping[str, float], metric: str) -> str:
    """A score to four digits, a dash where there is none."""
    return f"{scores[metric]:.4f}" if metric in scores else "-"


def newest_days(days: Mapping[str, int], most_rows: int) -> list[str]:
    """Return the last days that have at most so many rows together; the last one in any case.

    >>> newest_days({"2026-01-01": 5, "2026-01-02": 4, "2026-01-03": 3}, most_rows=8)
    ['2026-01-02', '2026-01-03']
    """
    taken, rows = list[str](), 0
    for day in sorted(days, reverse=True):
        rows += days[day]
        if taken and rows > most_rows:
            break
        taken.insert(0, day)
    return taken


def _fit(config: RunConfig, encoded: EncodedDataset) -> dict[str, LogisticRanker]:
    context = replace(started(config), rank=0, world_size=1)  # one process fits them, on rows of all
    days = newest_days(encoded.days(TRAIN), _MOST_ROWS)
    train = _first_rows(scoring_stream(config, encoded, TRAIN, context, days=days))
    validation = _first_rows(scoring_stream(config, encoded, VALIDATION, context))
    return fit_baselines(train, validation, encoded.contract, config.runtime.cores)


def _first_rows(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The first `_MOST_ROWS` of a day, or of a split, that has more."""
    left = _MOST_ROWS
    for batch in batches:
        yield batch
        left -= len(batch)
        if left <= 0:
            break


def _loaded(encoded: EncodedDataset, place: Path) -> Iterator[tuple[str, LogisticRanker]]:
    for name in (CONSTANT, LOGISTIC):
        ranker = LogisticRanker(encoded.contract)
        ranker.load_state_dict(load_file(place / f"{name}.safetensors"))
        yield name, ranker
