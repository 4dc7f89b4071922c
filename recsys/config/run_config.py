"""Every knob of a run, typed: one frozen dataclass per group of `conf/`, under the same names.

Values stand in `conf/` alone; here stand their types and the ranges that make sense. An unknown key, a missing key, a
wrong type or a value out of range is refused before anything runs.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic.dataclasses import rebuild_dataclass
from pydantic.type_adapter import TypeAdapter
from pydantic_core import ErrorDetails

from recsys.config.ablation import AblationConfig
from recsys.config.compositions import COMPOSITIONS, AnyCompositionConfig
from recsys.config.daily_run import DailyConfig
from recsys.config.data import DataConfig
from recsys.config.kinds import Kinds
from recsys.config.knobs import (
    Fraction,
    MemoryLimit,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Processes,
    Seed,
    checked_dataclass,
)
from recsys.config.networks import NETWORKS, AnyNetworkConfig
from recsys.config.sharding import ClusterConfig, PartWithTables, ShardingConfig, TableKernel
from recsys.config.tower import TowerConfig
from recsys.config.training_mode import TrainingModeConfig
from recsys.errors import UsageError


@checked_dataclass
class TrainingConfig:
    """The budget and the optimizers: AdamW on dense parameters, row-wise Adagrad on tables.

    A `batch_size` of null follows the number of training rows, up to `largest_batch` or, where that is null too, to as
    many as memory holds (`recsys/run/batch_size.py`), and the rates follow it (`recsys/training/budget.py`); beside one
    that is given, the rates are taken as they stand. `epochs` is the most that a run takes; null follows the number of
    rows too.

    `objective` is what is minimised: the `log_loss` of the label; `ordinal`, at every threshold of a graded label; or
    `listwise`, the softmax among a query's candidates, beside which the log loss counts `listwise_log_loss` times.

    The first-order weights of ids start fitted and learn at `first_order_rate_share` of the tables' rate.

    `table_kernels` says in which memory a GPU has a part's tables, `auto` wherever the planner puts each, and
    `table_cache_share` how much of them the cache of `uvm_caching` holds.

    `tower_day_share` of the training rows, the earliest days, are set apart for pre-training the tower; the ranker
    learns from the days after them, whose labels the tower has not seen. 0 gives every day to both.

    `warmup_share` of all steps raises the rates from 0 to full, then they fall to `final_rate_share` of it. Validation
    runs `validations_per_epoch` times; `patience` of them without a better log loss end the run. Reports come every
    `report_every` steps, or every `report_seconds` where that is not null. Gradient norms are read every `norms_every`
    steps and the tower's gradient by segment every `segment_view_every` (0: never), both more often in a run that is
    too short for that.

    A frozen tower's vectors are cached where the training mode gives memory for it: `always`, or `if_faster` on this
    machine than computing them. `compile` compiles the crossing, the deep layers and the head's.

    Against overfitting, all off unless set: `table_l2`, by part, penalises the squared norm of the vectors that a row
    looks up (`recsys/training/table_l2.py`); `id_dropout` is the probability with which an id is taken for an unknown
    one in a step, `embedding_dropout` that with which a field's looked-up vector is left out; `average_decay` is d of
    the exponential average of all weights that learn, which is then what is validated, kept and served
    (`recsys/training/weight_average.py`).

    `row_order` is `shuffled`, anew in every epoch, or `time`: strictly by day and time, as rows arrive where a model
    goes on learning from them. `decode_threads` null takes the cores that are left beside the steps.
    """

    seed: Seed
    batch_size: PositiveInt | None
    largest_batch: PositiveInt | None
    epochs: PositiveInt | None
    objective: Literal["log_loss", "ordinal", "listwise"]
    listwise_log_loss: NonNegativeFloat
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    first_order_rate_share: PositiveFloat
    table_kernels: dict[PartWithTables, TableKernel]
    table_cache_share: Annotated[float, Field(gt=0, le=1)]
    tower_day_share: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    table_l2: dict[PartWithTables, NonNegativeFloat]
    id_dropout: Annotated[float, Field(ge=0, lt=1)]
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)]
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None
    warmup_share: Fraction
    final_rate_share: Fraction
    precision: Literal["float32", "bfloat16", "float16"]
    matmul: Literal["highest", "tf32"]
    table_precision: Literal["float32", "float16"]
    compile: bool
    tower_cache: Literal["always", "if_faster"]
    report_every: PositiveInt
    report_seconds: PositiveFloat | None
    norms_every: PositiveInt
    segment_view_every: NonNegativeInt
    validations_per_epoch: PositiveInt
    patience: PositiveInt
    max_gradient_norm: PositiveFloat | None
    row_order: Literal["shuffled", "time"]
    shuffle_buffer_rows: PositiveInt
    decode_threads: Processes | None
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt


@checked_dataclass
class EvaluationConfig:
    """Batch size of scoring, and whether whole candidate lists are ranked where the data has them."""

    batch_size: PositiveInt
    ranking: bool


@checked_dataclass
class TrackingConfig:
    """Where runs are recorded; `uri` null is a SQLite store in `runs`."""

    uri: str | None
    experiment: str
    system_metrics: bool


@checked_dataclass
class RuntimeConfig:
    """Folders and machine limits; `threads` null takes every core, or one for each arm of a study.

    `device` is what computes: `auto` a GPU where there is one, `cpu` none in any case, `cuda` a GPU or nothing.

    `threads` and `memory_limit` are a machine's. Several processes of one run divide them where all of them work, and
    wait for one another up to `exchange_seconds`.
    """

    runs: Path
    encoded: Path
    towers: Path
    device: Literal["auto", "cpu", "cuda"]
    threads: Processes | None
    memory_limit: MemoryLimit
    exchange_seconds: PositiveInt

    @property
    def cores(self) -> int:
        """How many threads to compute with: `threads`, or every core that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))


