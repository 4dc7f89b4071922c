"""The grid of a study: every combination of the listed values and seeds is an arm, and which arms answer a question."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from recsys.config.overrides import literal
from recsys.errors import UsageError
from recsys.files import fingerprint_of

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PLAIN = (str, int, float, bool, type(None))
# Keys in which arms must not differ, as they would no longer be pairs.
_NOT_IN_A_GRID = {
    "training.seed": "seeds are listed in `ablation.seeds`, and every arm is trained with each",
    "training.epochs": "arms would take different numbers of steps, and the longer would win by that alone",
    "training.batch_size": "arms would take different numbers of steps over different batches",
    "training.tower_day_share": "arms would be trained on different rows",
    "training.shuffle_buffer_rows": "arms would read the rows in different orders",
    "training.row_order": "arms would read the rows in different orders",
    "data": "arms would be measured on different rows",
    "evaluation": "arms would be measured in different ways",
    "ablation": "it is the study's, not an arm's",
    "tracking": "it changes nothing of what an arm learns",
    "runtime": "it changes nothing of what an arm learns",
    "daily": "it changes nothing of what an arm learns",
}


@dataclass(frozen=True)
class Arm:
    """One training run of a study.

    Attributes:
        name: what differs from the other arms comes first, as run lists cut the end off: "frozen/conditional/s0".
        condition: the name without the seed; arms of one condition differ in their seed alone.
        choices: config key -> value, for every key of the grid.
        seed: arms of one seed share data order and initial weights, so that they can be compared in pairs.
    """

    name: str
    condition: str
    choices: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Contrast:
    """A question: how does `first` differ from `second`, all else being equal?

    Attributes:
        axis: the one config key in which the two conditions differ.
        first, second: conditions.
        first_value, second_value: their values of `axis`.
        held: what the other varied keys are held at, for both: key -> value.
    """

    axis: str
    first: str
    second: str
    first_value: Any
    second_value: Any
    held: Mapping[str, Any]

    @property
    def circumstance(self) -> str:
        """What is held equal, in words: "composition parallel"; empty where nothing else varies."""
        return ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in self.held.items())


def expand_grid(axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], labels: Mapping[str, str]) -> tuple[Arm, ...]:
    """Every combination of the axes' values with every seed; seeds vary fastest, so that each condition stays together.

    Args:
        axes: config key -> its values, the most telling key first: names begin with it.
        labels: short words for values in names, such as {"frozen_tower": "frozen"}.

    Raises:
        UsageError: the grid is empty, or an axis, value or seed makes no sense or stands twice.

    >>> arms = expand_grid({"training_mode": ["frozen_tower", "end_to_end"], "model": ["cross"]}, [0, 1], {})
    >>> [arm.name for arm in arms]
    ['frozen_tower/s0', 'frozen_tower/s1', 'end_to_end/s0', 'end_to_end/s1']
    """
    _refuse_bad_grid(axes, seeds)
    words = {key: _words(key, values, axes, labels) for key, values in axes.items()}
    # A key with one value tells no arm from another; where nothing varies the first key still names the arm.
    named = [key for key, values in axes.items() if len(values) > 1] or [next(iter(axes))]
    arms: list[Arm] = []
    for places in product(*(range(len(values)) for values in axes.values())):
        place = dict(zip(axes, places, strict=True))
        choices = {key: axes[key][place[key]] for key in axes}
        condition = "/".join(words[key][place[key]] for key in named)
        arms.extend(Arm(f"{condition}/s{seed}", condition, choices, seed) for seed in seeds)
    _refuse_equal_names(arms)
    return tuple(arms)


def study_id(name: str, fingerprint: str, axes: Mapping[str, Sequence[Any]]) -> str:
    """The `ablation_id` that a study and its arms share.

    Neither seeds nor the values of an axis are part of it, so more of them extend the study; another axis makes it
    another one.

    Args:
        fingerprint: of all that the arms have in common: settings, data, code.
    """
    return f"{name}-{fingerprint_of([fingerprint, sorted(axes)])[:8]}"


def contrasts(arms: Sequence[Arm], axis: str) -> tuple[Contrast, ...]:
    """Every pair of conditions that differ in `axis` alone, the axis' earlier value first.

    Raises:
        UsageError: `axis` is no key of the grid or has one value only.
    """
    conditions = {arm.condition: arm.choices for arm in arms}
    keys = list(arms[0].choices)
    varied = [key for key in keys if len({repr(choices[key]) for choices in conditions.values()}) > 1]
    if axis not in varied:
        raise UsageError(
            f"The study cannot compare {axis!r}: keys with two or more values are {', '.join(varied) or 'none'}. "
            "Give it two values in the grid, or compare one of those."
        )
    found = []
    for (first, mine), (second, other) in product(conditions.items(), repeat=2):
        if list(conditions).index(first) >= list(conditions).index(second):
            continue
        if [key for key in keys if mine[key] != other[key]] == [axis]:
            held = {key: mine[key] for key in varied if key != axis}
            found.append(Contrast(axis, first, second, mine[axis], other[axis], held))
    return tuple(found)


def _refuse_bad_grid(axes: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> None:
    if not axes:
        raise UsageError("The grid is empty: list at least one config key with its values under `ablation.grid`.")
    for key, values in axes.items():
        if not _KEY.fullmatch(key):
            raise UsageError(f"Grid key {key!r} is no config key: expected words joined by dots, as in training.seed.")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"Grid key {key} has {values!r}: expected a list of one or more values.")
        for place, reason in _NOT_IN_A_GRID.items():
            if key == place or key.startswith(f"{place}."):
                raise UsageError(f"`{key}` cannot be a key of the grid: {reason}. Take it out of `ablation.grid`.")
        if odd := [value for value in values if not _is_value(value)]:
            raise UsageError(
                f"Grid key {key} has the value {odd[0]!r}: expected words, numbers, lists of numbers, true, false or "
                "null."
            )
        if twice := [value for value in values if [repr(v) for v in values].count(repr(value)) > 1]:
            raise UsageError(f"Grid key {key} lists {twice[0]!r} twice: the same arm would be run twice. Remove one.")
    if not seeds:
        raise UsageError(
            "The grid has no seeds: list one or more under `ablation.seeds`; a verdict needs at least two."
        )
    if bad := [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0]:
        raise UsageError(f"Seed {bad[0]!r} is none: expected whole numbers from 0.")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"Seeds {list(seeds)} hold one twice: the same arm would be run twice. Remove one.")


def _is_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(each, int | float) for each in value)
    return isinstance(value, _PLAIN)


def _words(key: str, values: Sequence[Any], axes: Mapping[str, Sequence[Any]], labels: Mapping[str, str]) -> list[str]:
    """A value's word in names: itself where it is a word that no other key uses, else with the key's last part."""
    others = {value for other, listed in axes.items() if other != key for value in listed if isinstance(value, str)}
    return [
        labels.get(value, value)
        if isinstance(value, str) and value not in others
        else f"{key.rsplit('.', 1)[-1]}={_in_a_name(value)}"
        for value in values
    ]


def _in_a_name(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else literal(value)


def _refuse_equal_names(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"Two arms would be named {twice[0]!r}: give their values different words under `labels`.")
