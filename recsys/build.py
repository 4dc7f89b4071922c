"""The one place that turns words of the configuration into a ranker and its rates; compositions by a file of their own.

Below this file nothing is handed "the config": every constructor takes plain arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any, TypeVar

import torch

from recsys.build_composition import build_composition
from recsys.build_composition import register_composition as register_composition
from recsys.composition.adapter import LowRankAdapter
from recsys.composition.branches import BranchShape
from recsys.composition.ranker import LABEL_ALONE, Head, Ranker
from recsys.composition.segment_rungs import COPIES_PART, SegmentRungs
from recsys.config import (
    COMPOSITIONS,
    NETWORKS,
    CompositionConfig,
    HistoryTowerConfig,
    ImportedTowerConfig,
    NetworkConfig,
    SequenceTowerConfig,
    TowerConfig,
    TrainingConfig,
    TrainingModeConfig,
    register_variant,
    with_own_knobs,
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
from recsys.interactions.first_order import COPIES, FirstOrder
from recsys.interactions.mask import ParallelMaskNet, SerialMaskNet
from recsys.interactions.mlp import FlatCrossing
from recsys.interactions.network import InteractionNetwork
from recsys.interactions.two_streams import TwoStreamNetwork
from recsys.sharding.wrap import TableOptimizer
from recsys.towers.any_tower import build_tower
from recsys.towers.tower_spec import HistoryShape, SequenceShape, TowerSpec
from recsys.training.modes import learning_halves
from recsys.training.optimizer import DenseOptimizer
from recsys.training.stages import TrainingStage

_SEEDS_PER_RANKER = 3

_Network = TypeVar("_Network", bound=NetworkConfig)
_crossings: dict[type, Callable[[Any, int], Crossing]] = {}


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


def build_ranker(
    network: NetworkConfig,
    composition: CompositionConfig,
    spec: TowerSpec,
    contract: FeatureContract,
    seed: int,
    *,
    adapter_rank: int | None = None,
    is_ordinal: bool = False,
    rungs: SegmentRungs | None = None,
) -> Ranker:
    """Build a ranker whose first weights follow from the seed and the configuration alone.

    Each part draws from a seed of its own, so that two compositions of one seed start from the same network. An adapter
    is drawn last, and changes no other weight.

    Args:
        adapter_rank: of a low-rank layer on the tower's output; None for none.
        is_ordinal: whether it has an output for each threshold of the schema's graded label, not for the label alone.
        rungs: what each segment may change of the tower; None where one training mode holds for all. What they learn is
            drawn behind the adapter.

    Raises:
        UsageError: the composition's routes do not name every segment of the schema once, or a rung is about layers
            that the tower has not.
    """
    part_seed = count(seed * _SEEDS_PER_RANKER)
    # It starts at 0 and comes first: what making its tables draws is forgotten with the next seed.
    first_order = FirstOrder(contract) if network.first_order else None
    torch.manual_seed(next(part_seed))
    tower = build_tower(spec, contract)
    torch.manual_seed(next(part_seed))
    interaction_network = _build_network(network, contract, composition.has_tower_field)
    torch.manual_seed(next(part_seed))
    shape = BranchShape(
        contract.schema.segments, tower.output_width, network.field_width, interaction_network.output_width
    )
    joined = build_composition(composition, shape)
    graded = contract.schema.graded if is_ordinal else None
    head = Head(
        joined.output_width,
        composition.head_hidden,
        network.dropout,
        first_order,
        members=composition.members,
        outputs=graded.names if graded else LABEL_ALONE,
        answer=graded.place if graded else 0,
    )
    if adapter_rank is not None:
        joined.tower_adapter = LowRankAdapter(tower.output_width, adapter_rank)
    ranker = Ranker(tower, interaction_network, joined, head)
    if rungs is not None:
        ranker.learn_by_segment(rungs, contract)
    return ranker


def describe_ranker(
    network: NetworkConfig,
    composition: CompositionConfig,
    spec: TowerSpec,
    *,
    adapter_rank: int | None = None,
    is_ordinal: bool = False,
    rungs: SegmentRungs | None = None,
) -> dict[str, Any]:
    """Return JSON-able values from which, with the contract, `rebuild_ranker` makes a ranker of the same shape."""
    return {
        "network": asdict(network) | NETWORKS.origin(network.name),
        "composition": asdict(composition) | COMPOSITIONS.origin(composition.name),
        "tower": spec.to_document(),
        "adapter_rank": adapter_rank,
        "is_ordinal": is_ordinal,
        "rungs": None if rungs is None else rungs.to_document(),
    }


def as_described_now(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description that an earlier version wrote as this one writes it, whatever came later without a word.

    Raises:
        UnknownKindError: see `rebuild_ranker`.
    """
    return with_own_knobs({"adapter_rank": None, "is_ordinal": False, "rungs": None, **description})


