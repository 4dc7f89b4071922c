"""Stages of a run: how much of the embedding tower learns, thawed step by step, as state that a checkpoint carries.

Gradual unfreezing is Howard and Ruder's ("Universal Language Model Fine-tuning for Text Classification", ACL 2018,
section 3.3), who thaw from the last layer down; here that is the dense layers above the tables first. Starting with the
whole pre-trained part frozen lets what stands on it find its place before its gradients may bend what was learned: the
"LP-FT" of Kumar et al. ("Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).

A stage only ever thaws more than the one before it. What was frozen in a stage is proven unchanged when it ends, and
begins to learn with fresh optimizer state and a warm-up of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

from torch import nn

from recsys.errors import DataError, UsageError
from recsys.monitoring.frozen_proof import FrozenProof, frozen_fingerprints
from recsys.sharding.wrap import TableOptimizer
from recsys.training.modes import DELTAS, DENSE, OF_SEGMENTS, TABLES, TOWER, apply_training_mode, learning_halves
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers

LOG_LOSS = "log_loss"
"""The validation figure that stages watch; lower is better."""

LEAST_GAIN = "least_gain"
"""Validation figure: by how much the log loss must fall below the start's to be more than chance."""

Optimizers = tuple[dict[str, DenseOptimizer | None], dict[str, TableOptimizer | None]]
"""By part: its dense optimizer and its tables' one; None where that half of it is frozen."""


@dataclass(frozen=True)
class TrainingStage:
    """One training mode and when it ends: after `steps`, or after `patience` validations in a row without a better log
    loss than the stage's best; the last stage has neither.
    """

    mode: str
    steps: int | None = None
    patience: int | None = None


@dataclass
class StagesState:
    """Which stage a run is in; plain numbers, so that a checkpoint can carry it.

    Attributes:
        stage: counted from 0.
        since: the step at which it began.
        best_log_loss, validations_without_gain: within this stage.
        thawed_at: the step at which a half of the tower, or what lies beside it for segments, began to learn, by the
            optimizers' name of it.
        fingerprints: of what is frozen in this stage, as it was when the stage began.
        proofs: what ended stages proved, by the path of what was frozen.
    """

    stage: int = 0
    since: int = 0
    best_log_loss: float | None = None
    validations_without_gain: int = 0
    thawed_at: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)


def optimizers_in(
    mode: str, dense: Mapping[str, DenseOptimizer | None], tables: Mapping[str, TableOptimizer | None]
) -> Optimizers:
    """Return the optimizers of a mode: those given, less those of what is frozen in it."""
    learning = learning_halves(mode)

    def is_frozen(part: str, half: str) -> bool:
        return (part == TOWER and half not in learning) or (part in DELTAS and OF_SEGMENTS not in learning)

    return (
        {part: None if is_frozen(part, DENSE) else each for part, each in dense.items()},
        {part: None if is_frozen(part, TABLES) else each for part, each in tables.items()},
    )


def require_thawing(stages: Sequence[TrainingStage]) -> None:
    """Refuse stages of an unknown mode, that freeze again what learned, that never end, or that end the last one.

    Raises:
        UsageError: names the stage.
    """
    if not stages:
        raise UsageError("A training mode needs at least one stage.")
    learning = {stage: set(learning_halves(stage.mode)) for stage in stages}
    for earlier, later in pairwise(stages):
        if not learning[earlier] < learning[later]:
            raise UsageError(
                f"Stage `{later.mode}` cannot follow `{earlier.mode}`: a stage must let all learn that learned before, "
                "and more, since what learned once is no pre-trained tower any more."
            )
        if (earlier.steps is None) == (earlier.patience is None):
            raise UsageError(f"Stage `{earlier.mode}` must end either after steps or by patience; give one of them.")
    if stages[-1].steps is not None or stages[-1].patience is not None:
        raise UsageError(f"Stage `{stages[-1].mode}` is the last one and lasts to the end: give it no end of its own.")


