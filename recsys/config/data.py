"""Where rows come from: one variant per source."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recsys.config.knobs import Day, Days, Name, PositiveInt, Seed, checked_dataclass


@checked_dataclass
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


@checked_dataclass
class TableData:
    """Rows that the user already has; the schema's `table:` block describes how they are read."""

    source: Literal["table"]
    name: Name
    schema_path: Path
    raw: Path


@checked_dataclass
class MovielensData:
    """A MovieLens release in its publisher's layout."""

    source: Literal["movielens"]
    name: Name
    schema_path: Path
    raw: Path


@checked_dataclass
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
