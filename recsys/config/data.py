"""Where rows come from: a declared table, or the simulator."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recsys.config.knobs import Day, Days, Name, PositiveInt, Seed, checked_dataclass


@checked_dataclass
class TableData:
    """Events in Parquet or CSV files, or in a publisher's archive, as the schema's `table:` block describes them.

    Dates, where they are given, take the place of those that the block splits the rows by: half-open boundaries (UTC
    days). `ranking_baselines` are rules to rank candidates by without a model: name -> columns, the first one decides,
    the next breaks its ties. `engine` is what counts the past of the rows for `recsys prepare`, on DuckDB or on the
    Spark that `spark_master` names; the rows are the same.
    """

    source: Literal["table"]
    name: Name
    schema_path: Path
    raw: Path
    train_start: Day | None
    validation_start: Day | None
    test_start: Day | None
    test_end: Day | None
    ranking_baselines: dict[str, tuple[str, ...]]
    engine: Literal["duckdb", "spark"]
    spark_master: Annotated[str, Field(min_length=1)]


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


DataConfig = Annotated[TableData | SimulatedData, Field(discriminator="source")]
