"""Every knob of a run, typed: one frozen dataclass per group of `conf/`, under the same names.

Values stand in `conf/` alone; here stand their types and the ranges that make sense. An unknown key, a missing key, a
wrong type or a value out of range is refused before anything runs.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.type_adapter import TypeAdapter
from pydantic_core import ErrorDetails

from recsys.config_ablation import AblationConfig
from recsys.config_training_mode import TrainingModeConfig
from recsys.config_types import (
    STRICT,
    Day,
    Days,
    Fraction,
    Layers,
    MemoryLimit,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Processes,
    Seed,
    Width,
    require_exactly,
)
from recsys.errors import UsageError


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class OnlineRetailData:
    """Invoices of an online shop; dates are half-open boundaries (UTC days).

    `ranking_baselines` are rules to rank candidates by without a model: name -> columns, the first one decides, the
    next breaks its ties.
    """

    source: Literal["online_retail"]
    name: Name
    schema_path: Path
    raw: Path
    train_start: Day
    validation_start: Day
    test_start: Day
    test_end: Day
    negatives_per_positive: PositiveInt
    ranking_validation_invoices: PositiveInt
    ranking_baselines: dict[str, tuple[str, ...]]
    seed: Seed


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TableData:
    """Rows that the user already has; the schema's `table:` block says how to read them."""

    source: Literal["table"]
    name: Name
    schema_path: Path
    raw: Path


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class MovielensData:
    """A MovieLens release in its publisher's layout."""

    source: Literal["movielens"]
    name: Name
    schema_path: Path
    raw: Path


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class SimulatedData:
    """A simulated world; `world_seed` draws the world, `seed` the rows in it."""

    source: Literal["simulated"]
    name: Name
    schema_path: Path
    raw: Path
    rows: PositiveInt
    users: PositiveInt
    items: PositiveInt
    days: Days
    seed: Seed
    world_seed: Seed


DataConfig = Annotated[OnlineRetailData | TableData | MovielensData | SimulatedData, Field(discriminator="source")]


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TwoTowerConfig:
    """A tower that is pre-trained here, on the training split; `batch_size` and `epochs` as in `TrainingConfig`.

    `width` is each side's vector, `table_dimension` each id's; `temperature` divides the scores of the softmax.
    """

    kind: Literal["two_tower"]
    name: Name
    width: Width
    table_dimension: Width
    hidden_widths: tuple[Width, ...]
    temperature: PositiveFloat
    batch_size: PositiveInt | None
    epochs: PositiveInt | None
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    seed: Seed


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class ImportedTowerConfig:
    """Vectors made elsewhere, by item id; reduced to `width` numbers by principal components."""

    kind: Literal["imported"]
    name: Name
    width: Width
    vectors: Path
    id_column: str
    vector_column: str


