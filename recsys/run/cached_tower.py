"""Whether a run keeps its frozen tower's vectors: where the training mode has memory for them, and as configured."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from recsys.config import RunConfig, TrainingConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.features.batch import Batch
from recsys.monitoring.frozen_proof import frozen_parts
from recsys.run.streams import TRAIN, VALIDATION, ranker_stream
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext, any_process
from recsys.training.cache import CacheableTower, TowerCache
from recsys.training.modes import TOWER
from recsys.training.precision import Precision

FILE = "tower_cache.json"
_BATCHES = 4  # that are timed, after one that warms up


@contextmanager
def cached_tower(
    wrapped: nn.Module,
    config: RunConfig,
    encoded: EncodedDataset,
    context: ProcessContext,
    attach: Callable[[str, str], None],
) -> Iterator[None]:
    """Within it a frozen tower's vectors are kept, once computed, in `training_mode.cache_megabytes` of memory.

    A tower that learns is left as it is, and so is one that computes its vectors faster than a cache gives them, where
    `training.tower_cache` asks for that to be measured. Weights and random state are unchanged by measuring.

    Args:
        config: its budget settled.
        encoded: the data that come.
        attach: called at the end with the name and the text of a file on how the cache did.
    """
    megabytes = config.training_mode.cache_megabytes
    tower = unwrapped(wrapped).get_submodule(TOWER)
    if not megabytes or not frozen_parts(wrapped) or not isinstance(tower, CacheableTower):
        yield
        return
    cache = TowerCache(wrapped, megabytes, context, encoded.rows(TRAIN) + encoded.rows(VALIDATION))
    measured = None
    if config.training.tower_cache == "if_faster":
        batches = _first_batches(config, encoded, context)
        measured = measure_cache(wrapped, cache, batches, config.training, context)
        if any_process(not measured["is_faster"], context):
            cache.close()
    try:
        yield
    finally:
        attach(FILE, json.dumps(cache.record() | ({"measured": measured} if measured else {}), indent=2))
        cache.close()


def measure_cache(
    wrapped: nn.Module, cache: TowerCache, batches: Sequence[Batch], training: TrainingConfig, context: ProcessContext
) -> dict[str, Any]:
    """Time the cache beside the tower itself. Every process calls it.

    Over a run's epochs every row comes once to be computed and kept, and then to be answered.

    Args:
        batches: of which the first warms up.
        training: its epochs settled.

    Returns:
        JSON values: milliseconds a batch of the tower, of a cache that knows nothing yet and of one that knows all; and
        whether the cache is the faster over the epochs.
    """
    tower = cast(CacheableTower, unwrapped(wrapped).get_submodule(TOWER))
    # As a training step computes it; what the cache computes is single in any case.
    precision = Precision(training.precision, 1.0, 0, context.device)

    def live(batch: Batch) -> list[Tensor]:
        with precision.autocast():
            return tower.side_vectors(batch)

    warm_up, *timed = batches
    for work in (cache, live):
        work(warm_up)
    filling, answering, computing = (_milliseconds(work, timed, context) for work in (cache, cache, live))
    epochs = training.epochs or 1
    return {
        "tower_milliseconds": computing,
        "filling_milliseconds": filling,
        "answering_milliseconds": answering,
        "is_faster": filling + (epochs - 1) * answering < epochs * computing,
    }


def _first_batches(config: RunConfig, encoded: EncodedDataset, context: ProcessContext) -> list[Batch]:
    """The run's first batches; the one that there is twice, where the run has no more."""
    stream = ranker_stream(config, encoded, context)
    batches = list(islice(stream, 1 + _BATCHES))
    stream.close()
    return batches if len(batches) > 1 else 2 * batches


def _milliseconds(work: Callable[[Batch], Any], batches: Sequence[Batch], context: ProcessContext) -> float:
    began = _now(context)
    for batch in batches:
        work(batch)
    return 1e3 * (_now(context) - began) / len(batches)


def _now(context: ProcessContext) -> float:
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    return time.perf_counter()
