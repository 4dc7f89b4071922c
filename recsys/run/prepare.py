"""Raw rows -> encoded Parquet, once per data, schema, settings and code."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from recsys.config import DataConfig, RunConfig, SimulatedData, TableData, config_document
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.on_spark.refusals import require_countable
from recsys.datasets.on_spark.spark_engine import SparkSettings
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.source import Source
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import TableLayout, load_table_layout
from recsys.datasets.world import World
from recsys.errors import DataError, UsageError
from recsys.features.known_fit import KnownFit
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import load_schema
from recsys.files import fingerprint_of
from recsys.progress import Progress
from recsys.resources import SHIPPED
from recsys.run.raw_archive import holds_archive, unpacked_archive, unpacked_before
from recsys.run.raw_copy import local_copy, uri_of
from recsys.run.result_keys import code_of
from recsys.scheduling.stage import Stage, input_fingerprint, is_up_to_date, run_stage
from recsys.sharding.first_process import by_first

_ROWS, _WORLD = "rows", "world"
# Of files the content counts, and not the path; rules to rank by are read later; either engine counts the same.
NO_EFFECT_ON_ROWS = ("raw", "schema_path", "ranking_baselines", "engine", "spark_master")
"""Settings of the data that rows do not follow from."""
SPLIT_DATES = ("train_start", "validation_start", "test_start", "test_end")
"""Settings of a table that take the place of the schema's own dates."""
# Names, places, sizes and times of the encoded files that this process has made or read through.
_INTACT: set[tuple[tuple[str, int, int, int], ...]] = set()


def run(config: RunConfig, progress: Progress, known: KnownFit | None = None) -> EncodedDataset:
    """Prepare the configured data, or find them prepared already; go on where a killed preparation was.

    Of several processes the first does it, and the others open what it has made, in a folder that all of them see.

    Args:
        known: of the model that a run on these rows starts from; its ids keep their rows, its features their scaling.

    Raises:
        DataError: the raw data are missing or break the schema.
        CannotWriteError: `runtime.encoded` cannot be written.
        BusyError: another process prepares the same data now.
    """
    return open_encoded(Path(by_first(lambda: str(_made(config, progress, known)))))


def _made(config: RunConfig, progress: Progress, known: KnownFit | None) -> Path:
    schema = load_schema(schema_file(config.data))
    _require_engine(config.data)
    raw = raw_folder(config, progress)
    stage = stage_of(config, raw, known)

    def work(folder: Path) -> None:
        if (folder / _ROWS).exists():
            # A preparation that was killed here had only its receipt left to write.
            return
        encode(
            _SOURCE_OF[type(config.data)](config, raw),
            schema,
            folder / _ROWS,
            memory_limit=config.runtime.memory_limit,
            threads=config.runtime.cores,
            resume_key=stage.key,
            progress=progress,
            known=known,
        )

    final = config.runtime.encoded / f"{config.data.name}-{stage.key}"
    result = run_stage(stage, final, work, is_resumable=True)
    require_intact(open_encoded(result.path / _ROWS), result.was_run, progress)
    return result.path / _ROWS


def _require_engine(data: DataConfig) -> None:
    """Refuse an engine that cannot do what the schema asks for, before an archive is unpacked or a file is read."""
    if isinstance(data, TableData) and data.engine == "spark":
        require_countable(table_layout(data), f"Schema file {schema_file(data)}")


def prepared(config: RunConfig, known: KnownFit | None = None) -> EncodedDataset | None:
    """Return the prepared data if they exist already; nothing is made. Arguments as of `run`."""
    data = config.data
    raw = _raw_before(config)
    if raw is None or not raw.exists():
        return None
    stage = stage_of(config, raw, known)
    final = config.runtime.encoded / f"{data.name}-{stage.key}"
    return open_encoded(final / _ROWS) if is_up_to_date(stage, final) else None


def _raw_before(config: RunConfig) -> Path | None:
    """Where the raw data lie if they were drawn, copied or unpacked already."""
    data = config.data
    if isinstance(data, SimulatedData):
        return _world(data)[1] / _WORLD
    layout = table_layout(data)
    if not data.raw.exists() or not holds_archive(layout, data.raw):
        return data.raw
    return unpacked_before(layout, data.raw, config.runtime.encoded)


def stage_of(config: RunConfig, raw: Path, known: KnownFit | None = None) -> Stage:
    """What the prepared rows follow from; `raw` is where their raw data lie."""
    settings = config_document(config)["data"]
    inputs = {"raw": input_fingerprint(raw), "schema": fingerprint_of_schema(schema_file(config.data))}
    return Stage(
        "prepare",
        inputs=inputs | ({"known": known.fingerprint} if known else {}),
        parameters={key: value for key, value in settings.items() if key not in NO_EFFECT_ON_ROWS},
        code_version=code_of(load_schema, encode, _SOURCE_OF[type(config.data)]),
    )


