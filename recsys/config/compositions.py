"""The compositions: one variant per way to join tower and interaction network, with the knobs that it has."""

from typing import Annotated, Literal

from pydantic import field_validator
from pydantic.dataclasses import rebuild_dataclass

from recsys.config.kinds import Kinds
from recsys.config.knobs import Members, NonNegativeFloat, Width, checked_dataclass


@checked_dataclass
class CompositionConfig:
    """What every composition has: `head_hidden`, the hidden widths of the head behind it, and the head's `members`.

    Several members share the head's matrices and differ by vectors of their own (`recsys/composition/members.py`); the
    row's logit is their mean.
    """

    name: str
    head_hidden: tuple[Width, ...]
    members: Members

    def __post_init__(self) -> None:
        """Refuse members of a head without a layer to share: their mean would be one linear layer again."""
        if self.members > 1 and not self.head_hidden:
            raise ValueError(
                f"`composition.members` is {self.members}, and `composition.head_hidden` is empty: members share the "
                "head's hidden layers. Give it some, as composition.head_hidden=[64]"
            )

    @property
    def has_tower_field(self) -> bool:
        """Whether the interaction network is built with a field for the tower's vector."""
        return False


COMPOSITIONS = Kinds("composition", CompositionConfig)
AnyCompositionConfig = Annotated[CompositionConfig, COMPOSITIONS]

JoinName = Literal["concat", "sum", "product", "gate"]
Route = tuple[Literal["embedding_tower", "interaction_network"], ...]


@COMPOSITIONS.add
@checked_dataclass
class SequentialConfig(CompositionConfig):
    """The tower's vector is one more field of the interaction network."""

    name: Literal["sequential"]

    @property
    def has_tower_field(self) -> bool:
        """The field that the tower's vector enters by."""
        return True


@COMPOSITIONS.add
@checked_dataclass
class ParallelConfig(CompositionConfig):
    """Both branches, brought to one `width` and joined in the same way for every row."""

    name: Literal["parallel"]
    width: Width
    join: JoinName


@COMPOSITIONS.add
@checked_dataclass
class GatedConfig(CompositionConfig):
    """Both branches, brought to one `width` and weighed by a learned gate per segment.

    `expert_hidden` are the hidden widths of each segment's expert behind its gate, null for none.
    """

    name: Literal["conditional"]
    width: Width
    expert_hidden: tuple[Width, ...] | None


@COMPOSITIONS.add
@checked_dataclass
class RoutedConfig(CompositionConfig):
    """Each segment's rows pass only the branches of its route (`routes: {segment: [branches]}`, every segment once).

    `width` and `expert_hidden` as in `GatedConfig`.
    """

    name: Literal["conditional_route"]
    width: Width
    routes: dict[str, Route]
    expert_hidden: tuple[Width, ...] | None


@COMPOSITIONS.add
@checked_dataclass
class ParallelConditionalConfig(CompositionConfig):
    """A join as of `ParallelConfig` and, beside it, gates and experts as of `GatedConfig`."""

    name: Literal["parallel_conditional"]
    width: Width
    join: JoinName
    expert_hidden: tuple[Width, ...] | None


@checked_dataclass
class NestedConfig(CompositionConfig):
    """What stands on the vector of an `inner` composition: a built-in one with its knobs, which may be nested as well.

    The head stands behind the outermost composition, so an inner one's `head_hidden` is empty.
    """

    inner: AnyCompositionConfig

    @field_validator("inner")
    @classmethod
    def _without_head(cls, inner: CompositionConfig) -> CompositionConfig:
        if inner.head_hidden:
            raise ValueError(
                f"`composition.inner.head_hidden` is {list(inner.head_hidden)}, and the head stands behind the "
                "outermost composition: give its widths as `composition.head_hidden`, and leave the inner one's out"
            )
        if inner.members > 1:
            raise ValueError(
                f"`composition.inner.members` is {inner.members}, and they are of the head behind the outermost "
                "composition: give their number as `composition.members`, and leave the inner one's out"
            )
        return inner

    @property
    def has_tower_field(self) -> bool:
        """As the inner composition has one."""
        return self.inner.has_tower_field


@COMPOSITIONS.add
@checked_dataclass
class SharedResidualConfig(NestedConfig):
    """An expert that all segments share, and a residual expert for each.

    Both have the hidden widths `expert_hidden`; a `rank` makes the residual experts linear maps of that rank instead.
    """

    name: Literal["shared_residual_expert"]
    expert_hidden: tuple[Width, ...]
    rank: Width | None


@COMPOSITIONS.add
@checked_dataclass
class StarConfig(NestedConfig):
    """Layers of the widths `hidden_widths` whose weights are the product of shared ones and the segment's."""

    name: Literal["star"]
    hidden_widths: tuple[Width, ...]


@COMPOSITIONS.add
@checked_dataclass
class EpnetConfig(NestedConfig):
    """Gates on the joined vector, from the segment's vector of `prior_width` through a layer of `gate_hidden`."""

    name: Literal["epnet"]
    prior_width: Width
    gate_hidden: Width


@COMPOSITIONS.add
@checked_dataclass
class PpnetConfig(NestedConfig):
    """Layers of the widths `hidden_widths`, each gated by the tower's vector and the segment's; see `EpnetConfig`."""

    name: Literal["ppnet"]
    hidden_widths: tuple[Width, ...]
    prior_width: Width
    gate_hidden: Width


@COMPOSITIONS.add
@checked_dataclass
class SegmentLinearConfig(NestedConfig):
    """Beside the joined vector a linear map of the tower's, `width` wide, with a delta for every segment.

    `delta_decay` is the weight decay of the deltas' matrices, in the place of `training.weight_decay`.
    """

    name: Literal["segment_linear"]
    width: Width
    delta_decay: NonNegativeFloat


# Each was made of the kinds that stood above it, and an inner composition may be of any.
for _variant in (SharedResidualConfig, StarConfig, EpnetConfig, PpnetConfig, SegmentLinearConfig):
    rebuild_dataclass(_variant, force=True)  # type: ignore[arg-type]