class TrainingStages:
    """Brings a wrapped ranker and its optimizers from stage to stage, and proves what was frozen in each unchanged.

    Every process makes one and calls it alike.

    Args:
        ranker: as `wrap_ranker` returned it, in the mode of the first stage; the tables of whatever learns in any stage
            have their update rules attached.
        optimizers: of the first stage.
        dense, tables: what each part learns by where it does.

    Raises:
        UsageError: the stages cannot follow one another.
        TrainingError: what should be frozen could change.
    """

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        stages: Sequence[TrainingStage],
        dense: Mapping[str, DenseOptimizer | None],
        tables: Mapping[str, TableOptimizer | None],
    ) -> None:
        require_thawing(stages)
        self._ranker, self._optimizers, self._stages = ranker, optimizers, tuple(stages)
        self._dense, self._tables = dense, tables
        self.state = StagesState()
        self._begin()

    @property
    def current(self) -> TrainingStage:
        """The present stage."""
        return self._stages[self.state.stage]

    @property
    def is_last(self) -> bool:
        """Whether the stage lasts to the end: only in such a one may early stopping end the run."""
        return self.state.stage == len(self._stages) - 1

    def advance(self, step: int, validation: Mapping[str, float] | None) -> bool:
        """Go to the next stage if the present one ends with this step; return whether it did.

        Args:
            step: steps taken since the run began.
            validation: this step's figures, or None where it did not validate.

        Raises:
            TrainingError: what was frozen in the stage that ends has changed.
        """
        if validation is not None:
            self._note(validation[LOG_LOSS])
        if self.is_last or not self._is_over(step):
            return False
        state = self.state
        proofs = state.proofs | self._proofs(step)
        self.proof.close()
        before = learning_halves(self.current.mode)
        of_segments = tuple(name for part in DELTAS for name in (part, f"{part}_tables"))
        names: dict[str, tuple[str, ...]] = {DENSE: (TOWER,), TABLES: (f"{TOWER}_tables",), OF_SEGMENTS: of_segments}
        following = learning_halves(self._stages[state.stage + 1].mode)
        thawed = [name for half in following if half not in before for name in names[half]]
        thawed_at = state.thawed_at | dict.fromkeys(thawed, step)
        self.state = StagesState(stage=state.stage + 1, since=step, thawed_at=thawed_at, proofs=proofs)
        self._enter()
        self._begin()
        return True

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `go_to` reads back."""
        return asdict(self.state)

    def go_to(self, document: Mapping[str, Any]) -> None:
        """Enter the stage of a checkpoint, before its weights and optimizer state are loaded; then call `confirm`.

        Raises:
            DataError: the stage is none of this run's.
        """
        names = {each.name for each in fields(StagesState)}
        if set(document) != names or not 0 <= document["stage"] < len(self._stages):
            raise DataError(
                f"The saved stage {document.get('stage')} with the keys {sorted(document)} is none of this run's "
                f"{len(self._stages)}; expected the keys {sorted(names)}. Resume with the configuration of the saved "
                "run."
            )
        self.proof.close()
        self.state = StagesState(**document)
        self._enter()

    def confirm(self) -> None:
        """Check that what is frozen is, bit for bit, what it was when its stage began, and watch it from here on.

        Raises:
            DataError: the loaded weights are others.
        """
        found = self._fingerprints()
        if found != self.state.fingerprints:
            expected = self.state.fingerprints
            other = next(path for path in {**expected, **found} if expected.get(path) != found.get(path))
            raise DataError(
                f"`{other}` is frozen since step {self.state.since}, but the loaded weights are not those that it "
                f"had then (digest {found.get(other)}, expected {expected.get(other)}). The checkpoint "
                "was changed, or is of a run that thawed it."
            )
        self.proof = FrozenProof(self._ranker, self._optimizers.local_state)

    def record(self, step: int) -> dict[str, dict[str, Any]]:
        """Return, by path, the proofs of all that was frozen in the stages so far; {} if nothing was.

        Raises:
            TrainingError: what is frozen now has changed.
        """
        return self.state.proofs | self._proofs(step)

    def _proofs(self, step: int) -> dict[str, dict[str, Any]]:
        about = {"mode": self.current.mode, "from_step": self.state.since, "to_step": step}
        return {path: proof | about for path, proof in self.proof.record().items()}

    def _enter(self) -> None:
        mode = self.current.mode
        apply_training_mode(self._ranker, mode)
        self._optimizers.assign(*optimizers_in(mode, self._dense, self._tables), self.state.thawed_at)

    def _begin(self) -> None:
        """Watch what is frozen in the present stage, from its first step on."""
        self.proof = FrozenProof(self._ranker, self._optimizers.local_state)
        self.state.fingerprints = self._fingerprints()

    def _note(self, log_loss: float) -> None:
        state = self.state
        if state.best_log_loss is None or log_loss < state.best_log_loss:
            state.best_log_loss, state.validations_without_gain = log_loss, 0
        else:
            state.validations_without_gain += 1

    def _is_over(self, step: int) -> bool:
        stage, state = self.current, self.state
        if stage.steps is not None:
            return step - state.since >= stage.steps
        return stage.patience is not None and state.validations_without_gain >= stage.patience

    def _fingerprints(self) -> dict[str, str]:
        return frozen_fingerprints(self._ranker, self._optimizers.dense_state())
