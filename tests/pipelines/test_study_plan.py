"""What makes an arm the same arm and a study the same study; what a dry run tells; what is refused before any work."""

from functools import cache
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.config.compose import choices, compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import UsageError
from recsys.progress import silent
from recsys.run import prepare
from recsys.study.plan import StudyGrid, StudyPlan

TUNED = "ablation.tune.trials=2"


@pytest.fixture(scope="module")
def encoded(small_world: list[str]) -> EncodedDataset:
    return prepare.run(compose_config(small_world), silent)


def plan(encoded: EncodedDataset, words: list[str], *more: str) -> StudyPlan:
    return StudyPlan(grid_of((*words, *more)), encoded)


@cache
def grid_of(words: tuple[str, ...]) -> StudyGrid:
    """A grid is composed once: plans only read it."""
    return StudyGrid(words)


def folders(plan: StudyPlan) -> dict[str, Path]:
    return {each.arm.name: each.folder for each in plan.planned()}


@pytest.mark.parametrize(
    "more",
    [
        "ablation.seeds=[0,1,2,3,4]",
        "ablation.grid.training_mode=[end_to_end,frozen_tower,frozen_adapter]",
        "ablation.processes=3",
        "ablation.resamples=10",
        "ablation.processes_per_arm=1",
        "ablation.tune.ranges={training.learning_rate:[0.001,0.1]}",
        "training.checkpoint_every=3",
        "runtime.threads=2",
        "tracking.experiment=elsewhere",
    ],
)
def test_more_seeds_more_values_and_another_machine_extend_the_same_study(
    more: str, encoded: EncodedDataset, small_world: list[str]
):
    before, after = plan(encoded, small_world), plan(encoded, small_world, more)
    assert after.id == before.id
    assert folders(before).items() <= folders(after).items()


@pytest.mark.parametrize(
    "more",
    [
        "training.learning_rate=0.002",
        "training_mode.rates.embedding_tower=0.5",
        "network.dropout=0.1",
        "tower.temperature=0.2",
        "evaluation.ranking=false",
        "ablation.processes_per_arm=2",
        TUNED,
    ],
)
def test_other_settings_make_another_study_of_other_arms(more: str, encoded: EncodedDataset, small_world: list[str]):
    words = [*small_world, "ablation.grid={network:[cross,dot]}", "ablation.contrast=network"]
    words = [word for word in words if not word.startswith("network.hidden")]
    before, after = plan(encoded, words), plan(encoded, words, more)
    assert after.id != before.id
    keys = [{folder.name for folder in folders(each).values()} for each in (before, after)]
    assert not keys[0] & keys[1]


def test_a_setting_on_top_of_a_varied_group_makes_another_study(encoded: EncodedDataset, small_world: list[str]):
    before, after = plan(encoded, small_world), plan(encoded, small_world, "training_mode.name=other")
    assert after.id != before.id


def test_an_arm_keeps_its_folder_when_a_second_value_of_another_axis_changes_its_name(
    encoded: EncodedDataset, small_world: list[str], tmp_path: Path
):
    words = [*small_world, f"runtime.runs={tmp_path}"]
    grid = "ablation.grid={training_mode:[end_to_end,frozen_tower],composition:[%s]}"
    before = folders(plan(encoded, words, grid % "parallel"))
    for folder in before.values():
        folder.mkdir(parents=True)
    after = folders(plan(encoded, words, grid % "parallel,conditional"))
    assert after["frozen/parallel/s0"] == before["frozen/s0"]
    assert after["frozen/conditional/s0"] not in before.values()


def test_a_dry_run_tells_every_arm_and_does_nothing(
    small_world: list[str], encoded: EncodedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["ablate", "--dry-run", *small_world, f"runtime.runs={tmp_path}", TUNED]) == 0
    told = capsys.readouterr().out.partition("Dry run:")[2]
    assert all(name in told for name in ("end-to-end/s0", "end-to-end/s1", "frozen/s0", "frozen/s1"))
    assert "2 conditions, 4 arms: 0 finished, 4 to train" in told
    assert "4 trials come first: 2 for every condition." in told
    assert "no run on these data has finished here yet" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablation.grid={data.seed:[1,2]}"], "`data.seed` cannot be a key of the grid"),
        (["ablation.grid={training_mode:[frozen_tower]}"], "cannot compare 'training_mode'"),
        (["ablation.grid={netwrk:[cross,dot]}", "ablation.contrast=netwrk"], "There is no key `netwrk`"),
        (["ablation.grid={network:[cross,dots]}", "ablation.contrast=network"], "`network=dots` is none of the"),
        ([TUNED, "ablation.tune.seed=1"], "one of `ablation.seeds`"),
        ([TUNED, "ablation.tune.ranges={training.rate:[0.1,1]}"], "`training.rate`, which is a number in no arm's"),
        (
            [TUNED, "ablation.grid={training.learning_rate:[0.001,0.01]}", "ablation.contrast=training.learning_rate"],
            "`training.learning_rate` is varied by the grid and tuned as well",
        ),
        (
            [TUNED, "ablation.tune.ranges={training_mode.rates.embedding_tower:[0.1,1]}"],
            "There is nothing to tune for frozen",
        ),
    ],
)
def test_a_study_that_cannot_be_done_is_refused_before_any_work(words: list[str], message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        StudyGrid(["experiment=smoke", *words])


def test_a_condition_is_tuned_in_the_keys_that_it_has(encoded: EncodedDataset, small_world: list[str]):
    ranges = "{training.learning_rate:[0.0001,0.01],training_mode.rates.embedding_tower:[0.05,1]}"
    searches = plan(encoded, small_world, TUNED, f"ablation.tune.ranges={ranges}").searches()
    assert set(searches["frozen"].ranges) == {"training.learning_rate"}
    assert set(searches["end-to-end"].ranges) == {"training.learning_rate", "training_mode.rates.embedding_tower"}
    assert {search.trials for search in searches.values()} == {2}


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_of_conf_expands_to_arms_that_answer_its_question(experiment: str):
    grid = StudyGrid([f"experiment={experiment}"])
    assert len(grid.arms) == len(grid.conditions) * len(grid.config.ablation.seeds)
    assert grid.questions
