"""The library for who writes Python: prepare rows, pre-train a tower, train a ranker, run an ablation study.

These functions make a configuration of what they are given and call what the commands call (`recsys.run`,
`recsys.study`), with the same defaults (`conf/`), checks, messages and results: what one of the two has made, the other
finds. Where rows are asked for, a pandas or polars DataFrame, an Arrow table, a path or a URI will do.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

# As names of this file, so that `recsys` has them from here.
from recsys.build import register_composition as register_composition
from recsys.build import register_network as register_network
from recsys.config.compose import compose_config
from recsys.config.overrides import override
from recsys.datasets.schema_inference.event_roles import Settled
from recsys.datasets.schema_inference.first_schema import first_schema
from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError
from recsys.features.plain_yaml import lines_named, plain_yaml, read_plain_yaml
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress, silent
from recsys.results import Data, Run, Study, Tower
from recsys.results import MixedRuns as MixedRuns
from recsys.run import prepare as prepare_rows
from recsys.run import pretrain as pretrain_tower
from recsys.run import train as train_ranker
from recsys.run.folder import new_run
from recsys.run.frames import SCHEMA, is_path, stored_frames
from recsys.run.streams import TEST, TRAIN, VALIDATION
from recsys.study import ablate as study_of_arms

Settings = Mapping[str, Any]
"""Configuration beside what has an argument of its own: dotted key of `conf/` -> value, {"training.patience": 4}."""


class Schema:
    """What a row is: its columns, label, time and segments, and how they become train, validation and test rows.

    `table.files` may be left out where the rows are frames.

    The keys and their checks are those of a schema file (`data/README.md` lists them), the `table:` block included.

    Raises:
        UsageError: a key or a value cannot be meant; names it, what was found and what is expected.
    """

    def __init__(self, **document: Any) -> None:
        self.document: dict[str, Any] = _plain(document)
        schema = FeatureSchema.from_document(self.document, "Schema")
        if "table" in self.document:
            TableLayout.from_document(_with_files(self.document), schema, "Schema")

    def __repr__(self) -> str:
        return f"Schema({', '.join(f'{key}={value!r}' for key, value in self.document.items())})"


def init(
    rows: Any,
    output: str | Path | None = None,
    *,
    name: str = "rows",
    user: str = "",
    item: str = "",
    time: str = "",
    label: str = "",
    query: str = "",
    events: str = "",
    progress: Progress = silent,
) -> str:
    """Look at rows that nobody has declared yet, and return the text of a first schema file, with comments.

    Args:
        rows: a Parquet or CSV file, the folder of some, a frame, or frames by name: {"sales": ..., "products": ...}.
        output: where to write the text as well; a file that is there is not overwritten.
        name: of the data.
        user, item, time, label, query: columns, where they are not to be guessed; "none": there is none.
        events: which files, or which frame, are the events.

    Raises:
        UsageError: no table has a user and an item in each row, or several have; names the columns that were seen.
        DataError: there are no rows, or they cannot be read.
    """
    runtime = compose_config(["data=table", "data.schema_path=none", "data.raw=none"]).runtime
    frames = dict(rows) if isinstance(rows, Mapping) else {"rows": rows}
    raw = Path(rows) if is_path(rows) else stored_frames(frames, runtime.encoded)
    settled = Settled(user=user, item=item, time=time, label=label, query=query, events=events)
    found = first_schema(raw, settled, name, runtime.memory_limit, runtime.cores, progress)
    if output is not None:
        found.write(Path(output))
    return found.text


def prepare(
    rows: Any,
    schema: Schema | str | Path,
    *,
    name: str | None = None,
    folder: str | Path | None = None,
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Data:
    """Encode rows for training, with everything fitted on the training split; rows that are encoded already are found.

    Args:
        rows: a frame, the folder or URI of Parquet or CSV files, or a frame for each split:
            {"train": ..., "validation": ..., "test": ...}.
        schema: a schema file, or `Schema`. With frames its `table.files` has no meaning.
        name: of the data in folders and in MLflow; the schema's by default.
        folder: where `runs/`, `encoded/` and `towers/` are kept; by default where the commands keep them, below the
            working folder.
        progress: here and below, called with a stage's label, the units done and in all (0: unknown); `print` will do.

    Raises:
        UsageError: the schema or a setting cannot be meant.
        DataError: the rows are missing or break the schema; names file or column, found, expected.
        CannotWriteError: a folder cannot be written.
    """
    if not isinstance(schema, Schema | str | Path):
        raise UsageError(
            f"Found {type(schema).__name__} where a schema is expected: `recsys.Schema(...)`, or the path of a schema "
            "file."
        )
    document = schema.document if isinstance(schema, Schema) else read_plain_yaml(Path(schema), "Schema file")
    places = {} if folder is None else {f"runtime.{each}": Path(folder, each) for each in ("runs", "encoded", "towers")}
    words = [*_words({"data.name": name or document.get("name", "data"), **places}), *_words(settings or {})]
    below = compose_config(["data=table", "data.schema_path=none", "data.raw=none", *words]).runtime.encoded
    if is_path(rows):
        path = stored_frames({}, below, plain_yaml(document)) / SCHEMA if isinstance(schema, Schema) else Path(schema)
        words += _words({"data.raw": rows, "data.schema_path": path})
    else:
        frames = dict(rows) if isinstance(rows, Mapping) else {"rows": rows}
        files = {each: f"{each}.parquet" for each in frames} if isinstance(rows, Mapping) else "rows.parquet"
        table = document.get("table")
        document = {**document, "table": {**table, "files": files}} if isinstance(table, Mapping) else document
        where = "Schema" if isinstance(schema, Schema) else f"Schema file {schema}"
        # Before anything is written, and by the name that the caller knows it by.
        with nullcontext() if isinstance(schema, Schema) else lines_named(Path(schema), where):
            TableLayout.from_document(document, FeatureSchema.from_document(document, where), where)
        stored = stored_frames(frames, below, plain_yaml(document))
        words += _words({"data.raw": stored, "data.schema_path": stored / SCHEMA})
    words = ["data=table", *words]
    return Data(prepare_rows.run(compose_config(words), progress), tuple(words))


def pretrain(
    data: Data,
    *,
    vectors: Any = None,
    id_column: str = "item_id",
    vector_column: str = "vector",
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Tower:
    """Pre-train an embedding tower on the training rows, or import vectors; one that is made already is found.

    Args:
        vectors: a frame or a Parquet file with an id and a vector per item, made elsewhere; None pre-trains two towers.

    Raises:
        DataError: vectors are missing or damaged.
    """
    _require(data, Data, "prepare")
    words = _words(settings or {})
    if vectors is not None:
        below = data.config.runtime.encoded
        path = Path(vectors) if is_path(vectors) else stored_frames({"vectors": vectors}, below) / "vectors.parquet"
        columns = {"tower.id_column": id_column, "tower.vector_column": vector_column}
        words = ["tower=title_vectors", *_words({"tower.vectors": path, **columns}), *words]
    config = compose_config([*data.overrides, *words])
    return Tower(pretrain_tower.run(config, data.encoded, progress), data.encoded, tuple(words))


def train(
    data: Data,
    *,
    tower: Tower | None = None,
    composition: str = "parallel",
    mode: str = "end_to_end",
    network: str = "cross",
    epochs: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Run:
    """Train one ranker, prove that nothing frozen changed, measure it on the test split, and record it in MLflow.

    Args:
        tower: the one to stand on; None is that of `pretrain(data)`.
        composition, mode, network: choices of `conf/composition`, `conf/training_mode` and `conf/network`, or what was
            registered.
        epochs: at most so many; None follows the number of rows.

    Raises:
        TrainingError: training diverged, a gradient does not arrive where it should, or a frozen part changed.
    """
    beginning = _beginning(data, tower)
    chosen = {"composition": composition, "training_mode": mode, "network": network}
    named = {**chosen, "training.epochs": epochs, "training.seed": seed, **(settings or {})}
    config = compose_config([*beginning, *_words(named)])
    identity = new_run(config)
    return Run(train_ranker.run(config, identity, progress), identity.folder)


def ablate(
    data: Data,
    *,
    grid: Mapping[str, Sequence[Any]],
    seeds: int | Sequence[int] = 3,
    tower: Tower | None = None,
    contrast: str | None = None,
    name: str = "study",
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Study:
    """Train every combination of the grid with every seed, compare them in pairs, and record the study in MLflow.

    Arms that have finished, in an earlier call as well, are not trained again.

    Args:
        grid: config key or group -> its values, {"training_mode": ["end_to_end", "frozen_tower"]}.
        seeds: how many, counted from 0, or which.
        contrast: the key whose effect is asked; None is the grid's first.

    Raises:
        UsageError: the grid cannot be used.
        RecsysError: some arms failed; the same call goes on from there.
    """
    beginning = _beginning(data, tower)
    if not isinstance(grid, Mapping):
        raise UsageError(
            f"Found {type(grid).__name__} where a grid is expected: config key or group -> list of its values, as in "
            '{"training_mode": ["end_to_end", "frozen_tower"]}.'
        )
    counted = _plain(seeds)
    if not isinstance(counted, int | Sequence):
        raise UsageError(f"`seeds` is {seeds!r}. Expected how many, such as 3, or which, such as [0, 1, 2].")
    asked = {
        "ablation.name": name,
        "ablation.grid": dict(grid),
        "ablation.seeds": list(range(counted) if isinstance(counted, int) else counted),
        "ablation.contrast": contrast or next(iter(grid), "training_mode"),
    }
    words = [*beginning, *_words(asked), *_words(settings or {})]
    return Study(study_of_arms.run(words, progress), tuple(words))


def _words(values: Settings) -> list[str]:
    """The overrides that give these keys their values.

    Raises:
        UsageError: they are no mapping of names.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"Settings are {values!r}. Expected config key -> value, as in {{'training.patience': 4}}.")
    return [override(key, each) for key, each in _plain(values).items()]


