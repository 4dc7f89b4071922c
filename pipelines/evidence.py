"""What a run keeps to prove how it learned: who stepped which parameter, and that what was frozen stood still."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.console import console, show_table
from recsys.errors import TrainingError
from recsys.tracking import names
from recsys.tracking.run import TrackedRun
from recsys.training.contract import (
    SUMMARY_HEADER,
    ParameterContract,
    contract_document,
    contract_summary,
    shared_parameters,
)
from recsys.training.snapshot import BestWeights


def attach_contract(tracked: TrackedRun, lines: Sequence[ParameterContract], *, is_shown: bool) -> None:
    """Attach the optimizer contract for people and for programs, and print its summary."""
    tracked.attach("optimizer_contract.md", contract_document(lines))
    tracked.attach("optimizer_contract.json", json.dumps([asdict(line) for line in lines], indent=1))
    if is_shown:
        show_table("Who steps what", SUMMARY_HEADER, contract_summary(lines))
        for sentence in shared_parameters(lines):
            console.print(f"Shared: {sentence}", markup=False)


def restore_proven(tracked: TrackedRun, record: Callable[[], dict[str, Any]], best: BestWeights) -> dict[str, Any]:
    """Go back to the best weights; attach and return the proof that nothing frozen moved on the way or by that.

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
        tracked.set_tags({names.TAG_FROZEN_PROOF: "did not stand still"})
        raise
    if proof:
        tracked.attach("frozen_proof.json", json.dumps(proof, indent=2))
        tracked.set_tags({names.TAG_FROZEN_PROOF: "stood still"})
    return proof
