"""The interaction networks: one variant per crossing, with the knobs that it has."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.kinds import Kinds
from recsys.config.knobs import Fraction, Layers, Width, checked_dataclass


@checked_dataclass
class NetworkConfig:
    """What every interaction network has: fields of `field_width` numbers each, crossed, and layers on top.

    `field_widths` gives the table of a sparse feature, and so of all that share its ids, a width of its own, a multiple
    of 4; a learned projection brings its vectors to `field_width`.

    `hidden_widths` are those of the layers on top, `dropout` is theirs and the head's. `first_order` adds to the logit
    one weight per id and per number, beside all that is crossed.
    """

    name: str
    field_width: Width
    field_widths: dict[str, Annotated[int, Field(gt=0, le=65_536, multiple_of=4, strict=True)]]
    hidden_widths: tuple[Width, ...]
    dropout: Fraction
    first_order: bool


NETWORKS = Kinds("network", NetworkConfig)
AnyNetworkConfig = Annotated[NetworkConfig, NETWORKS]


@NETWORKS.add
@checked_dataclass
class CrossConfig(NetworkConfig):
    """The cross network with full matrices, of so many `layers`."""

    name: Literal["cross"]
    layers: Layers


@NETWORKS.add
@checked_dataclass
class LowRankCrossConfig(NetworkConfig):
    """The cross network whose matrices are products of two, `rank` numbers wide between them."""

    name: Literal["cross_low_rank"]
    layers: Layers
    rank: Width


@NETWORKS.add
@checked_dataclass
class MixtureCrossConfig(NetworkConfig):
    """The cross network whose layers are mixtures of so many `experts`, each a product of two matrices of `rank`.

    `gating` weighs the experts of a row: against one another (`softmax`), or each by itself (`sigmoid`).
    """

    name: Literal["cross_mixture"]
    layers: Layers
    experts: Layers
    rank: Width
    gating: Literal["softmax", "sigmoid"]


@NETWORKS.add
@checked_dataclass
class DotConfig(NetworkConfig):
    """Dot products of all pairs of fields."""

    name: Literal["dot"]


@NETWORKS.add
@checked_dataclass
class FactorisationMachineConfig(NetworkConfig):
    """The products of all pairs of fields, added up: to a vector of `field_width` numbers, or to their sum."""

    name: Literal["fm"]
    output: Literal["vector", "sum"]


@NETWORKS.add
@checked_dataclass
class TwoStreamConfig(NetworkConfig):
    """FinalMLP: two streams of layers over gated fields, joined by a bilinear form into `fused_width` numbers.

    `gate_width` is that of the hidden layer of each stream's gate; `dropout` is the streams' too. The form has `heads`,
    which divide the last width of both streams.
    """

    name: Literal["final_mlp"]
    first_widths: Annotated[tuple[Width, ...], Field(min_length=1)]
    second_widths: Annotated[tuple[Width, ...], Field(min_length=1)]
    gate_width: Width
    heads: Width
    fused_width: Width

    def __post_init__(self) -> None:
        """Refuse heads of unequal widths."""
        for knob in ("first_widths", "second_widths"):
            last = getattr(self, knob)[-1]
            if last % self.heads:
                raise ValueError(
                    f"`network.{knob}` ends with {last}, which {self.heads} heads do not divide; give a multiple of "
                    "`network.heads`, or other heads"
                )


@checked_dataclass
class MaskConfig(NetworkConfig):
    """So many mask blocks (`layers`), each as wide as the first of `hidden_widths`.

    `mask_ratio` is a mask's hidden width over its output's.
    """

    hidden_widths: Annotated[tuple[Width, ...], Field(min_length=1)]
    layers: Layers
    mask_ratio: Annotated[float, Field(gt=0, le=1000)]

    @property
    def block_widths(self) -> list[int]:
        """Of each block's output."""
        return [self.hidden_widths[0]] * self.layers


@NETWORKS.add
@checked_dataclass
class ParallelMaskConfig(MaskConfig):
    """Mask blocks side by side."""

    name: Literal["mask_parallel"]


@NETWORKS.add
@checked_dataclass
class SerialMaskConfig(MaskConfig):
    """Mask blocks one after the other."""

    name: Literal["mask_serial"]


@NETWORKS.add
@checked_dataclass
class MlpConfig(NetworkConfig):
    """No crossing: the layers on top see the fields side by side."""

    name: Literal["mlp"]
