"""The proof of how a run learned: which optimizer steps which parameter, and that frozen parts are unchanged."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from recsys.errors import TrainingError
from recsys.tracking import names
from recsys.tracking.run import TrackedRun
from recsys.training.optimizer import RankerOptimizers
from recsys.training.optimizer_contract import (
    contract_document,
    contract_summary,
    shared_parameters,
)
from recsys.training.snapshot import BestWeights
from recsys.training.stages import TrainingStages


class StageContracts:
    """Attaches the optimizer contract of each stage of a run, once, for people and for programs.

    Attributes:
        summaries: one a stage, as `RunResult.optimizers` keeps them.
    """

    def __init__(self, stages: TrainingStages, optimizers: RankerOptimizers) -> None:
        self._stages, self._optimizers = stages, optimizers
        self._attached: int | None = None
        self.summaries: list[dict[str, Any]] = []

    def attach(self, tracked: TrackedRun) -> None:
        """Attach the present stage's, unless it was; that of a stage after the first has its number in its name."""
        stage = self._stages.state.stage
        if stage == self._attached:
            return
        self._attached = stage
        lines = self._optimizers.contract()
        suffix = f"_stage_{stage}" if stage else ""
        tracked.attach(f"optimizer_contract{suffix}.md", contract_document(lines))
        tracked.attach(f"optimizer_contract{suffix}.json", json.dumps([asdict(line) for line in lines], indent=1))
        mode, rows = self._stages.current.mode, [list(row) for row in contract_summary(lines)]
        self.summaries.append({"stage": stage, "mode": mode, "rows": rows, "shared": shared_parameters(lines)})


def restore_proven(tracked: TrackedRun, record: Callable[[], dict[str, Any]], best: BestWeights) -> dict[str, Any]:
    """Go back to the best weights; attach and return the proof that frozen parts are unchanged, by that as well.

    Args:
        record: compares what is frozen with how it began, such as `FrozenProof.record`.

    Raises:
        TrainingError: something did; the run is tagged with it.
    """
    try:
        record()
        best.restore()
        proof = record()  # once more: what is measured and served from now on are the weights put back
    except TrainingError:
        tracked.set_tags({names.TAG_FROZEN_PROOF: "changed"})
        raise
    if proof:
        tracked.attach("frozen_proof.json", json.dumps(proof, indent=2))
        tracked.set_tags({names.TAG_FROZEN_PROOF: "unchanged"})
    return proof
