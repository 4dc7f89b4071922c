"""Every metric, parameter and tag name, once: runs line up in the comparison view because they spell alike.

MLflow's chart page makes a section of what comes before the slash, and cuts a chart's title after about a dozen
characters, so sections are few and the parts after the slash short. A metric with several values draws a line, one with
a single value a bar; final scores therefore have sections of their own (`test`, `test_auc`, `ranking`).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from recsys.all_segments import ALL
from recsys.errors import UsageError
from recsys.metrics.auc import AUC
from recsys.metrics.log_loss import LOG_LOSS

TRAIN_LOSS = "train/loss"
EPOCH = "train/epoch"
STAGE = "train/stage"
"""Of the training mode, counted from 0: a step in it is where more of the tower begins to learn."""
ROWS_SEEN = "train/rows_seen"
SKIPPED_BATCHES = "train/skipped_batches"
ROWS_PER_SECOND = "perf/rows_per_second"
DATA_WAIT_SHARE = "perf/data_wait_share"
GPU_IDLE_SHARE = "perf/gpu_idle_share"
"""Of its time between steps, by the GPU's own clock; absent on a CPU."""
ROWS_DROPPED, VALUES_MENDED = "data/rows_dropped", "data/values_mended"
"""What the schema's policies did to the training rows while they streamed; absent where they did nothing."""
COMPILED_GRAPHS = "perf/compiled_graphs"
TRAIN_SECONDS = "cost/train_seconds"
CPU_SECONDS = "cost/cpu_seconds"
PEAK_MEMORY, PEAK_GPU_MEMORY = "cost/peak_bytes", "cost/gpu_bytes"
ENERGY = "cost/joules"
NON_FINITE = "train/non_finite_values"
"""How many values were NaN or infinite and therefore counted here instead of logged under their own name."""

VALIDATION, TEST = "valid", "test"

WHOLE = "whole"

NONE, VARIED = "none", "varied"
"""What a param reads that has no part in its run; and one in which the arms of a study differ, in the study's own."""

PARAM_ARM = "arm"
PARAM_MODE = "training_mode"
PARAM_COMPOSITION = "composition"
PARAM_TOWER = "tower"
PARAM_NETWORK = "network"
PARAM_SEED = "seed"
PARAM_DATA = "data"
PARAM_DEVICE = "device"
"""What a run computed on; not among the grouping ones, as a study is all of one kind."""
GROUPING_PARAMS = (PARAM_ARM, PARAM_MODE, PARAM_COMPOSITION, PARAM_TOWER, PARAM_NETWORK, PARAM_SEED, PARAM_DATA)
"""Params that every run has, "none" where off: what people filter and group runs by."""

TAG_ABLATION_ID = "ablation_id"
TAG_KIND = "kind"
"""One of `KINDS`."""
KINDS = ("arm", "study", "train", "daily", "pretrain")
TAG_ARM = "arm"
TAG_VERDICT = "verdict"
TAG_WEEKLY_STUDY, TAG_VERDICT_CHANGED = "weekly_study", "verdict_changed"
"""Of a scheduled run: the study that followed it, and what it says otherwise than the one before; else "no"."""
TAG_CHECKS = "checks"
"""Of a scheduled run: `ok`, or which checks of its newest day warn."""
TAG_END_REASON = "end_reason"
TAG_SPOOL_ID = "spool_id"
TAG_CONTRACT = "contract"
TAG_FROZEN_PROOF = "frozen_proof"
TAG_PROCESSES, TAG_TABLE_PLAN = "processes", "table_plan"
"""How many processes a run whose tables were planned had, and the plan in a sentence; absent where none was made."""
TAG_START = "start"
"""The digest of the model whose weights a run started from; absent where it started from scratch."""
TAG_TOWER_VERSION, TAG_TOWER_DIGEST = "tower_version", "tower_digest"
"""Which tower a run's model holds, and what it is by its bits; the same as long as no run trains it on."""
TAG_CHAMPION = "champion"
"""The artifact that a scheduled run was compared with."""
TAG_CHAMPION_DECAY = "champion_decay"
TAG_DATE, TAG_ARTIFACT = "date", "artifact"
"""Of a version in the model registry, as all below: its run's date, and its run's folder."""
TAG_DECISION, TAG_REASON = "decision", "reason"
"""Of a scheduled run too."""
TAG_REPLACED_BY, TAG_ROLLED_BACK = "replaced_by", "rolled_back"
ALIAS_CHAMPION, ALIAS_CHALLENGER = "champion", "challenger"
TAG_NOTE = "mlflow.note.content"
"""Markdown that the run's and the experiment's page show."""
TAG_COLOUR = "mlflow.runColor"
"""The run's line colour on the chart page, as `#rrggbb`."""

LEARNING_CURVES_FILE = "plots/learning_curves.png"
GRADIENT_NORMS_FILE = "plots/gradient_norms.png"
GATES_FILE = "plots/gates.png"
CALIBRATION_FILE = "plots/calibration.png"
AUC_BY_SEGMENT_FILE = "plots/auc_by_segment.png"
COMPARISONS_FILE = "comparisons.json"
"""Of a study's run: every paired difference with its interval and verdict."""

