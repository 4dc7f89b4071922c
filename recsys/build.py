"""The one place that turns words of the configuration into a ranker and its rates.

Below this file nothing is handed "the config": every constructor takes plain arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any, TypeVar

import torch

from recsys.composition.adapter import LowRankAdapter
from recsys.composition.branches import BranchShape, Composition
from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.parallel import ConcatJoin, GateJoin, Join, ParallelComposition, ProductJoin, SumJoin
from recsys.composition.ranker import Head, Ranker
from recsys.composition.sequential import SequentialComposition
from recsys.config import (
    COMPOSITIONS,
    NETWORKS,
    CompositionConfig,
    ImportedTowerConfig,
    NetworkConfig,
    TowerConfig,
    TrainingConfig,
    TrainingModeConfig,
    register_variant,
    with_own_knobs,
)
from recsys.config.compositions import (
    GatedConfig,
    ParallelConditionalConfig,
    ParallelConfig,
    RoutedConfig,
    SequentialConfig,
)
from recsys.config.networks import (
    CrossConfig,
    DotConfig,
    FactorisationMachineConfig,
    LowRankCrossConfig,
    MixtureCrossConfig,
    MlpConfig,
    ParallelMaskConfig,
    SerialMaskConfig,
    TwoStreamConfig,
)
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.interactions.cross import CrossNetwork, LowRankCrossNetwork, MixtureCrossNetwork
from recsys.interactions.crossing import Crossing
from recsys.interactions.dot import DotInteraction
from recsys.interactions.factorisation_machine import FactorisationMachine
from recsys.interactions.fields import InteractionFields
from recsys.interactions.first_order import FirstOrder
from recsys.interactions.mask import ParallelMaskNet, SerialMaskNet
from recsys.interactions.mlp import FlatCrossing
from recsys.interactions.network import InteractionNetwork
from recsys.interactions.two_streams import TwoStreamNetwork
from recsys.sharding.wrap import TableOptimizer
from recsys.towers.embedding import EmbeddingTower, TowerSpec
from recsys.training.modes import learning_halves
from recsys.training.optimizer import DenseOptimizer
from recsys.training.stages import TrainingStage

_JOINS: Mapping[str, type[Join]] = {"concat": ConcatJoin, "sum": SumJoin, "product": ProductJoin, "gate": GateJoin}
_SEEDS_PER_RANKER = 3

_Network = TypeVar("_Network", bound=NetworkConfig)
_Composition = TypeVar("_Composition", bound=CompositionConfig)
_crossings: dict[type, Callable[[Any, int], Crossing]] = {}
_compositions: dict[type, Callable[[Any, BranchShape], Composition]] = {}


def register_network(variant: type[_Network], build: Callable[[_Network, int], Crossing]) -> None:
    """Offer an interaction network under the `name` of its variant, in the way that the built-in ones are.

    Call it at the top level of a module of your own: recorded configurations, served models and the processes of a
    study import that module by its name. A file `my_kinds.py` on Python's path may hold

        @checked_dataclass
        class PowersConfig(NetworkConfig):
            name: Literal["powers"]
            degree: int = 2

        class Powers(Crossing): ...

        register_network(PowersConfig, lambda knobs, num_fields: Powers(num_fields, knobs.field_width, knobs.degree))

    and `recsys train network=my_kinds.powers network.degree=3` trains it, as a grid's `network: [cross,
    my_kinds.powers]` does; once the module is imported, `network=powers` is enough. Knobs without a default take the
    value of the default choice in `conf/`, where that has them. Result keys count the module's file, or all files of
    the package that it lies in.

    Args:
        variant: a `checked_dataclass` with a name of its own; its knobs may have defaults.
        build: (the knobs, F) -> the crossing of fields (B, F, `field_width`).

    Raises:
        UsageError: the name is taken, or the variant cannot be recorded and read back.
    """
    register_variant(NETWORKS, variant)
    _crossings[variant] = build


def register_composition(
    variant: type[_Composition], build: Callable[[_Composition, BranchShape], Composition]
) -> None:
    """Offer a composition under the `name` of its variant; otherwise as `register_network`.

    Args:
        build: (the knobs, what there is to join) -> the composition.

    Raises:
        UsageError: the name is taken, or the variant cannot be recorded and read back.
    """
    register_variant(COMPOSITIONS, variant)
    _compositions[variant] = build


register_network(CrossConfig, lambda knobs, fields: CrossNetwork(fields, knobs.field_width, knobs.layers))
register_network(
    LowRankCrossConfig,
    lambda knobs, fields: LowRankCrossNetwork(fields, knobs.field_width, knobs.layers, knobs.rank),
)
register_network(
    MixtureCrossConfig,
    lambda knobs, fields: MixtureCrossNetwork(
        fields, knobs.field_width, knobs.layers, knobs.experts, knobs.rank, knobs.gating
    ),
)
register_network(DotConfig, lambda knobs, fields: DotInteraction(fields, knobs.field_width))
register_network(
    FactorisationMachineConfig,
    lambda knobs, _: FactorisationMachine(knobs.field_width, is_summed=knobs.output == "sum"),
)
register_network(
    TwoStreamConfig,
    lambda knobs, fields: TwoStreamNetwork(
        fields,
        knobs.field_width,
        knobs.first_widths,
        knobs.second_widths,
        gate_width=knobs.gate_width,
        heads=knobs.heads,
        output_width=knobs.fused_width,
        dropout=knobs.dropout,
    ),
)
register_network(
    ParallelMaskConfig,
    lambda knobs, fields: ParallelMaskNet(fields, knobs.field_width, knobs.block_widths, knobs.mask_ratio),
)
register_network(
    SerialMaskConfig,
    lambda knobs, fields: SerialMaskNet(fields, knobs.field_width, knobs.block_widths, knobs.mask_ratio),
)
register_network(MlpConfig, lambda knobs, fields: FlatCrossing(fields, knobs.field_width))

register_composition(
    SequentialConfig,
    lambda _, shape: SequentialComposition(shape.tower_width, shape.field_width, shape.network_width),
)
register_composition(
    ParallelConfig,
    lambda knobs, shape: ParallelComposition(shape.projection(knobs.width), _JOINS[knobs.join](knobs.width)),
)
register_composition(
    GatedConfig,
    lambda knobs, shape: SegmentGatedComposition(
        shape.projection(knobs.width), len(shape.segments), knobs.expert_hidden
    ),
)
register_composition(
    RoutedConfig,
    lambda knobs, shape: SegmentRoutedComposition(
        shape.projection(knobs.width), _routes(knobs.routes, shape.segments), knobs.expert_hidden
    ),
)
register_composition(
    ParallelConditionalConfig,
    lambda knobs, shape: ParallelConditionalComposition(
        shape.projection(knobs.width), _JOINS[knobs.join](knobs.width), len(shape.segments), knobs.expert_hidden
    ),
)


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
    interaction_network = _build_network(network, contract, composition.has_tower_field)
    torch.manual_seed(next(part_seed))
    shape = BranchShape(
        contract.schema.segments, tower.output_width, network.field_width, interaction_network.output_width
    )
    joined = _compositions[type(composition)](composition, shape)
    head = Head(joined.output_width, composition.head_hidden, network.dropout, first_order)
    if adapter_rank is not None:
        joined.tower_adapter = LowRankAdapter(tower.output_width, adapter_rank)
    return Ranker(tower, interaction_network, joined, head)


def describe_ranker(
    network: NetworkConfig, composition: CompositionConfig, spec: TowerSpec, *, adapter_rank: int | None = None
) -> dict[str, Any]:
    """Return JSON-able values from which, with the contract, `rebuild_ranker` makes a ranker of the same shape."""
    return {
        "network": asdict(network) | NETWORKS.origin(network.name),
        "composition": asdict(composition) | COMPOSITIONS.origin(composition.name),
        "tower": spec.to_document(),
        "adapter_rank": adapter_rank,
    }


def rebuild_ranker(description: Mapping[str, Any], contract: FeatureContract) -> Ranker:
    """Build the ranker that `describe_ranker` described; its weights are to be loaded from elsewhere.

    Raises:
        UnknownKindError: the network or the composition is of a module that cannot be imported; names it.
    """
    description = with_own_knobs(description)
    return build_ranker(
        NETWORKS.from_document(description["network"]),
        COMPOSITIONS.from_document(description["composition"]),
        TowerSpec.from_document(description["tower"]),
        contract,
        seed=0,
        adapter_rank=description.get("adapter_rank"),  # models served before there were adapters do not say
    )


def build_spec(tower: TowerConfig, schema: FeatureSchema) -> TowerSpec:
    """Describe the configured tower for a schema.

    Raises:
        UsageError: a side of a two-tower model has no sparse feature.
    """
    if isinstance(tower, ImportedTowerConfig):
        return TowerSpec.imported(schema, width=tower.width)
    return TowerSpec.two_tower(
        schema, width=tower.width, table_dimension=tower.table_dimension, hidden_widths=tower.hidden_widths
    )


def build_stages(mode: TrainingModeConfig, batches_per_epoch: int, max_steps: int) -> tuple[TrainingStage, ...]:
    """Return the stages of a training mode, epochs turned into steps.

    Raises:
        UsageError: the stages before the last one use up the budget.
    """
    stages = []
    for name, end in sorted(mode.stages.items(), key=lambda stage: len(learning_halves(stage[0]))):
        steps = None if end is None else end.steps
        if end is not None and end.epochs is not None:
            steps = max(1, round(end.epochs * batches_per_epoch))
        stages.append(TrainingStage(name, steps, None if end is None else end.patience))
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
    crossing = _crossings[type(config)](config, fields.num_fields)
    return InteractionNetwork(fields, crossing, config.hidden_widths, config.dropout)


def _routes(routes: Mapping[str, Sequence[str]], segments: Sequence[str]) -> list[Sequence[str]]:
    if set(routes) != set(segments):
        raise UsageError(
            f"`composition.routes` names the segments {sorted(routes)}, but the data has {list(segments)}. Give every "
            "segment one route."
        )
    return [routes[segment] for segment in segments]
