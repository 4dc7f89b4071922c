"""Were two arms compared like with like? What they shared, by evidence that each run recorded of itself.

A difference between two arms of one seed is that of the key in which they differ only if all else was equal: the
weights that both start from, the rows and their order, the number of steps. Every run keeps digests of these. Here they
are laid side by side, seed by seed. What must be equal and is not makes the comparison void; what may differ is named
with its reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any, Protocol

from recsys.ablation.arms import Arm
from recsys.errors import TrainingError

# Part of the ranker -> the groups of the configuration that its first weights follow from, beside the seed.
_FOLLOWS_FROM = {
    "embedding_tower": ("tower",),
    "interaction_network": ("network", "composition", "tower"),
    "composition": ("composition", "network", "tower"),
    "head": ("composition", "network", "tower"),
}
# The modules that a training mode adds; they are drawn last and change no other weight.
_ADDED = ("composition.tower_adapter.", "tower_adapters.", "tower_copies.")
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class RunRecord:
    """What a run started from, read first, and took of its budget.

    Attributes:
        weights: every tensor of the ranker before the first step, by name: its shape and a digest of its bits.
        rows: a fingerprint of which rows are read in which order: files, seed, shuffle, batch size.
        first_batches: a digest of each of the first batches as the ranker got them.
        budget_steps: the steps that it was given.
        steps, rows_seen: those that it took.
        ended: "budget" or "patience".
    """

    weights: Mapping[str, str]
    rows: str
    first_batches: Sequence[str]
    budget_steps: int
    steps: int
    rows_seen: int
    ended: str

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `RunRecord(**document)` reads back."""
        return asdict(self)


class PairedArm(Protocol):
    """A finished arm as the check sees it."""

    @property
    def arm(self) -> Arm:
        """What it was planned as."""

    @property
    def record(self) -> RunRecord:
        """What its run kept."""


@dataclass(frozen=True)
class HeldEqual:
    """A line of the table of what was held equal.

    Attributes:
        is_equal: whether it was the same in all arms of a seed.
        detail: the evidence, or what differs, between which arms, and why.
    """

    what: str
    is_equal: bool
    detail: str

    def sentence(self) -> str:
        """The line as a sentence.

        >>> HeldEqual("Steps", False, "80 in frozen/s0, 60 in end-to-end/s0").sentence()
        'Steps differ: 80 in frozen/s0, 60 in end-to-end/s0.'
        """
        return f"{self.what}{': ' if self.is_equal else ' differ: '}{self.detail}."


def held_equal(runs: Sequence[PairedArm]) -> tuple[HeldEqual, ...]:
    """Check what arms of one seed must share, and say what they shared and what not.

    Raises:
        TrainingError: a pair is none: names the two arms and in what they differ without cause.
    """
    by_seed: dict[int, list[PairedArm]] = {}
    for run in runs:
        by_seed.setdefault(run.arm.seed, []).append(run)
    pairs = [(first, other) for group in by_seed.values() for first, other in pairwise(group)]
    for first, other in pairs:
        _require_equal_budget(first, other)
        _require_equal_rows(first, other)
    return (_budgets(runs), _rows(runs), *_weights(by_seed), _steps(runs))


def _require_equal_budget(first: PairedArm, other: PairedArm) -> None:
    mine, theirs = first.record.budget_steps, other.record.budget_steps
    if mine != theirs:
        raise TrainingError(
            f"{first.arm.name} was given {mine} steps and {other.arm.name} {theirs}: the longer would win by that "
            "alone. Keep `training.epochs` and `training.batch_size` out of the grid, or compare such arms in a study "
            "of their own."
        )


def _require_equal_rows(first: PairedArm, other: PairedArm) -> None:
    if first.record.rows != other.record.rows:
        raise TrainingError(
            f"{first.arm.name} and {other.arm.name} did not read the same rows in the same order: their streams have "
            f"the fingerprints {first.record.rows} and {other.record.rows}. Remove both folders, so that they are "
            "trained anew from the same prepared data."
        )
    both = zip(first.record.first_batches, other.record.first_batches, strict=False)
    for number, (mine, theirs) in enumerate(both):
        if mine != theirs:
            raise TrainingError(
                f"{first.arm.name} and {other.arm.name} got different rows in step {number + 1}, though their streams "
                f"are the same by their settings (digests {mine} and {theirs}). This is a bug of ours; please report "
                "it."
            )