_LONGEST_KEY = 250  # MLflow's limit on a key
# MLflow takes letters of any script, digits, `_`, `.`, `-`, space, `:` and `/`; the colon is spent on escaping here.
_REFUSED = re.compile(r"[^\w.\- ]|^\.+|^ | $|\.$")
_ESCAPED = re.compile(r":([0-9a-f]+):")


def escaped(name: str) -> str:
    """Return a name that MLflow accepts as one part of a key; `unescaped` turns it back.

    >>> escaped("a/b"), escaped("café"), escaped("👍 5")
    ('a:2f:b', 'café', ':1f44d: 5')
    """
    return _REFUSED.sub(lambda match: "".join(f":{ord(letter):x}:" for letter in match.group()), name)


def unescaped(name: str) -> str:
    """Return the name that `escaped` was given.

    >>> unescaped(escaped("../👍:"))
    '../👍:'
    """
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 16)), name)


def checked_key(key: str) -> str:
    """Return a metric or param key unchanged.

    Raises:
        UsageError: MLflow would refuse it, which must not come out hours later when the spool is sent.
    """
    parts = key.split("/")
    if not all(parts) or len(parts) > 2 or any(_REFUSED.search(part.replace(":", "")) for part in parts):
        raise UsageError(
            f"The name {key!r} cannot be tracked: expected letters, digits, `_`, `.`, `-` and space, with at most one "
            "slash. Pass what comes from data through `recsys.tracking.names.escaped` first."
        )
    if len(key) > _LONGEST_KEY:
        raise UsageError(f"The name {key[:40]!r}... has {len(key)} characters; MLflow takes at most {_LONGEST_KEY}.")
    return key


# Of several modules of one kind, each by its own name.
_LISTED_NORMS = ("expert", "tower", "member", "threshold", "adapter", "copy")


def grad_norm(of: str) -> str:
    """A gradient norm, as the training loop's reports name it.

    Of one of the ranker's children or of the `WHOLE` ranker; of a part's tables or its dense half; of the modules that
    are one segment's own; of a source or head of the tower; of a member of the head, or of its output at a threshold;
    of a segment's adapter, or of the copy of the tower that the segments of a rung share.

    >>> grad_norm("head"), grad_norm("embedding_tower/tables"), grad_norm("expert/new"), grad_norm("tower/user_ids")
    ('grad_norm/head', 'grad_norm_tables/embedding_tower', 'grad_norm_expert/new', 'grad_norm_tower/user_ids')
    """
    what, _, which = of.partition("/")
    if not which:
        return f"grad_norm/{escaped(what)}"
    return f"grad_norm_{what}/{escaped(which)}" if what in _LISTED_NORMS else f"grad_norm_{which}/{escaped(what)}"


def part_of_norm(metric: str) -> str:
    """Return what a gradient norm is of, the argument of `grad_norm` that named it; empty for any other metric.

    >>> part_of_norm("grad_norm/head"), part_of_norm("grad_norm_tables/embedding_tower"), part_of_norm("train/loss")
    ('head', 'embedding_tower/tables', '')
    """
    section, _, what = metric.partition("/")
    if not section.startswith("grad_norm"):
        return ""
    half = section.removeprefix("grad_norm").removeprefix("_")
    return f"{half}/{unescaped(what)}" if half in _LISTED_NORMS else unescaped(what) + (f"/{half}" if half else "")


def segment_share(segment: str) -> str:
    """A segment's share of the embedding tower's gradient norm."""
    return f"segment_share/{escaped(segment)}"


def segment_cosine(segment: str) -> str:
    """The cosine between a segment's gradient of the embedding tower and that of all other segments."""
    return f"segment_cosine/{escaped(segment)}"


def learning_rate(part: str) -> str:
    """The learning rate of a group of parameters, such as `dense` or `tables`."""
    return f"train/lr_{escaped(part)}"


def auc(split: str, segment: str = ALL) -> str:
    """AUC on a split (`VALIDATION` or `TEST`), of one user segment or of all rows."""
    return f"{split}_{AUC.name}/{escaped(segment)}"


def score(split: str, metric: str, segment: str = ALL) -> str:
    """Another metric on a split, such as `log_loss`.

    >>> score(TEST, "log_loss"), score(TEST, "log_loss", "new")
    ('test/log_loss', 'test_log_loss/new')
    """
    return f"{split}/{escaped(metric)}" if segment == ALL else f"{split}_{metric}/{escaped(segment)}"


def check(name: str) -> str:
    """What a check of a scheduled run's newest day measured, such as `rows`: how far the day lies off.

    >>> check("null_share")
    'check/null_share'
    """
    return f"check/{name}"


def champion(figure: str) -> str:
    """A figure of the champion on a scheduled run's test rows, or of the challenger beside it."""
    return f"champion/{figure}"


