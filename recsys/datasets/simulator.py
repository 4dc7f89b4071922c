"""Rows of a simulated world, with the true probability of every click; and the source that reads them back.

Days are drawn one after the other and each day in chunks, so memory holds a chunk and one row per user and item,
whatever the number of rows. A folder of raw rows:

    world.json              the world that was simulated
    item_vectors.parquet    item_id, vector: the items' content vectors, to be imported as a pre-trained tower
    days/2025-01-01.parquet one file a day, in time order
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import parquet_rows, utc_without_zone, view
from recsys.datasets.source import SourceRows
from recsys.datasets.world import CATEGORIES, TAGS, Integers, People, World
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.files import canonical_json, published_directory, sha256_of_file
from recsys.progress import Progress, silent

RECENT_ITEMS = 10
"""How many of a user's last clicks a row carries."""

_CHUNK_ROWS = 100_000
_DAY_MICROSECONDS = 86_400_000_000
_WORLD_FILE, _VECTORS_FILE, _DAYS_FOLDER = "world.json", "item_vectors.parquet", "days"


def simulate(target: Path, world: World, progress: Progress = silent) -> None:
    """Write the rows of `world` into the folder `target`, whole or not at all.

    Equal worlds give equal rows. Columns and units are listed in `data/README.md`.

    Raises:
        CannotWriteError: the folder cannot be written.
    """
    people = People(world)
    goods = _ItemColumns(people)
    history = _ClickHistory(world.users)
    with published_directory(target) as work:
        (work / _DAYS_FOLDER).mkdir()
        pq.write_table(goods.vectors, work / _VECTORS_FILE, compression="zstd", write_page_checksum=True)
        done = 0
        # One chunk ahead of the disk: the next is drawn while the last is compressed.
        with ThreadPoolExecutor(max_workers=1) as writer:
            for day in range(world.days):
                rows = world.rows * (day + 1) // world.days - world.rows * day // world.days
                path = work / _DAYS_FOLDER / f"{world.date_of_day(day)}.parquet"
                with _DayFile(path, writer) as file:
                    for table in _chunks_of_day(world, people, goods, history, day, rows):
                        file.write(table)
                        done += len(table)
                        progress("simulating rows", done, world.rows)
        (work / _WORLD_FILE).write_text(canonical_json(world.to_document()) + "\n", encoding="utf-8")


def load_world(raw: Path) -> World:
    """Return the world whose rows lie in the folder `raw`.

    Raises:
        DataError: `raw` is no folder that `simulate` wrote.
    """
    path = raw / _WORLD_FILE
    try:
        return World.from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a simulated world ({type(error).__name__}: {error}). Expected a folder written "
            "by the simulator: run `recsys prepare data=simulated` again, or point `data.raw` at such a folder."
        ) from error


