"""The batches that a run learns from and is measured on, and the rows and days that they hold."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

import torch

from recsys.build_objective import build_objective
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.interactions.fields import require_features
from recsys.monitoring.out_of_memory import out_of_memory_explained
from recsys.sharding.processes import ProcessContext, local_processes, start_processes
from recsys.streaming.loader import BatchStream
from recsys.tracking.run import DatasetUse
from recsys.training.precision import set_single_products

# Each feeds some two million rows a second: what a GPU takes, with half of them to spare.
_MOST_DECODE_THREADS = 8
TRAIN, VALIDATION, TEST, RANKING_TEST = "train", "validation", "test", "ranking_test"


def ranker_stream(config: RunConfig, encoded: EncodedDataset, context: ProcessContext) -> BatchStream:
    """The days of the training split that the ranker learns from, in the order of `training.row_order`.

    Raises:
        UsageError: the data lack what `training.objective` learns from.
    """
    objective = build_objective(config.training, encoded.contract)
    days = divided_days(encoded, config.training.tower_day_share)[1]
    return training_stream(config, encoded, context, days, objective.extras, objective.together)


def training_stream(
    config: RunConfig,
    encoded: EncodedDataset,
    context: ProcessContext,
    days: Sequence[str],
    extras: Sequence[str] = (),
    together: str = "",
) -> BatchStream:
    """Some days of the training split: shuffled by the run's seed, or by time, several processes in step.

    A step takes `training.batch_size` rows, which the processes share: an experiment is the same on any number of them.

    Args:
        extras, together: see `BatchStream`.
    """
    training = config.training
    assert training.batch_size is not None  # settled by `with_budget`
    return BatchStream(
        encoded.root,
        TRAIN,
        encoded.contract,
        batch_size=-(-training.batch_size // context.world_size),
        seed=training.seed,
        shuffle=training.row_order == "shuffled",
        in_step=training.row_order == "time",
        shuffle_buffer_rows=training.shuffle_buffer_rows,
        decode_threads=decode_threads(config),
        device=context.device,
        extras=extras,
        together=together,
        days=days,
        rank=context.rank,
        world_size=context.world_size,
    )


def decode_threads(config: RunConfig) -> int:
    """How many threads decode rows: as configured, or this process's share of the cores but one, 8 at most."""
    if config.training.decode_threads is not None:
        return config.training.decode_threads
    return max(1, min(_MOST_DECODE_THREADS, config.runtime.cores // local_processes() - 1))


def divided_days(encoded: EncodedDataset, share: float) -> tuple[list[str], list[str]]:
    """Divide the training days: the earliest, with `share` of the rows, for the tower, the rest for the ranker.

    A tower that was pre-trained on the ranker's own rows knows their labels by heart: the ranker learns to trust it as
    no later row will bear out. With a share of 0 nothing is set apart, and both get every day.
    """
    days = encoded.days(TRAIN)
    if share == 0 or len(days) < 2:
        return list(days), list(days)
    passed, border = 0, 0
    for rows in days.values():
        if passed >= share * encoded.rows(TRAIN):
            break
        passed, border = passed + rows, border + 1
    border = min(border, len(days) - 1)
    return list(days)[:border], list(days)[border:]


def scoring_stream(
    config: RunConfig,
    encoded: EncodedDataset,
    split: str,
    context: ProcessContext,
    extras: Sequence[str] = (),
    days: Sequence[str] = (),
    *,
    in_step: bool = False,
) -> BatchStream:
    """A split, or some of its days, in the order of its files, with those of `extras` that the data have.

    Args:
        in_step: whether the processes share every batch of `evaluation.batch_size`, in place of one each.
    """
    size = config.evaluation.batch_size
    return BatchStream(
        encoded.root,
        split,
        encoded.contract,
        batch_size=-(-size // context.world_size) if in_step else size,
        seed=0,
        shuffle=False,
        in_step=in_step,
        shuffle_buffer_rows=config.training.shuffle_buffer_rows,
        decode_threads=decode_threads(config),
        device=context.device,
        extras=[name for name in extras if name in encoded.contract.extras],
        days=days,
        rank=context.rank,
        world_size=context.world_size,
    )


def own_share(config: RunConfig) -> tuple[str, int]:
    """This process's share of the machine where every process works: what DuckDB may hold, and how many threads."""
    limit, number = config.runtime.memory_limit, local_processes()
    # DuckDB reads a fraction as well; a group of one is told what was configured.
    memory = limit if number == 1 else f"{float(limit[:-2]) * (1000 if limit.endswith('GB') else 1) / number:.0f}MB"
    return memory, max(1, config.runtime.cores // number)


def started(config: RunConfig) -> ProcessContext:
    """Join the process group and keep to the configured device, kind of products and number of threads.

    Raises:
        UsageError: see `start_processes`.
    """
    torch.set_num_threads(max(1, config.runtime.cores // local_processes()))
    context = start_processes(config.runtime.device, timedelta(seconds=config.runtime.exchange_seconds))
    set_single_products(config.training.matmul, context.device)
    return context


def scoring_memory(config: RunConfig, context: ProcessContext) -> AbstractContextManager[None]:
    """Within it, a lack of memory says that `evaluation.batch_size` would have to be lower."""
    rows = f"while rows were scored, {config.evaluation.batch_size} at a time"
    return out_of_memory_explained(rows, "`evaluation.batch_size`", context.device)


def require_rows(encoded: EncodedDataset, splits: Sequence[str]) -> None:
    """Refuse data that lack one of the splits, or all that a ranker reads, before any work is spent on the rest.

    Raises:
        DataError: names the split, and those that have rows.
        UsageError: the schema has no feature for the interaction network.
    """
    for split in splits:
        encoded.days(split)
    require_features(encoded.contract.schema)


def dataset_uses(
    encoded: EncodedDataset, name: str, splits: Sequence[str], train_days: Sequence[str] = ()
) -> list[DatasetUse]:
    """Say which data a run reads, as its page shows it.

    Args:
        train_days: those of the training split that are read; () for all.
    """
    days = {split: train_days if split == TRAIN and train_days else encoded.days(split) for split in splits}
    schema = encoded.contract.schema
    columns = {feature.name: "double" for feature in (*schema.dense, *schema.dense_lists)}
    columns |= {feature.name: "long" for feature in schema.sparse}
    return [
        DatasetUse(
            name=f"{name}-{split}",
            context=split,
            digest=encoded.digest(split, list(days[split])),
            source=str(encoded.root),
            columns=columns,
            rows=sum(encoded.days(split)[day] for day in days[split]),
            details={"contract": encoded.contract.fingerprint},
        )
        for split in splits
    ]
