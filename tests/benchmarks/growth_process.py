"""What one of several processes measures for `growth.py`: a start, steps, a checkpoint, a pass over rows.

Rows have 4 dense features and 8 ids, each with a table of its own, an eighth of all table rows; ids are Zipf's. The
ranker is a small DLRM in the project's own wrapper, so that tables, rows and exchange are most of what there is.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from criteo_rows import zipf_ids
from dlrm import Dlrm, DlrmShape
from streaming import peak_megabytes
from training_run import TrainingRun

from recsys.artifacts.checkpoint_writer import CheckpointWriter
from recsys.datasets.row_encoder import encoded_schema
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext, start_processes, stop_processes
from recsys.streaming.loader import BatchStream
from recsys.training import snapshot
from recsys.training.snapshot import BestWeights

WIDTH, NUM_DENSE, NUM_TABLES = 16, 4, 8
ROWS_OF_A_FILE, ROWS_OF_A_GROUP = 1_000_000, 100_000
_TOP = (64,)
_WARM_STEPS = 5


@dataclass(frozen=True)
class Case:
    """What grows.

    Attributes:
        rows: of the training split.
        table_rows: of all tables together.
        processes: how many share both.
    """

    rows: int
    table_rows: int
    processes: int


def contract(table_rows: int) -> FeatureContract:
    """The contract of the rows that `make_files` writes."""
    both = ["user_tower", "interaction_network"]
    names = [f"C{number}" for number in range(NUM_TABLES)]
    schema = FeatureSchema.from_document(
        {
            "name": "growth",
            "features": [
                *({"name": f"I{number}", "kind": "dense", "used_by": both} for number in range(NUM_DENSE)),
                *({"name": name, "kind": "sparse", "used_by": both} for name in names),
            ],
            "segment": "segment",
            "segments": ["a", "b"],
            "label": "label",
            "time": "time",
            "user": "C0",
            "item": "C1",
        }
    )
    rows = dict.fromkeys(names, table_rows // NUM_TABLES)
    return FeatureContract(schema, table_rows=rows, vocabulary_fingerprints={}, scaling={})


def make_files(folder: Path, table_rows: int, files: int) -> None:
    """Write so many files of a million rows, as `recsys prepare` would."""
    schema = encoded_schema(contract(table_rows))
    folder.mkdir(parents=True)
    for number in range(files):
        draw, size = np.random.default_rng([2, number]), ROWS_OF_A_FILE
        columns: dict[str, pa.Array] = {
            f"I{place}": pa.array(draw.standard_normal(size, dtype=np.float32)) for place in range(NUM_DENSE)
        }
        for place in range(NUM_TABLES):
            columns[f"C{place}"] = pa.array(zipf_ids(draw, table_rows // NUM_TABLES, size))
        columns["segment"] = pa.array(draw.integers(0, 2, size).astype(np.int8))
        columns["label"] = pa.array((draw.random(size) < 0.25).astype(np.float32))
        columns["time"] = pa.array(np.arange(size) * 1000, pa.timestamp("us"))
        table = pa.table(columns).select(schema.names).cast(schema)
        path = folder / f"{number}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=ROWS_OF_A_GROUP, write_page_checksum=True)


def link_rows(files: Path, root: Path, rows: int) -> None:
    """Lay out as many rows, one day a file; beyond the files there are, the same ones under further names."""
    made = sorted(files.glob("*.parquet"))
    for number in range(rows // ROWS_OF_A_FILE):
        folder = root / "split=train" / f"day={np.datetime64('2011-01-01') + number}"
        folder.mkdir(parents=True)
        os.link(made[number % len(made)], folder / "part-0.parquet")


def measure(case: Case, root: Path, scratch: Path, batch_size: int, steps: int) -> dict[str, Any]:
    """Do all of it in this process, which torchrun started beside the others; return its numbers."""
    torch.set_num_threads(1)
    context = start_processes("cpu")
    found: dict[str, Any] = {"imported_mb": peak_megabytes()}
    of = contract(case.table_rows)
    with _measured(found, "start"):
        ranker = Dlrm(DlrmShape(of.table_rows, NUM_DENSE, WIDTH, _TOP), context.device)
        run = TrainingRun(ranker, context)
        best = BestWeights(run.wrapped)
        best.keep()  # as at the validation before the first step
    shards = inventory_of(run.wrapped).shards()
    found["table_mb"] = sum(shard.weight.nbytes for shard in shards) / 2**20
    found["accumulator_mb"] = sum(shard.state.nbytes for shard in shards if shard.state is not None) / 2**20
    stream = _stream(root, of, batch_size, context)
    _drain(run.steps(stream, _WARM_STEPS))
    with _measured(found, "train"):
        _drain(run.steps(stream, steps))
    found["train_rows"] = steps * -(-batch_size // case.processes)
    with CheckpointWriter(scratch / "checkpoints", of, 1, context) as writer, _measured(found, "checkpoint"):
        began = time.perf_counter()
        writer.save(1, partial(snapshot.state_dict, run.wrapped, run.optimizers, stream, best, {}), {})
        found["checkpoint_wait_seconds"] = time.perf_counter() - began
        writer.wait()
    own = scratch / "checkpoints" / "step-00000001" / f"rank-{context.rank}.safetensors"
    found["checkpoint_mb"] = own.stat().st_size / 2**20
    del run, best, ranker, shards, writer
    stream = _stream(root, of, batch_size, context)
    with _measured(found, "pass"):
        found["pass_rows"] = sum(map(len, stream))
    stop_processes()
    return found


def _stream(root: Path, of: FeatureContract, batch_size: int, context: ProcessContext) -> BatchStream:
    """The rows as `recsys train` reads them by default, by one decoding thread."""
    return BatchStream(
        root,
        "train",
        of,
        batch_size=-(-batch_size // context.world_size),
        seed=1,
        shuffle=True,
        shuffle_buffer_rows=400_000,
        decode_threads=1,
        device=context.device,
        rank=context.rank,
        world_size=context.world_size,
    )


def _drain(reports: Iterator[Any]) -> None:
    for _ in reports:
        pass


@contextmanager
def _measured(found: dict[str, Any], name: str) -> Iterator[None]:
    """Add what a phase took: seconds of the clock and of the processors, and its own peak of resident memory."""
    # 5 forgets the peak so far; see proc(5).
    Path("/proc/self/clear_refs").write_text("5")
    began, began_cpu = time.perf_counter(), time.process_time()
    yield
    found[f"{name}_seconds"] = time.perf_counter() - began
    found[f"{name}_cpu_seconds"] = time.process_time() - began_cpu
    found[f"{name}_mb"] = peak_megabytes()


def main() -> None:
    """Measure one case in one of its processes, and leave the numbers in a file of its rank's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("rows", "table-rows", "processes", "batch", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    options = parser.parse_args()
    case = Case(options.rows, options.table_rows, options.processes)
    found = measure(case, options.root, options.scratch, options.batch, options.steps)
    (options.scratch / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    if os.environ["RANK"] == "0":
        shutil.rmtree(options.scratch / "checkpoints")


if __name__ == "__main__":
    main()
