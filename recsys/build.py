"""The one place that turns words of the configuration into a ranker and its rates.

Below this file nothing is handed "the config": every constructor takes plain arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

import torch

from recsys.composition.adapter import LowRankAdapter
from recsys.composition.base import BranchProjection, Composition
from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.parallel import ConcatJoin, GateJoin, Join, ParallelComposition, ProductJoin, SumJoin
from recsys.composition.ranker import Head, Ranker
from recsys.composition.sequential import SequentialComposition
from recsys.config import CompositionConfig, NetworkConfig, TrainingConfig, TrainingModeConfig
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.interactions.base import Crossing
from recsys.interactions.cross import CrossNetwork, LowRankCrossNetwork
from recsys.interactions.dot import DotInteraction
from recsys.interactions.fields import InteractionFields
from recsys.interactions.first_order import FirstOrder
from recsys.interactions.mask import ParallelMaskNet, SerialMaskNet
from recsys.interactions.mlp import FlatCrossing
from recsys.interactions.network import InteractionNetwork
from recsys.sharding.wrap import TableOptimizer
from recsys.towers.embedding import EmbeddingTower, TowerSpec
from recsys.training.modes import learning_halves
from recsys.training.optimizer import DenseOptimizer
from recsys.training.stages import Stage

_JOINS: Mapping[str, type[Join]] = {"concat": ConcatJoin, "sum": SumJoin, "product": ProductJoin, "gate": GateJoin}
_SEEDS_PER_RANKER = 3


def build_ranker(
    network: NetworkConfig,
    composition: CompositionConfig,
    spec: TowerSpec,
    contract: FeatureContract,
    seed: int,
    *,
    adapter_rank: int | None = None,
) -> Ranker:
    """Build a ranker whose first weights follow from the seed and the configuration alone.

    Each part draws from a seed of its own, so that two compositions of one seed start from the same network. An adapter
    is drawn last, and changes no other weight.

    Args:
        adapter_rank: of a low-rank layer on the tower's output; None for none.

    Raises:
        UsageError: the composition's routes do not name every segment of the schema once.
    """
    part_seed = count(seed * _SEEDS_PER_RANKER)
    # It starts at 0 and comes first: what making its tables draws is forgotten with the next seed.
    first_order = FirstOrder(contract) if network.first_order else None
    torch.manual_seed(next(part_seed))
    tower = EmbeddingTower(spec, contract)
    torch.manual_seed(next(part_seed))
    interaction_network = _build_network(network, contract, has_tower_field=composition.name == "sequential")
    torch.manual_seed(next(part_seed))
    joined = _build_composition(
        composition,
        contract.schema.segments,
        tower_width=tower.output_width,
        field_width=network.field_width,
        network_width=interaction_network.output_width,
    )
    head = Head(joined.output_width, composition.head_hidden, network.dropout, first_order)
    if adapter_rank is not None:
        joined.tower_adapter = LowRankAdapter(tower.output_width, adapter_rank)
    return Ranker(tower, interaction_network, joined, head)


def describe_ranker(
    network: NetworkConfig, composition: CompositionConfig, spec: TowerSpec, *, adapter_rank: int | None = None
) -> dict[str, Any]:
    """Return JSON-able values from which, with the contract, `rebuild_ranker` makes a ranker of the same shape."""
    return {
        "network": asdict(network),
        "composition": asdict(composition),
        "tower": spec.to_document(),
        "adapter_rank": adapter_rank,
    }


def rebuild_ranker(description: Mapping[str, Any], contract: FeatureContract) -> Ranker:
    """Build the ranker that `describe_ranker` described; its weights are to be loaded from elsewhere."""
    return build_ranker(
        # Models served before there was a first-order path do not say that they have none.
        NetworkConfig(**({"first_order": False} | description["network"])),
        CompositionConfig(**description["composition"]),
        TowerSpec.from_document(description["tower"]),
        contract,
        seed=0,
        adapter_rank=description.get("adapter_rank"),  # models served before there were adapters do not say
    )


def build_stages(mode: TrainingModeConfig, batches_per_epoch: int, max_steps: int) -> tuple[Stage, ...]:
    """Return the stages of a training mode, epochs turned into steps.

    Raises:
        UsageError: the stages before the last one use up the budget.
    """
    stages = []
    for name, end in sorted(mode.stages.items(), key=lambda stage: len(learning_halves(stage[0]))):
        steps = None if end is None else end.steps
        if end is not None and end.epochs is not None:
            steps = max(1, round(end.epochs * batches_per_epoch))
        stages.append(Stage(name, steps, None if end is None else end.patience))
    used = sum(stage.steps or 0 for stage in stages)
    if used >= max_steps:
        raise UsageError(
            f"Training mode `{mode.name}` comes to stage `{stages[-1].mode}` after {used} steps, and the budget ends "
            f"after {max_steps}. Shorten `training_mode.stages`, or raise `training.epochs`."
        )
    return tuple(stages)


def build_rates(
    training: TrainingConfig, rates: Mapping[str, float], parts: Sequence[str]
) -> tuple[dict[str, DenseOptimizer | None], dict[str, TableOptimizer | None]]:
    """Return what each part's dense parameters and its tables learn by, where they do.

    Args:
        rates: shares of the training's rates, by the names of `TrainingModeConfig.rates`.
    """

    def share(part: str, half: str) -> float:
        return rates.get(f"{part}_{half}", rates.get(part, 1.0))

    dense: dict[str, DenseOptimizer | None] = {
        part: DenseOptimizer(training.learning_rate * share(part, "dense"), training.weight_decay) for part in parts
    }
    tables = {part: training.table_learning_rate * share(part, "tables") for part in parts}
    # The head's tables are its first-order weights.
    tables |= {part: rate * training.first_order_rate_share for part, rate in tables.items() if part == "head"}
    return dense, {part: TableOptimizer("rowwise_adagrad", rate) for part, rate in tables.items()}


def _build_network(config: NetworkConfig, contract: FeatureContract, has_tower_field: bool) -> InteractionNetwork:
    fields = InteractionFields(contract, config.field_width, has_tower_field=has_tower_field)
    crossing = _build_crossing(config, fields.num_fields)
    return InteractionNetwork(fields, crossing, config.hidden_widths, config.dropout)


def _build_crossing(config: NetworkConfig, num_fields: int) -> Crossing:
    shape: dict[str, Any] = {"num_fields": num_fields, "dimension": config.field_width}
    match config.name:
        case "cross":
            return CrossNetwork(**shape, num_layers=config.layers or 0)
        case "cross_low_rank":
            return LowRankCrossNetwork(**shape, num_layers=config.layers or 0, rank=config.rank or 0)
        case "dot":
            return DotInteraction(**shape)
        case "mlp":
            return FlatCrossing(**shape)
    mask = SerialMaskNet if config.name == "mask_serial" else ParallelMaskNet
    widths = [config.hidden_widths[0]] * (config.layers or 0)
    return mask(**shape, block_widths=widths, mask_ratio=config.mask_ratio or 0.0)


def _build_composition(
    config: CompositionConfig, segments: tuple[str, ...], *, tower_width: int, field_width: int, network_width: int
) -> Composition:
    if config.name == "sequential":
        return SequentialComposition(tower_width, field_width, network_width)
    width = config.width or 0
    projection = BranchProjection(tower_width, network_width, width)
    if config.name == "parallel":
        return ParallelComposition(projection, _JOINS[config.join or ""](width))
    if config.name == "parallel_conditional":
        join = _JOINS[config.join or ""](width)
        return ParallelConditionalComposition(projection, join, len(segments), config.expert_hidden)
    if config.routing == "gate":
        return SegmentGatedComposition(projection, len(segments), config.expert_hidden)
    return SegmentRoutedComposition(projection, _routes(config, segments), config.expert_hidden)


def _routes(config: CompositionConfig, segments: tuple[str, ...]) -> list[tuple[str, ...]]:
    routes = config.routes or {}
    if set(routes) != set(segments):
        raise UsageError(
            f"`composition.routes` names the segments {sorted(routes)}, but the data has {list(segments)}. Give every "
            "segment one route."
        )
    return [routes[segment] for segment in segments]
