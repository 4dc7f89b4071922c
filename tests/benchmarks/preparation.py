"""How long `recsys prepare` takes for a simulated world, beside the same work written by hand in Polars.

    python tests/benchmarks/preparation.py [--rows 5000000] [--users 200000] [--items 50000] [--days 40]
        [--cores 2] [--repeats 3] [--data FOLDER] [--json]

The work: vocabularies and scaling fitted on the training days, ids to table rows, dense values transformed and scaled,
rows brought to their split and day in time order, one Parquet file each (zstd, row groups of 100,000 rows). Two ways to
do it in Polars, which differ in how ids become rows; the better one of each repeat counts. They leave out what else
`recsys prepare` does: checks of every value, counts of what was mended, tie-breaks, page checksums, digests, fsync, a
list of finished parts to restart from. The first repeat compares the outputs column by column.

Every measurement runs in a process of its own on the same `--cores` cores, in turns, so that a busy machine slows all
alike. CPU is user + system time of the whole process; neither it nor the wall clock counts Python's imports. `--json`
ends with one JSON object: medians, and Polars' time over ours.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from recsys.datasets.encode import encode
from recsys.datasets.simulator import SimulatorSource, load_world, simulate
from recsys.datasets.world import World
from recsys.features.schema import FeatureKind, FeatureSchema, Scale, load_schema

SCHEMA = Path(__file__).parents[2] / "data" / "schemas" / "simulated.yaml"
ROW_GROUP_ROWS = 100_000
MEMORY_LIMIT = "4GB"


def recsys(raw: Path, target: Path, cores: int) -> None:
    """What `recsys prepare` runs."""
    encode(SimulatorSource(raw), load_schema(SCHEMA), target, memory_limit=MEMORY_LIMIT, threads=cores)


def polars_replace(raw: Path, target: Path, _cores: int) -> None:
    """By hand, every id replaced by its row."""
    _by_hand(raw, target, by_join=False)


def polars_join(raw: Path, target: Path, _cores: int) -> None:
    """By hand, single ids joined with their rows; lists have to be replaced all the same."""
    _by_hand(raw, target, by_join=True)


CONTENDERS: dict[str, Callable[[Path, Path, int], None]] = {
    "recsys": recsys,
    "polars, replace": polars_replace,
    "polars, join": polars_join,
}


def _by_hand(raw: Path, target: Path, by_join: bool) -> None:
    schema, world = load_schema(SCHEMA), load_world(raw)
    days = {raw / "days" / f"{world.date_of_day(n)}.parquet": world.split_of_day(n) for n in range(world.days)}
    train = pl.scan_parquet([path for path, split in days.items() if split == "train"])
    vocabularies = _vocabularies(train, schema)
    scaling = train.select(
        **{f"{f.name} mean": _transformed(f.name, f.scale).mean() for f in schema.dense},
        **{f"{f.name} std": _transformed(f.name, f.scale).std(ddof=0) for f in schema.dense},
    )
    columns = _encoded(schema, vocabularies, scaling.collect(engine="streaming").row(0, named=True), by_join)
    single = [
        f.name for f in schema.sparse if f.kind is FeatureKind.SPARSE and vocabularies[f.table].dtype != pl.String
    ]
    rows = {n: pl.DataFrame({n: vocabularies[n], f"{n} row": _rows(vocabularies[n])}) for n in single}
    for path, split in days.items():
        read = pl.read_parquet(path)
        for name in single if by_join else ():
            read = read.join(rows[name], on=name, how="left", maintain_order="left")
        folder = target / f"split={split}" / f"day={path.stem}"
        folder.mkdir(parents=True)
        encoded = read.select(**columns).sort("time")
        encoded.write_parquet(folder / "part-0.parquet", compression="zstd", row_group_size=ROW_GROUP_ROWS)


def _vocabularies(train: pl.LazyFrame, schema: FeatureSchema) -> dict[str, pl.Series]:
    wanted = []
    for features in schema.tables.values():
        counts = []
        for feature in features:
            values = pl.col(feature.name)
            ids = values.explode() if feature.kind is FeatureKind.SPARSE_LIST else values
            counts.append(train.select(id=ids).drop_nulls().group_by("id").len())
        merged = pl.concat(counts).group_by("id").agg(pl.col("len").sum())
        wanted.append(merged.with_columns(id=_plain("id", merged)).sort(["len", "id"], descending=[True, False]))
    found = pl.collect_all(wanted, engine="streaming")
    return {table: counts["id"] for table, counts in zip(schema.tables, found, strict=True)}


def _plain(name: str, rows: pl.LazyFrame) -> pl.Expr:
    # Words arrive as categories, whose order is that of their codes.
    return pl.col(name).cast(pl.String) if rows.collect_schema()[name] == pl.Categorical else pl.col(name)


def _encoded(
    schema: FeatureSchema, vocabularies: dict[str, pl.Series], scaling: dict[str, float], by_join: bool
) -> dict[str, pl.Expr]:
    columns: dict[str, pl.Expr] = {}
    for feature in schema.features:
        name = feature.name
        if feature.kind is FeatureKind.DENSE:
            centred = _transformed(name, feature.scale) - scaling[f"{name} mean"]
            columns[name] = (centred / scaling[f"{name} std"]).cast(pl.Float32)
            continue
        ids = vocabularies[feature.table]
        element = pl.element() if feature.kind is FeatureKind.SPARSE_LIST else pl.col(name)
        text = element.cast(pl.String) if ids.dtype == pl.String else element
        replaced = text.replace_strict(ids, _rows(ids), default=0, return_dtype=pl.Int32)
        if feature.kind is FeatureKind.SPARSE_LIST:
            columns[name] = pl.col(name).list.tail(feature.max_length).list.eval(replaced)
        else:
            is_joined = by_join and ids.dtype != pl.String
            columns[name] = pl.col(f"{name} row").fill_null(0) if is_joined else replaced
    segment = pl.col(schema.segment).cast(pl.String).cast(pl.Enum(schema.segments))
    columns["segment"] = segment.to_physical().cast(pl.Int8)
    columns["label"] = pl.col(schema.label).cast(pl.Float32)
    columns["time"] = pl.col(schema.time)
    columns["user_key"] = pl.col(schema.user)
    columns["true_probability"] = pl.col("true_probability").cast(pl.Float32)
    return columns


def _rows(ids: pl.Series) -> pl.Series:
    return pl.int_range(1, len(ids) + 1, dtype=pl.Int32, eager=True)


def _transformed(name: str, scale: Scale) -> pl.Expr:
    values = pl.col(name).cast(pl.Float64)
    return values.sign() * values.abs().log1p() if scale is Scale.LOG else values


def require_equal_rows(ours: Path, other: Path) -> None:
    """Compare every partition's rows, and the sums of every column; stops where one differs."""
    files = sorted(path.relative_to(ours) for path in ours.glob("split=*/day=*/*.parquet"))
    assert files == sorted(path.relative_to(other) for path in other.glob("split=*/day=*/*.parquet"))
    for file in files:
        one, two = (_sums(root / file) for root in (ours, other))
        for name, (value, expected) in {name: (one[name], two[name]) for name in one}.items():
            tolerance = 1e-5 * max(abs(expected), one["rows"]) if isinstance(value, float) else 0
            assert abs(value - expected) <= tolerance, f"{file}, column {name}: {value} and {expected}"