def _budgets(runs: Sequence[PairedArm]) -> HeldEqual:
    return HeldEqual("Budget", True, f"{runs[0].record.budget_steps:,} steps for every arm")


def _rows(runs: Sequence[PairedArm]) -> HeldEqual:
    checked = min(len(run.record.first_batches) for run in runs)
    return HeldEqual(
        "Rows and their order",
        True,
        "arms of one seed read the same files in the same order, by the fingerprint of their streams and by digests of "
        f"the first {checked} batches",
    )


def _weights(by_seed: Mapping[int, Sequence[PairedArm]]) -> list[HeldEqual]:
    """A line per part of the ranker: the same in all arms of each seed, or which keys it follows from."""
    lines = []
    parts = dict.fromkeys(name.split(".")[0] for group in by_seed.values() for name in group[0].record.weights)
    for part in parts:
        compared = [_compared(part, *pair) for group in by_seed.values() for pair in combinations(group, 2)]
        tensors = max((same for same, _ in compared), default=0)
        keys = _fewest({causes for _, causes in compared if causes})
        what = f"First weights of `{part}`"
        if keys:
            detail = f"it follows from {' and '.join(keys)}; arms of a seed that agree in that share all of it"
            lines.append(HeldEqual(what, False, detail))
        else:
            lines.append(HeldEqual(what, True, f"all {tensors} tensors the same in every arm of a seed"))
    return lines


def _fewest(causes: set[tuple[str, ...]]) -> list[str]:
    """Keys of which every pair that differs has one among its causes, beginning with those that alone made a pair
    differ.
    """
    keys: list[str] = []
    for cause in sorted(causes, key=lambda cause: (len(cause), cause)):
        if not set(cause) & set(keys):
            keys.extend(cause)
    return keys


def _compared(part: str, first: PairedArm, other: PairedArm) -> tuple[int, tuple[str, ...]]:
    """How many tensors of the part are the same in both, and the keys that account for others that are not.

    Raises:
        TrainingError: others are not without a reason.
    """
    mine, theirs = (
        {name: digest for name, digest in run.record.weights.items() if name.split(".")[0] == part}
        for run in (first, other)
    )
    differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    same = len(mine.keys() & theirs.keys()) - len([name for name in differing if name in mine and name in theirs])
    if not differing:
        return same, ()
    groups = _FOLLOWS_FROM.get(part, ())
    if all(name.startswith(_ADDED) for name in differing):
        groups = (*groups, "training_mode")
    varied = [key for key, value in first.arm.choices.items() if value != other.arm.choices.get(key)]
    causes = [key for key in varied if key.split(".")[0] in groups]
    if not causes:
        shown = ", ".join(differing[:_NAMES_SHOWN]) + (", ..." if len(differing) > _NAMES_SHOWN else "")
        raise TrainingError(
            f"{first.arm.name} and {other.arm.name} did not start from the same weights: {len(differing)} tensors of "
            f"`{part}` differ ({shown}), and none of {', '.join(varied) or 'their choices'} accounts for it. Remove "
            "both folders, so that they are trained anew; if it happens again, it is a bug of ours."
        )
    return same, tuple(causes)


def _steps(runs: Sequence[PairedArm]) -> HeldEqual:
    """Every arm took its whole budget, or the early ones are named."""
    budget = runs[0].record.budget_steps
    early = [run for run in runs if run.record.ended == "patience"]
    if not early:
        rows = sorted({run.record.rows_seen for run in runs})
        seen = " or ".join(f"{number:,}" for number in rows)
        return HeldEqual("Steps and rows seen", True, f"{budget:,} steps over {seen} rows each")
    named = ", ".join(f"{run.arm.name} after {run.record.steps:,} ({run.record.rows_seen:,} rows)" for run in early)
    return HeldEqual(
        "Steps and rows seen",
        False,
        f"validation stopped improving in {named}, of {budget:,}; the best weights were measured in every arm",
    )
