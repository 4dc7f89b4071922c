"""The largest batch that memory holds: what is left of it beside the model, by what one row takes.

What a row leaves behind for the backward pass is counted, not modelled: the same ranker, with tables of two rows, takes
a forward pass over some rows and over twice as many on the CPU, under the run's own precision, and the tensors that
autograd keeps are added up.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recsys.build import build_ranker, build_spec
from recsys.build_objective import ORDINAL, RankerObjective, build_objective
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.features.batch import Batch
from recsys.monitoring.device_memory import memory_bytes
from recsys.run.seen_ids import widest_rungs
from recsys.run.streams import TRAIN
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import gathered
from recsys.streaming.loader import BatchStream
from recsys.training.modes import apply_training_mode
from recsys.training.precision import Precision
from recsys.training.step import Objective

SMALLEST, LARGEST = 8192, 65_536
"""Below the first a GPU waits for its launches; above the second an epoch has few steps left to learn in."""

_ROWS = 256  # of the smaller pass
# Of the memory: the rest is the driver's and the libraries', and what lies idle between blocks.
_SHARE = 0.7
_BYTES = {"float32": 4, "float16": 2}
_DENSE_BYTES = 16  # of a dense parameter: itself, its gradient and AdamW's two moments
_AVERAGE_BYTES = 8  # of an averaged weight: its average, and itself while the average is validated in its place
# How often a row is there at one time: what is kept for the backward pass, beside as many gradients; what the tables
# gave, in the kernel's order and the network's, beside both gradients; the batch itself, some of them ahead.
_KEPT, _LOOKED_UP, _BATCHES = 2, 4, 8


def largest_batch(config: RunConfig, encoded: EncodedDataset) -> int:
    """Return how many rows the largest batch has: `training.largest_batch`, or as many as memory holds.

    The latter is a power of two between `SMALLEST` and `LARGEST`, the same for one configuration, data and machine;
    random state is unchanged. Every process calls it.

    Raises:
        UsageError: see `memory_bytes`.
    """
    if config.training.largest_batch is not None:
        return config.training.largest_batch
    free = _SHARE * memory_bytes(config.runtime.device)
    with torch.random.fork_rng(devices=[]):
        ranker = _small_ranker(config, encoded)
        rows = (free - _model_bytes(ranker, config, encoded)) / _row_bytes(ranker, config, encoded)
    found = min(LARGEST, max(SMALLEST, 2 ** math.floor(math.log2(max(1.0, rows)))))
    return min(gathered(found))  # machines may differ, and their processes take the same steps


def _small_ranker(config: RunConfig, encoded: EncodedDataset) -> Ranker:
    """The configured ranker over tables of two rows, in the stage in which most of it learns."""
    contract = replace(encoded.contract, table_rows=dict.fromkeys(encoded.contract.table_rows, 2))
    ranker = build_ranker(
        config.network,
        config.composition,
        build_spec(config.tower, contract.schema),
        contract,
        config.training.seed,
        adapter_rank=config.training_mode.adapter_rank,
        is_ordinal=config.training.objective == ORDINAL,
        rungs=widest_rungs(config, contract),
    )
    apply_training_mode(ranker, config.training_mode.stages_in_order()[-1][0])
    return ranker


def _model_bytes(ranker: Ranker, config: RunConfig, encoded: EncodedDataset) -> float:
    """Weights and optimizer state: of whole tables with an accumulator a row, as if one process held them all."""
    contract, average = encoded.contract, 0 if config.training.average_decay is None else _AVERAGE_BYTES
    width = _BYTES[config.training.table_precision] + average
    # The table of user segments stands for no vocabulary, and is whole.
    rows = {feature.name: contract.table_rows[feature.table] for feature in contract.schema.sparse}
    tables = sum(
        rows.get(table.feature_names[0], table.num_embeddings) * (width * table.embedding_dim + 4)
        for table in _tables(ranker)
    )
    dense = inventory_of(ranker).dense_parameters().values()
    return tables + sum((_DENSE_BYTES + average) * parameter.numel() for parameter in dense)


def _row_bytes(ranker: Ranker, config: RunConfig, encoded: EncodedDataset) -> float:
    objective = build_objective(config.training, encoded.contract)
    batch = _some_rows(config, encoded, objective)
    precision = Precision(config.training.precision, 1.0, 0, torch.device("cpu"))
    half = batch.take(torch.arange(len(batch) // 2))
    few, many = (_kept_bytes(ranker, objective.loss, each, precision) for each in (half, batch))
    # What does not grow with the batch, such as the weights, is in both.
    kept = (many - few) / (len(batch) - len(half))
    looked_up = sum(4 * table.embedding_dim * len(table.feature_names) for table in _tables(ranker))
    by_segment = len(encoded.contract.schema.segments) if config.training.segment_view_every else 0
    columns = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.segment, batch.label, batch.weight)
    columns_bytes = sum(column.nbytes for column in (*columns, *batch.lists.values())) / len(batch)
    return _KEPT * kept + (_LOOKED_UP + by_segment) * looked_up + _BATCHES * columns_bytes


def _some_rows(config: RunConfig, encoded: EncodedDataset, objective: RankerObjective) -> Batch:
    """Some rows of the training split, every id of them 0."""
    stream = BatchStream(
        encoded.root,
        TRAIN,
        encoded.contract,
        batch_size=2 * _ROWS,
        seed=config.training.seed,
        shuffle=True,  # the first rows of the files are of the first day, on which nobody has a past
        shuffle_buffer_rows=2 * _ROWS,
        decode_threads=0,
        device=torch.device("cpu"),
        extras=objective.extras,
    )
    batch: Batch = next(iter(stream))
    stream.close()
    batch.sparse.values().zero_()
    return batch


def _kept_bytes(ranker: Ranker, loss: Objective, batch: Batch, precision: Precision) -> int:
    """How many bytes of tensors the forward pass leaves behind for the backward pass, each memory counted once."""
    with _kept() as kept, precision.autocast():
        loss(ranker, batch)
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}.values())


@contextmanager
def _kept() -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _tables(ranker: Ranker) -> list[Any]:
    """The descriptions of all tables, TorchRec's `EmbeddingBagConfig`."""
    collections: list[Any] = list(inventory_of(ranker).collections.values())
    return [table for collection in collections for table in collection.embedding_bag_configs()]