def fingerprint_of_schema(path: Path) -> str:
    """Return what names all that a schema file declares, in its order; comments are for people."""
    return fingerprint_of(json.dumps(read_plain_yaml(path, "Schema file"), default=str))


def require_intact(encoded: EncodedDataset, was_made_now: bool, progress: Progress) -> None:
    """Read through rows that were made before this process, once.

    Raises:
        DataError: a file has rotted.
    """
    # What was made on another day may have rotted since; page checksums would tell only in mid-training. A process
    # reads the files for this once, until one of them is replaced: a study prepares before every run.
    files = [encoded.root / name for name in encoded.manifest.files]
    found = tuple((str(path), path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if not was_made_now and found not in _INTACT:
        encoded.require_intact(progress)
    _INTACT.add(found)


def schema_file(data: DataConfig) -> Path:
    """Return the schema's path; one that `conf/` names is found from any working folder."""
    path = data.schema_path
    return path if path.exists() or not (SHIPPED / path).is_file() else SHIPPED / path


def raw_folder(config: RunConfig, progress: Progress) -> Path:
    """Return where the raw data lie; a world is drawn, a URI copied and an archive unpacked first, each once.

    Raises:
        DataError: nothing lies there, or it is an archive that is damaged.
    """
    data = config.data
    if not isinstance(data, SimulatedData):
        if uri := uri_of(data.raw):
            return _plain_files(data, local_copy(uri, config.runtime.encoded, progress), config, progress)
        if not data.raw.exists():
            raise DataError(
                f"There is no raw data at {data.raw} (`data.raw`), as seen from {Path.cwd()}. Set data.raw=... to the "
                "folder that holds it; `recsys fetch --help` lists the public data sets that can be downloaded."
            )
        return _plain_files(data, data.raw, config, progress)
    stage, final, world = _world(data)
    return run_stage(stage, final, lambda folder: simulate(folder / _WORLD, world, progress)).path / _WORLD


def _plain_files(data: TableData, raw: Path, config: RunConfig, progress: Progress) -> Path:
    layout = table_layout(data)
    return unpacked_archive(layout, raw, config.runtime.encoded, progress) if holds_archive(layout, raw) else raw


def table_layout(data: TableData) -> TableLayout:
    """Return the schema's `table:` block, with the dates of the configuration in place of its own.

    Raises:
        UsageError: the block or a date cannot be meant, or the rows are not split by time.
    """
    path = schema_file(data)
    schema = load_schema(path)
    layout = load_table_layout(path, schema)
    dates = {name: day for name in SPLIT_DATES if (day := getattr(data, name)) is not None}
    if not dates:
        return layout
    if not is_split_by_time(layout):
        raise UsageError(
            f"`data.{next(iter(dates))}` is a date to split by, but schema file {path} splits the rows in another way. "
            "Leave it out (null), or declare `splits: {validation_start: ..., test_start: ...}` in its `table:` block."
        )
    document = read_plain_yaml(path, "Schema file")
    rule = document["table"]["splits"]
    splits = {**(rule if "shares" not in rule else {}), **dates}
    dated = {**document, "table": {**document["table"], "splits": splits}}
    # Its text is written anew, so that a ranker takes along the dates that its rows were split by.
    return TableLayout.from_document(dated, schema, f"Schema file {path} with the dates of `data`")


def is_split_by_time(layout: TableLayout) -> bool:
    """Whether dates, or shares in the order of time, divide the rows."""
    return layout.splits is not None and bool(layout.splits.needs_times)


def _world(data: SimulatedData) -> tuple[Stage, Path, World]:
    world = World(
        rows=data.rows, users=data.users, items=data.items, days=data.days, seed=data.seed, world_seed=data.world_seed
    )
    stage = Stage("simulate", inputs={}, parameters=world.to_document(), code_version=code_of(simulate))
    return stage, data.raw / f"{data.name}-{stage.key}", world


def _table(config: RunConfig, raw: Path) -> Source:
    data = cast(TableData, config.data)
    layout = table_layout(data)
    spark = SparkSettings(data.spark_master, config.runtime.memory_limit) if data.engine == "spark" else None
    return TableSource(raw, layout, spark)


def _simulated(_: RunConfig, raw: Path) -> Source:
    return SimulatorSource(raw)


# One function each, so that rows of one kind are not prepared again where the reader of another has changed.
_SOURCE_OF: Mapping[type, Callable[[RunConfig, Path], Source]] = {
    TableData: _table,
    SimulatedData: _simulated,
}
