"""Words of the configuration -> compositions: the built-in kinds, and what registers others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from recsys.composition.branches import BranchShape, Composition
from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.epnet import EpnetComposition
from recsys.composition.parallel import ConcatJoin, GateJoin, Join, ParallelComposition, ProductJoin, SumJoin
from recsys.composition.ppnet import PpnetComposition
from recsys.composition.residual_expert import SharedResidualComposition
from recsys.composition.segment_linear import SegmentLinearComposition
from recsys.composition.sequential import SequentialComposition
from recsys.composition.star import StarComposition
from recsys.config import COMPOSITIONS, CompositionConfig, register_variant
from recsys.config.compositions import (
    EpnetConfig,
    GatedConfig,
    ParallelConditionalConfig,
    ParallelConfig,
    PpnetConfig,
    RoutedConfig,
    SegmentLinearConfig,
    SequentialConfig,
    SharedResidualConfig,
    StarConfig,
)
from recsys.errors import UsageError

_JOINS: Mapping[str, type[Join]] = {"concat": ConcatJoin, "sum": SumJoin, "product": ProductJoin, "gate": GateJoin}

_Composition = TypeVar("_Composition", bound=CompositionConfig)
_compositions: dict[type, Callable[[Any, BranchShape], Composition]] = {}


def register_composition(
    variant: type[_Composition], build: Callable[[_Composition, BranchShape], Composition]
) -> None:
    """Offer a composition under the `name` of its variant; otherwise as `recsys.build.register_network`.

    Args:
        build: (the knobs, what there is to join) -> the composition.

    Raises:
        UsageError: the name is taken, or the variant cannot be recorded and read back.
    """
    register_variant(COMPOSITIONS, variant)
    _compositions[variant] = build


def build_composition(config: CompositionConfig, shape: BranchShape) -> Composition:
    """Build a composition, with the inner ones that it stands on.

    Raises:
        UsageError: routes do not name every segment of the schema once.
    """
    return _compositions[type(config)](config, shape)


def _routes(routes: Mapping[str, Sequence[str]], segments: Sequence[str]) -> list[Sequence[str]]:
    if set(routes) != set(segments):
        raise UsageError(
            f"`composition.routes` names the segments {sorted(routes)}, but the data has {list(segments)}. Give every "
            "segment one route."
        )
    return [routes[segment] for segment in segments]


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
register_composition(
    SharedResidualConfig,
    lambda knobs, shape: SharedResidualComposition(
        build_composition(knobs.inner, shape), len(shape.segments), knobs.expert_hidden, knobs.rank
    ),
)
register_composition(
    StarConfig,
    lambda knobs, shape: StarComposition(
        build_composition(knobs.inner, shape), len(shape.segments), knobs.hidden_widths
    ),
)
register_composition(
    EpnetConfig,
    lambda knobs, shape: EpnetComposition(
        build_composition(knobs.inner, shape), len(shape.segments), knobs.prior_width, knobs.gate_hidden
    ),
)
register_composition(
    PpnetConfig,
    lambda knobs, shape: PpnetComposition(
        build_composition(knobs.inner, shape),
        shape.tower_width,
        len(shape.segments),
        knobs.hidden_widths,
        knobs.prior_width,
        knobs.gate_hidden,
    ),
)
register_composition(
    SegmentLinearConfig,
    lambda knobs, shape: SegmentLinearComposition(
        build_composition(knobs.inner, shape), shape.tower_width, len(shape.segments), knobs.width, knobs.delta_decay
    ),
)
