"""How well a tower learns and retrieves, while it is pre-trained and after: on the validation rows of all processes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation import ranks
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.features.batch import Batch
from recsys.run.streams import VALIDATION, scoring_stream
from recsys.sharding.first_process import by_first
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext
from recsys.towers.any_tower import Tower, build_tower
from recsys.towers.history import HistoryTower
from recsys.towers.history_pretraining import HistoryObjective
from recsys.towers.pretraining import TwoTowerObjective, retrieval_recall
from recsys.towers.sequence import SequenceTower
from recsys.towers.sequence_pretraining import NextEventObjective

_RECALL_AT = 20


def validation_loss(wrapped: nn.Module, batches: Iterable[Batch]) -> float:
    """Return the objective's mean over all processes' batches, weighted as it says. Every process calls it."""
    module = unwrapped(wrapped)
    assert isinstance(module, TwoTowerObjective | HistoryObjective | NextEventObjective)
    total, weight = 0.0, 0.0
    with evaluation_mode(module):
        for batch, is_own in ranks.in_step(batches):
            # Whose rows have run out takes part all the same, with none that count.
            counted = batch if is_own else _without_weight(batch)
            of_batch = module.weight_of(counted)
            total += float(module(counted)) * of_batch
            weight += of_batch
    if ranks.world_size() > 1:
        sums = torch.tensor([total, weight], dtype=torch.float64)
        dist.all_reduce(sums)
        total, weight = sums.tolist()
    return total / max(weight, 1.0)


def _without_weight(batch: Batch) -> Batch:
    return replace(batch, label=torch.zeros_like(batch.label), weight=torch.zeros_like(batch.weight))


def retrieval_quality(
    config: RunConfig,
    encoded: EncodedDataset,
    tower: Tower,
    weights: Mapping[str, Tensor],
    context: ProcessContext,
) -> dict[str, float]:
    """How well a tower with two sides retrieves; of a history tower the validation loss says all.

    Of several processes the first one measures, with all rows and the whole tower: an item is sought among all others.

    Args:
        tower: as it learnt, its tables wherever they are.
        weights: whole ones to measure, tables (rows, D), in the first process.
    """
    if isinstance(tower, HistoryTower):
        return {}
    alone = replace(context, rank=0, world_size=1)

    def measured() -> dict[str, float]:
        validation = scoring_stream(config, encoded, VALIDATION, alone)
        batches: Iterable[Batch] = validation
        whole: Tower = tower
        # A sequence tower's weights are not those that it learnt with: its items' attributes are in them.
        if isinstance(tower, SequenceTower) or context.world_size > 1:
            whole = build_tower(tower.spec, encoded.contract)
            whole.load_state_dict(dict(weights))
            whole.to(context.device)
        if isinstance(tower, SequenceTower):
            # It reads every row's list, of which those of negatives would be most.
            batches = (batch.take(batch.label.nonzero().squeeze(1)) for batch in validation)
        assert not isinstance(whole, HistoryTower)
        with evaluation_mode(whole):
            recall = retrieval_recall(whole, batches, encoded.contract.schema.item, k=_RECALL_AT)
        return {} if recall is None else {f"recall_{_RECALL_AT}": recall}

    return by_first(measured)