TowerConfig = Annotated[TwoTowerConfig | ImportedTowerConfig, Field(discriminator="kind")]


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class NetworkConfig:
    """An interaction network over fields of `field_width` numbers each.

    `first_order` adds to the logit one weight per id and per number, beside all that is crossed. `layers` counts cross
    layers or mask blocks, `rank` the low-rank cross's inner width, `mask_ratio` a mask's hidden width over its
    output's; each must be null where the crossing has no such thing.
    """

    name: Literal["cross", "cross_low_rank", "dot", "mask_parallel", "mask_serial", "mlp"]
    field_width: Width
    hidden_widths: tuple[Width, ...]
    dropout: Fraction
    first_order: bool
    layers: Layers | None
    rank: Width | None
    mask_ratio: Annotated[float, Field(gt=0, le=1000)] | None

    def __post_init__(self) -> None:
        """Refuse a knob that the named crossing does not have, or lacks."""
        require_exactly(
            f"network `{self.name}`",
            {"layers": self.layers, "rank": self.rank, "mask_ratio": self.mask_ratio},
            needed={
                "cross": {"layers"},
                "cross_low_rank": {"layers", "rank"},
                "dot": set(),
                "mask_parallel": {"layers", "mask_ratio"},
                "mask_serial": {"layers", "mask_ratio"},
                "mlp": set(),
            }[self.name],
        )


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class CompositionConfig:
    """How tower and interaction network are joined.

    `width` is that of both branches where they meet. `join` is how the parallel kinds join them. The conditional kind
    either weighs them by a learned gate per segment (`routing: gate`) or lets each segment's rows pass only the
    branches of its route (`routing: route`, `routes: {segment: [branches]}`, every segment once). `expert_hidden` are
    the hidden widths of each segment's expert, null for none. A knob that the kind does not have must be null.
    """

    name: Literal["sequential", "parallel", "conditional", "parallel_conditional"]
    width: Width | None
    join: Literal["concat", "sum", "product", "gate"] | None
    routing: Literal["gate", "route"] | None
    routes: dict[str, tuple[Literal["embedding_tower", "interaction_network"], ...]] | None
    expert_hidden: tuple[Width, ...] | None
    head_hidden: tuple[Width, ...]

    def __post_init__(self) -> None:
        """Refuse a knob that the named composition does not have, or lacks."""
        knobs = {"width": self.width, "join": self.join, "routing": self.routing, "routes": self.routes}
        needed = {
            "sequential": set(),
            "parallel": {"width", "join"},
            "conditional": {"width", "routing"} | ({"routes"} if self.routing == "route" else set()),
            "parallel_conditional": {"width", "join"},
        }[self.name]
        require_exactly(f"composition `{self.name}`", knobs, needed)
        if self.expert_hidden is not None and "conditional" not in self.name:
            raise ValueError(f"composition `{self.name}` has no experts; set `expert_hidden` to null")


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainingConfig:
    """The budget and the optimizers: AdamW on dense parameters, row-wise Adagrad on tables.

    A `batch_size` of null follows the number of training rows, and the rates follow it (`recsys/training/budget.py`);
    beside one that is given, the rates are taken as they stand. `epochs` is the most that a run takes; null follows the
    number of rows too.

    The first-order weights of ids start fitted and learn at `first_order_rate_share` of the tables' rate.

    `tower_day_share` of the training rows, the earliest days, are set apart for pre-training the tower; the ranker
    learns from the days after them, whose labels the tower has not seen. 0 gives every day to both.

    `warmup_share` of all steps raises the rates from 0 to full, then they fall to `final_rate_share` of it. Validation
    runs `validations_per_epoch` times; `patience` of them without a better log loss end the run. Gradient norms are
    read every `norms_every` steps and the tower's gradient by segment every `segment_view_every` (0: never), both more
    often in a run that is too short for that.

    `row_order` is `shuffled`, anew in every epoch, or `time`: strictly by day and time, as rows arrive where a model
    goes on learning from them.
    """

    seed: Seed
    batch_size: PositiveInt | None
    epochs: PositiveInt | None
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    first_order_rate_share: PositiveFloat
    tower_day_share: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    warmup_share: Fraction
    final_rate_share: Fraction
    precision: Literal["float32", "bfloat16", "float16"]
    report_every: PositiveInt
    norms_every: PositiveInt
    segment_view_every: NonNegativeInt
    validations_per_epoch: PositiveInt
    patience: PositiveInt
    max_gradient_norm: PositiveFloat | None
    row_order: Literal["shuffled", "time"]
    shuffle_buffer_rows: PositiveInt
    decode_threads: Processes
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class EvaluationConfig:
    """Batch size of scoring, and whether whole candidate lists are ranked where the data has them."""

    batch_size: PositiveInt
    ranking: bool


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TrackingConfig:
    """Where runs are recorded; `uri` null is a SQLite store in `runs`."""

    uri: str | None
    experiment: str
    system_metrics: bool


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class DailyConfig:
    """A scheduled run's window: the days before its date, the last of them held out for validation and test."""

    train_days: Days
    validation_days: Days
    test_days: Days
    segment_margin: PositiveFloat


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class RuntimeConfig:
    """Folders and machine limits; `threads` null takes every core, or one for each arm of a study.

    `device` is what computes: `auto` a GPU where there is one, `cpu` none in any case, `cuda` a GPU or nothing.
    """

    runs: Path
    encoded: Path
    towers: Path
    device: Literal["auto", "cpu", "cuda"]
    threads: Processes | None
    memory_limit: MemoryLimit

    @property
    def cores(self) -> int:
        """How many threads to compute with: `threads`, or every core that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class RunConfig:
    """One run, whole."""

    data: DataConfig
    tower: TowerConfig
    network: NetworkConfig
    composition: CompositionConfig
    training_mode: TrainingModeConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    ablation: AblationConfig
    daily: DailyConfig
    runtime: RuntimeConfig


def config_from(document: dict[str, Any]) -> RunConfig:
    """Check plain values and return them typed.

    Raises:
        UsageError: names each key, what was found and what is expected.
    """
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_url=False)]
        raise UsageError("The configuration cannot be used:\n  " + "\n  ".join(lines)) from error


def config_document(config: RunConfig) -> dict[str, Any]:
    """Return the config as plain JSON values, the way it is recorded with a run."""
    document: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return document


_ADAPTER = TypeAdapter(RunConfig)


def _explain(detail: ErrorDetails) -> str:
    # The union's tag ("online_retail") is a step of pydantic's path, and no key that a user could type.
    tags = {"online_retail", "table", "movielens", "simulated", "two_tower", "imported"}
    key = ".".join(str(step) for step in detail["loc"] if step not in tags)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"`{key}` is no known key (found {detail['input']!r}); the keys stand in the files of conf/"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] in ("missing", "missing_argument"):
        return f"`{key}` is missing; it has no default"
    return f"`{key}` is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
