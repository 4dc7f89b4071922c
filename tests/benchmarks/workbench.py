"""What the cases of `gpu.py` are made from: sizes, models, batches in the device's memory, a stream from Parquet."""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from criteo_rows import NUM_DENSE, SEGMENT_SHARES, TABLE_ROWS, contract, make_rows, zipf_ids
from dlrm import Dlrm, DlrmShape
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from train_step import PlainRun
from training_run import TrainingRun

from recsys.features.batch import Batch
from recsys.sharding.input_ahead import InputAhead
from recsys.sharding.processes import ProcessContext
from recsys.streaming.loader import BatchStream

_BYTES = 4  # of a number of a table


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        widths: D of the 26 tables.
        batches: rows of a batch.
        resident: batches that lie in the device's memory and are trained on over and over.
        dense_top: layers of the DLRM whose dense half is measured.
        parquet_rows: of the files; an epoch of them is the longest window.
        norms_every: steps from one reading of the norms to the next, as configured by default.
        compiler: by torch.compile's name.
        window_seconds: of one window of steps.
        turns: windows of a way, of which the case that most targets are about has two more.
    """

    widths: tuple[int, ...] = (16, 64, 128)
    batches: tuple[int, ...] = (8192, 32_768, 65_536)
    resident: int = 8
    most_table_rows: int = max(TABLE_ROWS)
    dense_top: tuple[int, ...] = (1024, 1024, 1024, 1024)
    parquet_rows: int = 8_000_000
    shuffle_buffer_rows: int = 400_000
    segments: int = 8
    norms_every: int = 50
    compiler: str = "inductor"
    copied_megabytes: int = 2048
    product_size: int = 8192
    window_seconds: float = 0.5
    turns: int = 3

    @property
    def width(self) -> int:
        """The width that the targets are about."""
        return self.widths[-1]

    @property
    def batch_size(self) -> int:
        """The batch size that the targets are about."""
        return self.batches[1]


SMALL = Sizes(
    widths=(4, 8, 16),
    batches=(16, 32, 64),
    resident=2,
    most_table_rows=100,
    dense_top=(32, 32),
    parquet_rows=4000,
    shuffle_buffer_rows=200,
    norms_every=2,
    compiler="eager",  # traces, and makes nothing
    copied_megabytes=4,
    product_size=128,
    window_seconds=0.0,
    turns=1,
)
"""The same cases in seconds on a CPU, to see that they run."""


@dataclass
class Workbench:
    """Makes models and batches, and keeps those that the next case needs too.

    Attributes:
        folder: for the Parquet files.
        limits: of the chip: bytes copied per second as "copy", operations per second by precision.
    """

    context: ProcessContext
    sizes: Sizes
    folder: Path
    limits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As many threads as `training.decode_threads=null` takes.
        self.device, self.threads = self.context.device, max(1, min(8, len(os.sched_getaffinity(0)) - 1))
        self._rows_shape = {"most_table_rows": self.sizes.most_table_rows, "has_lists": False}
        self.contract = contract(most_table_rows=self.sizes.most_table_rows, has_lists=False)
        # One at a time: another width's tables make room first.
        self.models = functools.lru_cache(maxsize=1)(self._models)
        self.batches = functools.lru_cache(maxsize=3)(self._batches)

    def shape(self, width: int) -> DlrmShape:
        """A DLRM over the 26 tables."""
        return DlrmShape(self.contract.table_rows, NUM_DENSE, width)

    def make_parquet(self) -> None:
        """Write the rows that `stream` reads."""
        rows = self.sizes.parquet_rows
        per_file, at_once = max(1, rows // 16), self.threads
        make_rows(self.folder, rows, per_file, max(1, per_file // 5), files_at_once=at_once, **self._rows_shape)

    def stream(self, batch_size: int, run: TrainingRun | None = None) -> BatchStream:
        """A shuffled epoch; on a GPU its look-ups in the tables of `run` are begun a batch ahead, as in a real run."""
        stream = BatchStream(
            self.folder,
            "train",
            self.contract,
            batch_size=batch_size,
            seed=1,
            shuffle=True,
            shuffle_buffer_rows=self.sizes.shuffle_buffer_rows,
            decode_threads=self.threads,
            device=self.device,
        )
        if run is not None and self.device.type == "cuda":
            stream.prepare = InputAhead(run.wrapped)
        return stream

    def _models(self, width: int) -> tuple[PlainRun, TrainingRun]:
        torch.manual_seed(0)
        return PlainRun(self.shape(width), self.device), TrainingRun(Dlrm(self.shape(width), self.device), self.context)

    def _batches(self, batch_size: int) -> list[Batch]:
        rng = np.random.default_rng(0)
        return [self._batch(rng, batch_size).to(self.device) for _ in range(self.sizes.resident)]

    def _batch(self, rng: np.random.Generator, rows: int) -> Batch:
        """A batch as the stream makes them, of random numbers."""
        tables, segment = self.contract.table_rows, rng.choice(len(SEGMENT_SHARES), rows, p=SEGMENT_SHARES)
        ids = np.concatenate([zipf_ids(rng, table_rows, rows) for table_rows in tables.values()])
        return Batch(
            dense=torch.from_numpy(rng.standard_normal((NUM_DENSE, rows), np.float32)).t(),
            sparse=KeyedJaggedTensor(
                keys=list(tables),
                values=torch.from_numpy(ids.astype(np.int64)),
                lengths=torch.ones(len(tables) * rows, dtype=torch.int32),
                stride=rows,
                length_per_key=[rows] * len(tables),
            ),
            segment=torch.from_numpy(segment),
            label=torch.from_numpy((rng.random(rows) < 0.25).astype(np.float32)),
            weight=torch.ones(rows),
            segment_counts=tuple(np.bincount(segment, minlength=len(SEGMENT_SHARES)).tolist()),
        )


def moved_bytes(batch: Batch, tables: int, width: int) -> float:
    """Return the least bytes that a step moves of the tables, under row-wise Adagrad, for a batch of one id a table.

    Forward, a row is read and written for every id. Backward, a row of gradients is read for every id, and every row
    that was looked up is read and written once, with its accumulator.
    """
    ids = batch.sparse.values().view(tables, -1)
    looked_up = sum(row.unique().numel() for row in ids)
    return _BYTES * ((3 * ids.numel() + 2 * looked_up) * width + 2 * looked_up)
