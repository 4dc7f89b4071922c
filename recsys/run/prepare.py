"""Raw rows -> encoded Parquet, once per data, schema, settings and code."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recsys.config import (
    DataConfig,
    MovielensData,
    OnlineRetailData,
    RunConfig,
    SimulatedData,
    TableData,
    config_document,
)
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.movielens import MovielensSource
from recsys.datasets.online_retail.examples import Sampling
from recsys.datasets.online_retail.retail_source import OnlineRetailSource
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.source import Source
from recsys.datasets.split import TimeSplit
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.datasets.world import World
from recsys.errors import DataError
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import load_schema
from recsys.files import fingerprint_of
from recsys.progress import Progress
from recsys.resources import SHIPPED
from recsys.run.raw_copy import local_copy, uri_of
from recsys.run.result_keys import code_of
from recsys.scheduling.stage import Stage, input_fingerprint, is_up_to_date, run_stage

_ROWS, _WORLD = "rows", "world"
# Of files the content counts, and not the path; rules to rank by are read later.
_NO_EFFECT_ON_ROWS = ("raw", "schema_path", "ranking_baselines")
# Names, places, sizes and times of the encoded files that this process has made or read through.
_INTACT: set[tuple[tuple[str, int, int, int], ...]] = set()


def run(config: RunConfig, progress: Progress) -> EncodedDataset:
    """Prepare the configured data, or find them prepared already; go on where a killed preparation was.

    Raises:
        DataError: the raw data are missing or break the schema.
        CannotWriteError: `runtime.encoded` cannot be written.
        BusyError: another process prepares the same data now.
    """
    schema = load_schema(schema_file(config.data))
    raw = raw_folder(config, progress)
    stage = stage_of(config, raw)

    def work(folder: Path) -> None:
        if (folder / _ROWS).exists():
            # A preparation that was killed here had only its receipt left to write.
            return
        encode(
            _SOURCE_OF[type(config.data)](config.data, raw),
            schema,
            folder / _ROWS,
            memory_limit=config.runtime.memory_limit,
            threads=config.runtime.cores,
            resume_key=stage.key,
            progress=progress,
        )

    final = config.runtime.encoded / f"{config.data.name}-{stage.key}"
    result = run_stage(stage, final, work, is_resumable=True)
    encoded = open_encoded(result.path / _ROWS)
    _require_intact(encoded, result.was_run, progress)
    return encoded


def prepared(config: RunConfig) -> EncodedDataset | None:
    """Return the prepared data if they exist already; nothing is made."""
    data = config.data
    raw = _world(data)[1] / _WORLD if isinstance(data, SimulatedData) else data.raw
    if not raw.exists():
        return None
    stage = stage_of(config, raw)
    final = config.runtime.encoded / f"{data.name}-{stage.key}"
    return open_encoded(final / _ROWS) if is_up_to_date(stage, final) else None


def stage_of(config: RunConfig, raw: Path) -> Stage:
    """What the prepared rows follow from; `raw` is where their raw data lie."""
    settings = config_document(config)["data"]
    return Stage(
        "prepare",
        inputs={"raw": input_fingerprint(raw), "schema": _fingerprint_of_schema(schema_file(config.data))},
        parameters={key: value for key, value in settings.items() if key not in _NO_EFFECT_ON_ROWS},
        code_version=code_of(load_schema, encode, _SOURCE_OF[type(config.data)]),
    )


def _fingerprint_of_schema(path: Path) -> str:
    # Of what it declares, in this order: comments are for people.
    return fingerprint_of(json.dumps(read_plain_yaml(path, "Schema file"), default=str))


def _require_intact(encoded: EncodedDataset, was_made_now: bool, progress: Progress) -> None:
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
    """Return where the raw data lie; a simulated world is drawn first where it is absent.

    Raises:
        DataError: nothing lies there.
    """
    data = config.data
    if not isinstance(data, SimulatedData):
        if uri := uri_of(data.raw):
            return local_copy(uri, config.runtime.encoded, progress)
        if not data.raw.exists():
            raise DataError(
                f"There is no raw data at {data.raw} (`data.raw`), as seen from {Path.cwd()}. Set data.raw=... to the "
                "folder that holds it; `recsys fetch --help` lists the public data sets that can be downloaded."
            )
        return data.raw
    stage, final, world = _world(data)
    return run_stage(stage, final, lambda folder: simulate(folder / _WORLD, world, progress)).path / _WORLD


def _world(data: SimulatedData) -> tuple[Stage, Path, World]:
    world = World(
        rows=data.rows, users=data.users, items=data.items, days=data.days, seed=data.seed, world_seed=data.world_seed
    )
    stage = Stage("simulate", inputs={}, parameters=world.to_document(), code_version=code_of(simulate))
    return stage, data.raw / f"{data.name}-{stage.key}", world


def _online_retail(data: OnlineRetailData, raw: Path) -> Source:
    split = TimeSplit.from_days(data.train_start, data.validation_start, data.test_start, data.test_end)
    sampling = Sampling(data.negatives_per_positive, data.ranking_validation_invoices, data.seed)
    return OnlineRetailSource(raw, split, sampling)


def _table(data: TableData, raw: Path) -> Source:
    path = schema_file(data)
    return TableSource(raw, load_table_layout(path, load_schema(path)))


def _movielens(data: MovielensData, raw: Path) -> Source:
    return MovielensSource(raw)


def _simulated(data: SimulatedData, raw: Path) -> Source:
    return SimulatorSource(raw)


# One function each, so that rows of one kind are not prepared again where the reader of another has changed.
_SOURCE_OF: Mapping[type, Callable[[Any, Path], Source]] = {
    OnlineRetailData: _online_retail,
    TableData: _table,
    MovielensData: _movielens,
    SimulatedData: _simulated,
}