@dataclass(frozen=True)
class SimulatorSource:
    """Reads a folder that `simulate` wrote; splits by day, the last two tenths being validation and test."""

    raw: Path

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the simulated rows; see `Source.read`."""
        world = load_world(self.raw)
        if tuple(world.segments) != schema.segments:
            raise DataError(
                f"{self.raw} holds segments {list(world.segments)}, but schema `{schema.name}` declares "
                f"{list(schema.segments)}. Simulate again with the schema's segments, or declare those of the rows."
            )
        files = self._day_files(world, schema)
        table = view(connection, "simulated_rows", f"SELECT * FROM {parquet_rows(files)}")
        day = utc_without_zone(table["time"]).date()
        rows = table.mutate(day=day, split=_split_of(day, world), user_key=table["user_id"])
        described = {}
        for number, path in enumerate(files, start=1):
            described[path.name] = sha256_of_file(path)
            progress("checking simulated rows", number, len(files))
        return SourceRows(
            rows=rows,
            extras=("user_key", "true_probability"),
            description={"source": "simulated", "world": world.to_document(), "files": described},
            in_files_by_day=True,
        )

    def _day_files(self, world: World, schema: FeatureSchema) -> list[Path]:
        files = [self.raw / _DAYS_FOLDER / f"{world.date_of_day(day)}.parquet" for day in range(world.days)]
        wanted = {feature.name for feature in schema.features} | {schema.label, schema.time, schema.segment}
        for path in files:
            try:
                found = set(pq.read_schema(path).names)
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"{path} cannot be read ({error}). Expected one Parquet file per day of the world; simulate again."
                ) from error
            if missing := sorted(wanted - found):
                raise DataError(
                    f"{path} has no column `{missing[0]}`, which schema `{schema.name}` declares; it has "
                    f"{', '.join(sorted(found))}. Declare one of those, or simulate again."
                )
        return files


def _split_of(day: ir.DateValue, world: World) -> ir.StringValue:
    """The split of each row's day; null outside the world's days."""
    names = [world.split_of_day(number) for number in range(world.days)]
    last_days = {name: world.date_of_day(number) for number, name in enumerate(names)}
    is_before = (day < world.date_of_day(0), ibis.null("string"))
    return ibis.cases(is_before, *((day <= last, name) for name, last in last_days.items()))


def _chunks_of_day(
    world: World, people: People, goods: "_ItemColumns", history: "_ClickHistory", day: int, rows: int
) -> Iterator[pa.Table]:
    """Yield the day's rows as Arrow tables in time order, then add the day's clicks to the history."""
    pick_user = _Picker(np.where(people.user_arrival <= day, people.user_weight, 0.0))
    pick_item = _Picker(np.where(people.item_arrival <= day, people.item_weight, 0.0))
    clicked: list[tuple[Integers, Integers]] = []
    chunks = max(1, -(-rows // _CHUNK_ROWS))
    for chunk in range(chunks):
        count = rows * (chunk + 1) // chunks - rows * chunk // chunks
        generator = np.random.default_rng([world.seed, world.world_seed, day, chunk])
        user, item = pick_user(generator, count), pick_item(generator, count)
        # Three rows in ten come with a discount of 10, 20, 30, 40 or 50 %.
        discount = (generator.integers(1, 6, size=count) * (generator.random(count) < 0.3) / 10).astype(np.float32)
        probability = 1 / (1 + np.exp(-people.logit(day, user, item, discount)))
        label = generator.random(count, dtype=np.float32) < probability
        clicked.append((user[label], item[label]))
        yield pa.table(
            {
                "user_id": user + 1,
                **goods.of(item),
                "recent_item_ids": history.recent(user),
                "discount": discount,
                "item_age_days": (day - people.item_arrival[item]).astype(np.float32),
                "user_clicks": history.counts[user].astype(np.float32),
                "segment": _words(world.segments, people.user_segment[user]),
                "label": label.astype(np.int8),
                "time": _times(generator, world, day, chunk, chunks, count),
                "true_probability": probability,
            }
        )
    history.add(np.concatenate([pair[0] for pair in clicked]), np.concatenate([pair[1] for pair in clicked]))


class _Picker:
    """Draws positions with probability in proportion to given weights, by inverting their running sum."""

    def __init__(self, weights: npt.NDArray[np.float64]) -> None:
        self._running = np.cumsum(weights)

    def __call__(self, generator: np.random.Generator, count: int) -> Integers:
        # Below the last sum, so that rounding cannot lead past the last position with a weight.
        drawn = generator.random(count) * np.nextafter(self._running[-1], 0)
        return np.searchsorted(self._running, drawn, side="right")


class _ClickHistory:
    """Every user's last clicks of earlier days, in a ring of RECENT_ITEMS places per user."""

    def __init__(self, users: int) -> None:
        self.counts: Integers = np.zeros(users, dtype=np.int64)
        self._ring = np.zeros((users, RECENT_ITEMS), dtype=np.int64)

    def recent(self, user: Integers) -> pa.Array:
        """The last item ids that each user clicked, oldest first; (n,) lists of int64."""
        counts = self.counts[user]
        lengths = np.minimum(counts, RECENT_ITEMS)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        row = np.repeat(np.arange(len(user)), lengths)
        place = np.arange(offsets[-1]) - offsets[row] + (counts - lengths)[row]
        ids = self._ring[user[row], place % RECENT_ITEMS]
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))

    def add(self, user: Integers, item: Integers) -> None:
        """Append clicks that are given in time order."""
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        clicks = np.bincount(user, minlength=len(self.counts))
        first = np.cumsum(clicks) - clicks
        number = np.arange(len(user)) - first[user]
        # Only a user's last clicks of the day: an earlier one would fight a later one for the same place.
        kept = number >= clicks[user] - RECENT_ITEMS
        place = (self.counts[user] + number)[kept] % RECENT_ITEMS
        self._ring[user[kept], place] = item[kept] + 1
        self.counts += clicks


class _ItemColumns:
    """The items' own columns, made once and taken by position for every row."""

    def __init__(self, people: People) -> None:
        self._ids = np.arange(1, len(people.item_price) + 1)
        self._category = people.item_category
        self._price = people.item_price
        held = np.arange(people.item_tags.shape[1]) < people.item_tag_count[:, None]
        ends = np.cumsum(people.item_tag_count, dtype=np.int32)
        words = _words([f"tag_{number:02d}" for number in range(TAGS)], people.item_tags[held])
        self._tags = pa.ListArray.from_arrays(np.insert(ends, 0, 0), words)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(people.content.ravel()), people.content.shape[1])
        self.vectors = pa.table({"item_id": self._ids, "vector": vectors.cast(pa.list_(pa.float32()))})

    def of(self, item: Integers) -> dict[str, pa.Array]:
        return {
            "item_id": pa.array(self._ids[item]),
            "category": _words([f"category_{number:02d}" for number in range(CATEGORIES)], self._category[item]),
            "tags": self._tags.take(pa.array(item)),
            "price": pa.array(self._price[item]),
        }


class _DayFile:
    """One day's Parquet file, written by another thread that is never more than one chunk behind."""

    def __init__(self, path: Path, executor: ThreadPoolExecutor) -> None:
        self._path, self._executor = path, executor
        self._writer: pq.ParquetWriter | None = None
        self._pending: Future[None] | None = None

    def __enter__(self) -> "_DayFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        self._wait()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", write_page_checksum=True)
        self._pending = self._executor.submit(self._writer.write_table, table)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _words(words: tuple[str, ...] | list[str], positions: Integers) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(positions.astype(np.int32)), pa.array(words))


def _times(generator: np.random.Generator, world: World, day: int, chunk: int, chunks: int, count: int) -> pa.Array:
    """Rising times inside the chunk's share of the day, as UTC timestamps."""
    start = np.datetime64(world.date_of_day(day), "us").astype(np.int64)
    since, until = (_DAY_MICROSECONDS * part // chunks for part in (chunk, chunk + 1))
    drawn = np.sort(generator.integers(since, until, size=count))
    return pa.array(start + drawn).cast(pa.timestamp("us", tz="UTC"))
