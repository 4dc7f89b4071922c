"""Arms that were not compared like with like are refused by name; what may differ is named with its reason."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from recsys.ablation.arms import Arm
from recsys.ablation.pairing import RunRecord, held_equal
from recsys.errors import TrainingError

WEIGHTS = {"embedding_tower.ebc.t": "(3, 4) aa", "composition.gate": "(2,) bb", "head.weight": "(1, 4) cc"}
RECORD = RunRecord(WEIGHTS, "rows-s0", ("b1", "b2", "b3"), budget_steps=80, steps=80, rows_seen=800, ended="budget")


@dataclass(frozen=True)
class TrainedArm:
    arm: Arm
    record: RunRecord


def run(mode: str, composition: str = "parallel", seed: int = 0, **record: Any) -> TrainedArm:
    name = f"{mode}/{composition}"
    choices = {"training_mode": mode, "composition": composition}
    return TrainedArm(Arm(f"{name}/s{seed}", name, choices, seed), replace(RECORD, **record))


def table(*runs: TrainedArm) -> dict[str, tuple[bool, str]]:
    return {line.what: (line.is_equal, line.detail) for line in held_equal(runs)}


def test_pairs_that_share_everything_say_what_was_checked():
    found = table(run("frozen"), run("end_to_end"))
    assert all(is_equal for is_equal, _ in found.values())
    assert found["Budget"] == (True, "80 steps for every arm")
    assert "digests of the first 3 batches" in found["Rows and their order"][1]
    assert found["First weights of `head`"] == (True, "all 1 tensors the same in every arm of a seed")
    assert found["Steps and rows seen"] == (True, "80 steps over 800 rows each")


def test_other_seeds_may_start_elsewhere_and_read_in_another_order():
    other = {"weights": dict.fromkeys(WEIGHTS, "(1,) zz"), "rows": "rows-s1", "first_batches": ("c1", "c2", "c3")}
    runs = [run(mode, seed=seed, **(other if seed else {})) for seed in (0, 1) for mode in ("frozen", "end_to_end")]
    assert all(line.is_equal for line in held_equal(runs))


def test_other_first_weights_without_a_reason_are_refused_with_arms_and_tensor():
    moved = {**WEIGHTS, "head.weight": "(1, 4) xx"}
    with pytest.raises(
        TrainingError, match=r"frozen/parallel/s0 and end_to_end/parallel/s0 .* 1 tensors of `head` .*head"
    ):
        held_equal([run("frozen"), run("end_to_end", weights=moved)])


def test_a_training_mode_accounts_for_no_weights_but_an_adapter():
    adapter = {**WEIGHTS, "composition.tower_adapter.up.weight": "(4, 2) dd"}
    found = table(run("frozen"), run("frozen_adapter", weights=adapter))
    assert found["First weights of `composition`"] == (
        False,
        "it follows from training_mode; arms of a seed that agree in that share all of it",
    )
    moved = {**adapter, "composition.gate": "(2,) xx"}
    with pytest.raises(TrainingError, match="did not start from the same weights"):
        held_equal([run("frozen"), run("frozen_adapter", weights=moved)])


def test_a_composition_accounts_for_its_own_weights_and_not_for_the_towers():
    other = {**WEIGHTS, "composition.gate": "(9,) xx"}
    found = table(run("frozen"), run("frozen", "conditional", weights=other))
    assert not found["First weights of `composition`"][0]
    assert found["First weights of `embedding_tower`"][0]
    with pytest.raises(TrainingError, match=r"tensors of `embedding_tower` differ"):
        held_equal([run("frozen"), run("frozen", "conditional", weights={**WEIGHTS, "embedding_tower.ebc.t": "x"})])


def test_the_keys_that_a_part_follows_from_are_named_once_each():
    def weights(composition: str, tower: str) -> dict[str, str]:
        return {**WEIGHTS, "composition.gate": f"(2,) {composition}{tower}"}

    runs = [
        TrainedArm(Arm(f"{c}/{t}/s0", f"{c}/{t}", {"composition": c, "tower": t, "training_mode": "x"}, 0), record)
        for c in ("parallel", "conditional")
        for t in ("small", "big")
        for record in [replace(RECORD, weights=weights(c, t))]
    ]
    found = table(*runs)["First weights of `composition`"]
    assert found == (False, "it follows from composition and tower; arms of a seed that agree in that share all of it")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"budget_steps": 90}, r"frozen/parallel/s0 was given 80 steps and end_to_end/parallel/s0 90"),
        ({"rows": "others"}, r"did not read the same rows in the same order.*rows-s0 and others"),
        ({"first_batches": ("b1", "XX", "b3")}, r"got different rows in step 2"),
    ],
)
def test_another_budget_or_other_rows_are_refused_with_both_arms(record: dict[str, Any], words: str):
    with pytest.raises(TrainingError, match=words):
        held_equal([run("frozen"), run("end_to_end", **record)])


def test_early_stopping_is_a_difference_that_is_named():
    found = table(run("frozen"), run("end_to_end", steps=60, rows_seen=600, ended="patience"))
    is_equal, detail = found["Steps and rows seen"]
    assert not is_equal
    assert "in end_to_end/parallel/s0 after 60 (600 rows), of 80" in detail
    sentence = next(line for line in held_equal([run("a"), run("b", steps=6, ended="patience")]) if not line.is_equal)
    assert sentence.sentence().startswith("Steps and rows seen differ: ")