def ranking(metric: str, candidates: str) -> str:
    """A ranking metric on the test split; MLflow refuses `@`, so it is dropped.

    >>> ranking("recall@20", "new_to_user")
    'ranking/recall20_new_to_user'
    """
    return f"ranking/{metric.replace('@', '')}_{candidates}"


def training_metrics(
    *,
    loss: float,
    gradient_norms: Mapping[str, float],
    learning_rates: Mapping[str, float],
    rows_seen: int,
    epoch: int,
    rows_per_second: float,
    data_wait_share: float,
    gpu_idle_share: float | None,
    skipped_batches: int,
) -> dict[str, float]:
    """Name the numbers of one report of the training loop.

    Every run logs every name, a frozen tower's gradient norm of 0 included, so that all runs show the same charts; only
    what a GPU alone has is absent without one.
    """
    return {
        TRAIN_LOSS: loss,
        **{grad_norm(part): norm for part, norm in gradient_norms.items()},
        **{learning_rate(part): rate for part, rate in learning_rates.items()},
        ROWS_SEEN: rows_seen,
        EPOCH: epoch,
        ROWS_PER_SECOND: rows_per_second,
        DATA_WAIT_SHARE: data_wait_share,
        **({} if gpu_idle_share is None else {GPU_IDLE_SHARE: gpu_idle_share}),
        SKIPPED_BATCHES: skipped_batches,
    }


def stream_metrics(counts: Mapping[str, int]) -> dict[str, float]:
    """Name what became of invalid values while rows streamed, as `BatchStream.counts` has it column by column.

    >>> stream_metrics({"rows dropped: price": 3, "rows dropped": 3, "ids unknown: item_id": 2})
    {'data/rows_dropped': 3, 'data/values_mended': 2}
    """
    if not counts:
        return {}
    mended = sum(number for what, number in counts.items() if not what.startswith("rows dropped"))
    return {ROWS_DROPPED: counts.get("rows dropped", 0), VALUES_MENDED: mended}


def evaluation_metrics(
    split: str, overall: Mapping[str, float], by_segment: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Name the metrics of one evaluation: everything overall, and each segment's AUC.

    Other metrics by segment go to the run as a table: as metrics they would bury the charts that people look at.
    A metric that is undefined is absent from its mapping, and stays absent.
    """
    named = {auc(split) if metric == AUC.name else score(split, metric): value for metric, value in overall.items()}
    return named | {
        auc(split, segment): metrics[AUC.name] for segment, metrics in by_segment.items() if AUC.name in metrics
    }


def baseline_metrics(baselines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Name what the baselines score on the test split, all users together.

    >>> baseline_metrics({"logistic": {"auc/all": 0.7, "auc/new": 0.6, "log_loss/all": 0.5}})
    {'test_baseline/logistic_auc': 0.7, 'test_baseline/logistic_log_loss': 0.5}
    """
    return {
        checked_key(f"{TEST}_baseline/{name}_{metric}"): scores[f"{metric}/{ALL}"]
        for name, scores in baselines.items()
        for metric in (AUC.name, LOG_LOSS.name)
        if f"{metric}/{ALL}" in scores
    }


def baselines_of(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return what `baseline_metrics` named, among other metrics.

    >>> baselines_of({"test_baseline/logistic_auc": 0.7, "test/log_loss": 0.4})
    {'logistic': {'auc/all': 0.7}}
    """
    found: dict[str, dict[str, float]] = {}
    for metric in (AUC.name, LOG_LOSS.name):
        for name, value in metrics.items():
            baseline = name.removeprefix(f"{TEST}_baseline/").removesuffix(f"_{metric}")
            if name == f"{TEST}_baseline/{baseline}_{metric}":
                found.setdefault(baseline, {})[f"{metric}/{ALL}"] = value
    return found


def run_name(*differences: object, seed: int) -> str:
    """Join what differs between runs, most telling first, as the run list cuts long names.

    >>> run_name("frozen_tower", "conditional", seed=0)
    'frozen_tower/conditional/s0'
    """
    return "/".join([*map(str, differences), f"s{seed}"])


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn a nested config into params with dotted names; what is off reads "none", lists are joined by commas.

    >>> flattened({"training": {"steps": 10, "warm_up": None}, "seeds": [0, 1]})
    {'training.steps': '10', 'training.warm_up': 'none', 'seeds': '0,1'}
    """
    params: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{escaped(str(key))}"
        if isinstance(value, Mapping):
            params |= flattened(value, f"{name}.")
        else:
            params[name] = _param_value(value)
    return params


def split_finite(metrics: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """Separate what can be logged from a count of NaN and infinite values, which would wreck a chart's axis.

    >>> split_finite({"a": 1.0, "b": float("nan")})
    ({'a': 1.0}, 1)
    """
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    return finite, len(metrics) - len(finite)


def _param_value(value: Any) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, list | tuple):
        return ",".join(map(_param_value, value)) or NONE
    return str(value)