def _beginning(data: Data, tower: Tower | None) -> list[str]:
    """The overrides of everything that is trained on this data and stands on this tower.

    Raises:
        UsageError: they are something else, or do not belong together.
    """
    _require(data, Data, "prepare")
    if tower is None:
        return list(data.overrides)
    _require(tower, Tower, "pretrain")
    made_for, given = ((each.contract.fingerprint, each.digest(TRAIN)) for each in (tower.encoded, data.encoded))
    if made_for != given:
        # Without this check another tower would be made for these data, and nobody told.
        raise UsageError(
            f"The tower was made for the data in {tower.encoded.root}, and these are in {data.encoded.root}, with "
            "other ids or other training rows. Make one with `recsys.pretrain(data)`."
        )
    return [*data.overrides, *tower.overrides]


def _with_files(document: Mapping[str, Any]) -> dict[str, Any]:
    """A schema's document for frames, which stand for files that it need not name."""
    table = document["table"]
    if not isinstance(table, Mapping) or "files" in table:
        return dict(document)
    files = "rows.parquet" if "splits" in table else {split: f"{split}.parquet" for split in (TRAIN, VALIDATION, TEST)}
    return {**document, "table": {"files": files, **table}}


def _require(found: Any, kind: type, function: str) -> None:
    if not isinstance(found, kind):
        raise UsageError(
            f"Found {type(found).__name__} where `{kind.__name__}` is expected, which `recsys.{function}` returns."
        )


def _plain(value: Any) -> Any:
    """A value as a YAML file would hold it: numbers and lists of NumPy and pandas, and times, are written out."""
    match value:
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case datetime():
            return value.isoformat(sep=" ")
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
