"""The training mode's knobs: what of the tower learns and from when, at which share of the rates, and its adapter."""

from typing import Literal

from recsys.config.knobs import Name, PositiveFloat, PositiveInt, Width, checked_dataclass

StageName = Literal["frozen_tower", "by_segment", "tower_tables", "tower_dense", "end_to_end"]
Rung = Literal["frozen", "adapter", "tables", "dense", "all"]
RateName = Literal[
    "embedding_tower",
    "embedding_tower_tables",
    "embedding_tower_dense",
    "interaction_network",
    "interaction_network_tables",
    "interaction_network_dense",
    "tower_adapters",
    "tower_copies",
    "tower_copies_tables",
    "tower_copies_dense",
    "composition",
    "head",
]
OTHERS = "others"
"""Stands, among `rungs`, for every segment that is not named."""

_BY_SEGMENT = "by_segment"
_LADDER = {"frozen_tower": 0, _BY_SEGMENT: 1, "tower_tables": 1, "tower_dense": 1, "end_to_end": 2}
# Stages in which a half of the tower learns, or what segments learn of it does.
_LEARNING = {
    "embedding_tower": {"tower_tables", "tower_dense", "end_to_end"},
    "embedding_tower_tables": {"tower_tables", "end_to_end"},
    "embedding_tower_dense": {"tower_dense", "end_to_end"},
    "tower_adapters": {_BY_SEGMENT},
    "tower_copies": {_BY_SEGMENT},
    "tower_copies_tables": {_BY_SEGMENT},
    "tower_copies_dense": {_BY_SEGMENT},
}


@checked_dataclass
class StageEndConfig:
    """When a stage ends, by one of: so many steps or epochs after it began, or so many validations in a row without a
    better log loss than the stage's best.
    """

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    patience: PositiveInt | None = None

    def __post_init__(self) -> None:
        """Refuse two ends, or none."""
        given = [name for name in ("steps", "epochs", "patience") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a stage ends by one of steps, epochs and patience; found {' and '.join(given) or 'none'}. Give one"
            )


@checked_dataclass
class MaxDriftConfig:
    """How far the tower's item vectors may move from those that the run began with.

    `measure` is a mean over the items of the training rows, each weighted by its rows: `cosine_distance`, 1 - the
    cosine of a vector with its original (0 to 2); `neighbours_lost`, the share of its 10 nearest neighbours that are
    others now; or `norm_change`, by how much its length changed, as a share of the longer of the two. It is taken at
    every validation. Beyond `limit`, `stop` ends the run as failed, and `warn` lets it finish and tags it; a scheduled
    run's model is not promoted then.
    """

    measure: Literal["cosine_distance", "neighbours_lost", "norm_change"]
    limit: PositiveFloat
    action: Literal["stop", "warn"]


@checked_dataclass
class TrainingModeConfig:
    """What of the embedding tower learns, and how fast every part does.

    `stages` are named by what learns of the tower (nothing, its tables, its dense layers, all of it) and follow one
    another from less to more, each until its end; the last one has none (null). `rates` are shares of the training's
    learning rates: of a part, or of its tables or dense layers alone, which goes before the part's; whatever is not
    named has 1 (the discriminative rates of Howard and Ruder, ULMFiT, ACL 2018, section 3.2). `adapter_rank` is that of
    a low-rank layer on the output of a tower that is frozen to the end, null for none. While the whole tower is frozen
    its vectors are kept in up to `cache_megabytes`, null for none. `max_drift` limits how far a tower that learns may
    move, null for no limit.

    In the stage `by_segment` the tower is frozen, and `rungs` say what each user segment learns beside it: nothing
    (`frozen`), an adapter of `adapter_rank` of its own, or a copy of the tower, in which its tables, its dense layers
    or all learn and which the segments of one rung share. `others` is every segment that is not named.
    """

    name: Name
    stages: dict[StageName, StageEndConfig | None]
    rates: dict[RateName, PositiveFloat]
    rungs: dict[str, Rung]
    adapter_rank: Width | None
    cache_megabytes: PositiveInt | None
    max_drift: MaxDriftConfig | None

    def __post_init__(self) -> None:
        """Refuse stages that do not follow one another, and a knob that has nothing to turn."""
        order = self.stages_in_order()
        steps = [_LADDER[stage] for stage, _ in order]
        names = [stage for stage, _ in order]
        if not order or len(set(steps)) < len(steps) or _BY_SEGMENT in names[:-1]:
            raise ValueError(
                f"training mode `{self.name}` has the stages {[*self.stages]}; expected one or more of which each lets "
                "more of the tower learn than the one before: frozen_tower, then tower_tables or tower_dense, then "
                "end_to_end; or frozen_tower, then by_segment"
            )
        for stage, end in order[:-1]:
            if end is None:
                raise ValueError(f"stage `{stage}` is not the last one and needs an end: steps, epochs or patience")
        last, end = order[-1]
        if end is not None:
            raise ValueError(f"stage `{last}` is the last one and lasts to the end of the run; set it to null")
        for half, learning in _LEARNING.items():
            if half in self.rates and last not in learning:
                raise ValueError(f"`{half}` never learns in training mode `{self.name}`; take its rate out")
        self._require_rungs_that_fit(last)
        if self.cache_megabytes is not None and order[0][0] not in ("frozen_tower", _BY_SEGMENT):
            raise ValueError(
                f"training mode `{self.name}` has no `cache_megabytes`: its tower is never frozen; set it to null"
            )
        if self.max_drift is not None and not self.moves_tower:
            raise ValueError(f"training mode `{self.name}` never moves the tower; set `max_drift` to null")

    @property
    def moves_tower(self) -> bool:
        """Whether some of the tower learns in some stage."""
        return self.stages_in_order()[-1][0] not in ("frozen_tower", _BY_SEGMENT)

    def _require_rungs_that_fit(self, last: str) -> None:
        if bool(self.rungs) != (last == _BY_SEGMENT):
            raise ValueError(
                f"training mode `{self.name}` ends with the stage `{last}` and has "
                f"{'rungs' if self.rungs else 'no rungs'}; `rungs` are what the stage `by_segment` learns, and go with "
                "it alone"
            )
        if last == _BY_SEGMENT:
            if "adapter" in self.rungs.values() and self.adapter_rank is None:
                raise ValueError(
                    "a segment has the rung `adapter`, and `adapter_rank` is null; expected a whole number"
                )
        elif self.adapter_rank is not None and last != "frozen_tower":
            raise ValueError("`adapter_rank` is for a tower that is frozen to the end; set it to null")

    def stages_in_order(self) -> list[tuple[str, StageEndConfig | None]]:
        """The stages with their ends, from the one in which least learns."""
        return sorted(self.stages.items(), key=lambda stage: _LADDER[stage[0]])
