"""A training in stages, and one of weighted rows, are the same on two processes as on one: losses, norms, counts."""

from pathlib import Path
from typing import Any

import numpy as np

from recsys.sharding.processes import ProcessContext
from tests.method.world_size_cases import SIMULATED, curves_of
from tests.pipelines.conftest import small_overrides
from tests.sharding.two_processes import run_in_two

# An epoch has 12 steps, the last of an odd number of rows; `tests/benchmarks/world_sizes.py` has every case.
CASES, STEPS, BATCH = ("staged_tables_first, conditional", "by_segment, weighted rows, epnet"), 16, 84


def curves(context: ProcessContext, words: list[str], root: str) -> dict[str, Any]:
    return {case: curves_of(context, case, words, root, STEPS, BATCH) for case in CASES}


def test_losses_norms_and_counts_are_those_of_one_process_in_every_step(tmp_path: Path, context: ProcessContext):
    words = [*small_overrides(tmp_path / SIMULATED), "data.rows=1202"]
    alone = curves(context, words, str(tmp_path))

    first, second = run_in_two(curves, tmp_path, words, str(tmp_path))

    for case in CASES:
        mine, ours = alone[case], first[case]
        np.testing.assert_allclose(ours["loss"], mine["loss"], rtol=1e-5, err_msg=case)
        np.testing.assert_allclose(ours["norm"], mine["norm"], rtol=1e-5, err_msg=case)
        assert second[case]["loss"] == ours["loss"]
        for counted in ("rows", "stage", "proof"):
            assert ours[counted] == second[case][counted] == mine[counted]
    assert len(set(alone[CASES[0]]["stage"])) > 1
    # Rows of the last step are shared unevenly.
    assert any(step % BATCH for step in np.diff(alone[CASES[0]]["rows"]))
