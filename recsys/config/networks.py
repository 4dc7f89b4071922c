"""The interaction networks."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from recsys.config.ranges import STRICT, Fraction, Layers, Width, require_exactly


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class NetworkConfig:
    """An interaction network over fields of `field_width` numbers each.

    `first_order` adds to the logit one weight per id and per number, beside all that is crossed. `layers` counts cross
    layers or mask blocks, `rank` the low-rank cross's inner width, `mask_ratio` a mask's hidden width over its
    output's; each must be null where the crossing has no such thing.
    """

    name: Literal["cross", "cross_low_rank", "dot", "mask_parallel", "mask_serial", "mlp"]
    field_width: Width
    hidden_widths: tuple[Width, ...]
    dropout: Fraction
    first_order: bool
    layers: Layers | None
    rank: Width | None
    mask_ratio: Annotated[float, Field(gt=0, le=1000)] | None

    def __post_init__(self) -> None:
        """Refuse a knob that the named crossing does not have, or lacks."""
        require_exactly(
            f"network `{self.name}`",
            {"layers": self.layers, "rank": self.rank, "mask_ratio": self.mask_ratio},
            needed={
                "cross": {"layers"},
                "cross_low_rank": {"layers", "rank"},
                "dot": set(),
                "mask_parallel": {"layers", "mask_ratio"},
                "mask_serial": {"layers", "mask_ratio"},
                "mlp": set(),
            }[self.name],
        )