def _sums(path: Path) -> dict[str, float]:
    rows = pl.scan_parquet(path, hive_partitioning=False)
    forms = rows.collect_schema()
    flat = {name: pl.col(name).explode() if isinstance(form, pl.List) else pl.col(name) for name, form in forms.items()}
    numbers = {
        name: values.cast(pl.Float64 if forms[name].is_float() else pl.Int64).sum() for name, values in flat.items()
    }
    return rows.select(rows=pl.len(), **numbers).collect().row(0, named=True)


def _measure(name: str, raw: Path, target: Path, cores: int) -> None:
    """Do one contender's work in this process and print what it cost."""
    began, began_cpu = time.perf_counter(), _cpu_seconds()
    CONTENDERS[name](raw, target, cores)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - began_cpu
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb}))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _in_own_process(name: str, raw: Path, target: Path, cores: set[int]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, "--data", str(raw), "--target", str(target)]
    done = subprocess.run(
        [*command, "--cores", str(len(cores))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        env={**os.environ, "POLARS_MAX_THREADS": str(len(cores))},
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _compare(arguments: argparse.Namespace, scratch: Path) -> None:
    raw = arguments.data or scratch / "raw"
    if not raw.exists():
        size = {key: getattr(arguments, key) for key in ("rows", "users", "items", "days")}
        simulate(raw, World(**size, seed=0, world_seed=0))
    cores = set(sorted(os.sched_getaffinity(0))[: arguments.cores])
    rows = load_world(raw).rows
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for repeat in range(arguments.repeats):
        for name in CONTENDERS:
            target = scratch / name
            found[name].append(_in_own_process(name, raw, target, cores))
            size_mb = sum(path.stat().st_size for path in target.rglob("*.parquet")) / 1e6
            shown = "  ".join(f"{key} {value:8.1f}" for key, value in found[name][-1].items())
            print(f"{datetime.datetime.now():%H:%M:%S}  {name:16}  {shown}  output_mb {size_mb:.0f}", flush=True)
            if repeat == 0 and name != "recsys":
                require_equal_rows(scratch / "recsys", target)
            if name != "recsys":
                shutil.rmtree(target)
        shutil.rmtree(scratch / "recsys")
    _report(rows, len(cores), found, arguments.json)


def _report(rows: int, cores: int, found: dict[str, list[dict[str, float]]], as_json: bool) -> None:
    summary: dict[str, float] = {"rows": rows, "cores": cores}
    for key in ("seconds", "cpu_seconds", "peak_mb"):
        ours = [run[key] for run in found["recsys"]]
        theirs = [
            min(runs) for runs in zip(*([run[key] for run in found[n]] for n in found if n != "recsys"), strict=True)
        ]
        ratios = [polars / recsys for polars, recsys in zip(theirs, ours, strict=True)]
        summary |= {key: statistics.median(ours), f"polars_{key}": statistics.median(theirs)}
        if key != "peak_mb":
            summary[f"polars_over_ours_{key}"] = statistics.median(ratios)
            print(
                f"Polars over ours, {key}: median {statistics.median(ratios):.2f}, {min(ratios):.2f}-{max(ratios):.2f}"
            )
    print(f"{rows:,} rows in {summary['seconds']:.0f} s: {summary['cpu_seconds'] / rows * 1e6:.2f} us CPU a row")
    if as_json:
        print(json.dumps(summary))


def main() -> None:
    """Read the command line; compare, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 5_000_000), ("users", 200_000), ("items", 50_000), ("days", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a simulated world, made there where it is absent")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        _measure(arguments.measure, arguments.data, arguments.target, arguments.cores)
        return
    with tempfile.TemporaryDirectory() as scratch:
        _compare(arguments, Path(scratch))


if __name__ == "__main__":
    main()
