"""The compositions."""

from typing import Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from recsys.config.ranges import STRICT, Width, require_exactly


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class CompositionConfig:
    """How tower and interaction network are joined.

    `width` is that of both branches where they meet. `join` is how the parallel kinds join them. The conditional kind
    either weighs them by a learned gate per segment (`routing: gate`) or lets each segment's rows pass only the
    branches of its route (`routing: route`, `routes: {segment: [branches]}`, every segment once). `expert_hidden` are
    the hidden widths of each segment's expert, null for none. A knob that the kind does not have must be null.
    """

    name: Literal["sequential", "parallel", "conditional", "parallel_conditional"]
    width: Width | None
    join: Literal["concat", "sum", "product", "gate"] | None
    routing: Literal["gate", "route"] | None
    routes: dict[str, tuple[Literal["embedding_tower", "interaction_network"], ...]] | None
    expert_hidden: tuple[Width, ...] | None
    head_hidden: tuple[Width, ...]

    def __post_init__(self) -> None:
        """Refuse a knob that the named composition does not have, or lacks."""
        knobs = {"width": self.width, "join": self.join, "routing": self.routing, "routes": self.routes}
        needed = {
            "sequential": set(),
            "parallel": {"width", "join"},
            "conditional": {"width", "routing"} | ({"routes"} if self.routing == "route" else set()),
            "parallel_conditional": {"width", "join"},
        }[self.name]
        require_exactly(f"composition `{self.name}`", knobs, needed)
        if self.expert_hidden is not None and "conditional" not in self.name:
            raise ValueError(f"composition `{self.name}` has no experts; set `expert_hidden` to null")