@checked_dataclass
class RunConfig:
    """One run, whole."""

    data: DataConfig
    tower: TowerConfig
    network: AnyNetworkConfig
    composition: AnyCompositionConfig
    training_mode: TrainingModeConfig
    training: TrainingConfig
    sharding: ShardingConfig
    cluster: ClusterConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    ablation: AblationConfig
    daily: DailyConfig
    runtime: RuntimeConfig


def config_from(document: Mapping[str, Any]) -> RunConfig:
    """Check plain values and return them typed; a module that registers a kind of the document's is imported.

    Raises:
        UsageError: names each key, what was found and what is expected.
    """
    known = {
        kinds.group: kinds.imported(document[kinds.group])
        for kinds in KINDS
        if isinstance(document.get(kinds.group), Mapping)
    }
    try:
        return _adapter().validate_python({**document, **known})
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_url=False)]
        raise UsageError("The configuration cannot be used:\n  " + "\n  ".join(lines)) from error


def config_document(config: RunConfig) -> dict[str, Any]:
    """Return the config as plain JSON values, the way it is recorded with a run."""
    document: dict[str, Any] = _adapter().dump_python(config, mode="json")
    for kinds in KINDS:
        document[kinds.group] |= kinds.origin(document[kinds.group]["name"])
    return document


def register_variant(kinds: Kinds[Any], variant: type) -> None:
    """Let a run's configuration hold a variant from outside.

    Raises:
        UsageError: as `Kinds.add`.
    """
    kinds.add(variant)
    # What checks a configuration was made of the variants that there were then.
    rebuild_dataclass(RunConfig, force=True)  # type: ignore[arg-type]
    _adapter.cache_clear()


KINDS: tuple[Kinds[Any], ...] = (NETWORKS, COMPOSITIONS)
"""The groups whose kinds a user's own modules can add to."""

# Their values are unions: the tag that tells the variants apart ("two_tower") is a step of pydantic's path, and no key
# that a user could type.
_UNIONS = ("data", "tower", *(kinds.group for kinds in KINDS), "inner")


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    return TypeAdapter(RunConfig)


def _explain(detail: ErrorDetails) -> str:
    path: list[str] = []
    kind = ""
    is_kind = False
    for step in map(str, detail["loc"]):
        if is_kind:
            kind = step
        else:
            path.append(step)
        is_kind = not is_kind and step in _UNIONS
    key, group = ".".join(path), path[0]
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        kinds = {each.group: each for each in KINDS}.get(group)
        has = (
            f"{group} `{kind}` has {', '.join(kinds.knobs(kind))}" if kinds else "the keys stand in the files of conf/"
        )
        return f"`{key}` is no known key (found {detail['input']!r}); {has}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] in ("missing", "missing_argument"):
        return f"`{key}` is missing; it has no default"
    return f"`{key}` is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
