"""The compositions: one variant per way to join tower and interaction network, with the knobs that it has."""

from typing import Annotated, ClassVar, Literal

from recsys.config.kinds import Kinds
from recsys.config.knobs import Members, Width, checked_dataclass


@checked_dataclass
class CompositionConfig:
    """What every composition has: `head_hidden`, the hidden widths of the head behind it, and the head's `members`.

    Several members share the head's matrices and differ by vectors of their own (`recsys/composition/members.py`); the
    row's logit is their mean.

    `has_tower_field` belongs to the kind: whether the interaction network is built with a field for the tower's vector.
    """

    has_tower_field: ClassVar[bool] = False

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


COMPOSITIONS = Kinds("composition", CompositionConfig)
AnyCompositionConfig = Annotated[CompositionConfig, COMPOSITIONS]

JoinName = Literal["concat", "sum", "product", "gate"]
Route = tuple[Literal["embedding_tower", "interaction_network"], ...]


@COMPOSITIONS.add
@checked_dataclass
class SequentialConfig(CompositionConfig):
    """The tower's vector is one more field of the interaction network."""

    has_tower_field: ClassVar[bool] = True

    name: Literal["sequential"]


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
