"""A study's knobs: its grid and seeds, how its arms are tuned, how many run at once, and when a difference counts."""

from typing import Literal

from recsys.config.knobs import Name, NonNegativeInt, PositiveFloat, PositiveInt, Processes, Seed, checked_dataclass

GridValue = str | int | float | bool | None | tuple[int, ...]


@checked_dataclass
class TuneConfig:
    """A budget of trials for every condition of the grid, spent on validation before its arms are trained.

    `ranges` are config keys with the lowest and the highest value to try, searched on a logarithmic scale, or null to
    leave a key alone; a condition whose configuration lacks a key is tuned in the others. The first of `trials` takes
    the values as configured, the rest are drawn by `sampler` (Bergstra et al., "Algorithms for Hyper-Parameter
    Optimization", NeurIPS 2011, or at random). All train with `seed`, so that no seed of the study is favoured. 0
    trials tune nothing.
    """

    trials: NonNegativeInt
    sampler: Literal["tpe", "random"]
    seed: Seed
    ranges: dict[str, tuple[PositiveFloat, PositiveFloat] | None]

    def __post_init__(self) -> None:
        """Refuse a budget with nothing to spend it on, and a range that holds nothing."""
        if self.trials and not self.searched:
            raise ValueError(
                "`ablation.tune.trials` has nothing to tune; give `ablation.tune.ranges`, such as "
                "{training.learning_rate: [0.0003, 0.01]}"
            )
        for key, (low, high) in self.searched.items():
            if low >= high:
                raise ValueError(f"`ablation.tune.ranges` gives `{key}` from {low:g} to {high:g}; expected low < high")

    @property
    def searched(self) -> dict[str, tuple[float, float]]:
        """The ranges that are."""
        return {key: both for key, both in self.ranges.items() if both is not None}


@checked_dataclass
class AblationConfig:
    """The grid: config key -> values; every combination is a condition, and an arm of it is trained per seed.

    `contrast` is the key whose effect is asked. `processes` is how many arms run at once, null for as many as the cores
    or GPUs carry; the result is the same for any number. `processes_per_arm` is how many processes of this machine
    train an arm together, as torchrun starts them; arms of another number are other arms.
    """

    name: Name
    grid: dict[str, tuple[GridValue, ...]]
    seeds: tuple[Seed, ...]
    contrast: str
    margin: PositiveFloat
    resamples: PositiveInt
    processes: Processes | None
    processes_per_arm: Processes
    tune: TuneConfig