def rebuild_ranker(description: Mapping[str, Any], contract: FeatureContract) -> Ranker:
    """Build the ranker that `describe_ranker` described; its weights are to be loaded from elsewhere.

    Raises:
        UnknownKindError: the network or the composition is of a module that cannot be imported; names it.
    """
    description = as_described_now(description)
    rungs = description["rungs"]
    return build_ranker(
        NETWORKS.from_document(description["network"]),
        COMPOSITIONS.from_document(description["composition"]),
        TowerSpec.from_document(description["tower"]),
        contract,
        seed=0,
        adapter_rank=description["adapter_rank"],
        is_ordinal=description["is_ordinal"],
        rungs=None if rungs is None else SegmentRungs.from_document(rungs),
    )


def build_spec(tower: TowerConfig, schema: FeatureSchema) -> TowerSpec:
    """Describe the configured tower for a schema.

    Raises:
        UsageError: a side of a two-tower model has no sparse feature, or a history or sequence tower no events.
    """
    if isinstance(tower, ImportedTowerConfig):
        return TowerSpec.imported(schema, width=tower.width)
    if isinstance(tower, HistoryTowerConfig):
        return TowerSpec.reading_history(schema, _history_shape(tower))
    if isinstance(tower, SequenceTowerConfig):
        shape = SequenceShape(blocks=tower.blocks, heads=tower.heads, dropout=tower.dropout)
        return TowerSpec.reading_sequence(schema, width=tower.width, shape=shape)
    return TowerSpec.two_tower(
        schema, width=tower.width, table_dimension=tower.table_dimension, hidden_widths=tower.hidden_widths
    )


def _history_shape(tower: HistoryTowerConfig) -> HistoryShape:
    vectors = tower.vectors
    return HistoryShape(
        key_width=tower.key_width,
        factor_width=tower.factor_width,
        vectors_width=0 if vectors is None else vectors.width,
        projection_width=0 if vectors is None else vectors.projection_width,
        reads_gaps=tower.reads_gaps,
        event_dropout=tower.event_dropout,
        history_dropout=tower.history_dropout,
        key_dropout=tower.key_dropout,
        frozen=tower.frozen,
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


def build_table_l2(training: TrainingConfig) -> dict[str, float]:
    """Return how strongly each part's looked-up vectors are penalised, as `with_table_l2` takes it.

    The head's are its first-order weights, each of which counts once. Those of a copy of the tower are differences
    from the tower's vectors, towards which they are pulled.
    """
    strengths = {str(part): each / COPIES if part == "head" else each for part, each in training.table_l2.items()}
    return strengths | {COPIES_PART: strengths["embedding_tower"]}


def _build_network(config: NetworkConfig, contract: FeatureContract, has_tower_field: bool) -> InteractionNetwork:
    fields = InteractionFields(
        contract, config.field_width, has_tower_field=has_tower_field, widths=config.field_widths
    )
    crossing = _crossings[type(config)](config, fields.num_fields)
    return InteractionNetwork(fields, crossing, config.hidden_widths, config.dropout)
