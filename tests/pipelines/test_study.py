"""A whole study on a tiny world: arms, proof, comparison, record."""

import argparse
import json
import re
from pathlib import Path

import pytest

from pipelines import train as train_command
from recsys.ablation.comparison import Comparison
from recsys.ablation.least_change import Grounds, LeastChange
from recsys.config.compose import compose_config
from recsys.errors import TrainingError, UsageError
from recsys.progress import silent
from recsys.run.folder import load_config, load_result
from recsys.run.record import open_store
from recsys.study import ablate, from_study
from recsys.tracking import names
from recsys.tracking.studies import find_study
from tests.recorded import metric_history, recorded_table


@pytest.fixture(scope="module")
def study(small_world: list[str]) -> ablate.FinishedStudy:
    return ablate.run(small_world, silent)


@pytest.fixture(scope="module")
def arms(small_world: list[str], study: ablate.FinishedStudy):
    return recorded_table(open_store(compose_config(small_world)), study.id).set_index("name")


def test_every_arm_of_the_grid_is_a_finished_run_of_its_own_with_the_studys_id(arms):
    assert sorted(arms.index) == ["end-to-end/s0", "end-to-end/s1", "frozen/s0", "frozen/s1"]
    assert set(arms["tag.kind"]) == {"arm"}
    assert arms["tag.ablation_id"].nunique() == 1


def test_arms_have_the_same_params_so_that_they_line_up(arms):
    params = arms.filter(like="param.")
    assert not params.isna().any().any()
    assert set(params["param.training_mode"]) == {"end_to_end", "frozen_tower"}
    assert set(params["param.data"]) == {"simulated"}


def test_a_frozen_towers_gradient_norm_is_logged_as_zero_and_a_learning_ones_is_not(small_world, arms):
    store = open_store(compose_config(small_world))
    frozen, learning = (
        metric_history(store, arms.loc[name, "run_id"], names.grad_norm("embedding_tower")).value
        for name in ("frozen/s0", "end-to-end/s0")
    )
    assert len(frozen) == len(learning) > 0
    assert (frozen == 0).all()
    assert (learning > 0).all()


def test_the_frozen_arms_carry_the_proof_that_their_tower_is_unchanged(study):
    for each in study.arms:
        if each.arm.choices["training_mode"] == "frozen_tower":
            proof = each.result.frozen_proof["embedding_tower"]
            assert proof["is_unchanged"]
            assert proof["digest_before"] == proof["digest_after"]
        else:
            assert each.result.frozen_proof == {}


def test_the_studys_own_run_tells_the_verdict_and_holds_the_report(small_world, study):
    runs = recorded_table(open_store(compose_config(small_world)), study.id, kind="study")
    assert len(runs) == 1
    assert runs["tag.verdict"][0] == study.verdict
    assert study.verdict
    report = (study.folder / "report.md").read_text()
    sentences = re.split(r"(?<=\.) (?=[A-Z])", study.verdict)
    assert len(sentences) > 3
    assert [sentence for sentence in sentences if sentence not in report] == []
    assert "frozen" in report


def test_params_of_arms_differ_in_what_the_arms_differ_in_and_nothing_else(arms):
    params = arms.filter(like="param.").loc[["end-to-end/s0", "frozen/s0"]]
    differing = {name.removeprefix("param.") for name in params if params[name].nunique() > 1}
    assert {name.partition(".")[0] for name in differing} == {"arm", "training_mode"}
    assert not [name for name in arms if name.startswith("param.ablation.") and name != "param.ablation.name"]


def planted_choices() -> list[LeastChange]:
    """Students decide for themselves, families have not enough evidence, and the others take what all rows say."""
    decided = {"all": "frozen_tower", "students": "end_to_end"}
    found = [LeastChange(segment, mode, mode, Grounds.ONLY_BEST, None, None, None) for segment, mode in decided.items()]
    return [*found, LeastChange("families", "end_to_end", "end_to_end", Grounds.OPEN, 0.1, -0.1, 0.3)]


# What the choice is made by.
chosen_by: list[Comparison] = []


@pytest.fixture(scope="module")
def mixed(small_world: list[str], study: ablate.FinishedStudy) -> from_study.MixedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_study, "least_changes", lambda found, *_: chosen_by.extend(found) or planted_choices())
        return from_study.run(study.id, small_world, silent)


def test_a_segment_without_enough_evidence_takes_the_choice_for_all_rows(mixed):
    assert mixed.rungs == {"students": "all", "commuters": "frozen", "families": "frozen", "collectors": "frozen"}


def test_the_mixed_model_is_trained_with_every_seed_of_the_study_and_its_tower_proven_unchanged(mixed, study):
    assert len(mixed.folders) == len({load_config(folder).training.seed for folder in mixed.folders}) > 1
    for folder in mixed.folders:
        assert load_config(folder).training_mode.rungs == mixed.rungs
        assert load_result(folder).frozen_proof["embedding_tower"]["is_unchanged"]


def test_it_is_judged_on_test_rows_against_both_uniform_modes(mixed):
    assert [each.contrast.second_value for each in mixed.comparisons] == ["frozen_tower", "end_to_end"]
    for each in mixed.comparisons:
        overall = each.find("auc")
        assert overall.seeds == len(mixed.folders)
        assert overall.low <= overall.difference <= overall.high


def test_the_studys_page_shows_the_path_from_table_to_choice_to_result(mixed, study):
    page = (study.folder / "report.md").read_text()
    titles = ["The least change that does the job", "From the verdict to a model", "Chosen on validation rows"]
    places = [page.index(title) for title in [*titles, "The mixed model on test rows"]]
    assert places == sorted(places)


def test_the_choice_is_made_by_validation_rows(mixed, study):
    (comparison,), (on_test,) = chosen_by, study.comparisons
    assert comparison.contrast == on_test.contrast
    assert comparison.find("auc").first_mean != on_test.find("auc").first_mean
    kept = {path.parent.name for path in study.folder.glob("*/validation_predictions")}
    assert kept == {each.folder.name for each in study.arms}


def test_a_study_that_is_not_there_is_named(small_world, study):
    with pytest.raises(UsageError, match=f"no finished study `lost` in .*; there is {study.id}"):
        from_study.run("lost", small_world, silent)


def test_a_finished_arm_is_not_trained_again_and_a_new_seed_is(small_world, study):
    def stamps(folder: Path) -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}

    before = stamps(study.folder)
    again = ablate.run([*small_world, "ablation.seeds=[0,1,2]"], silent)
    after = stamps(study.folder)
    assert again.folder == study.folder
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_what_was_held_equal_is_checked_and_kept_with_the_study(study):
    held = {line["what"]: line for line in json.loads((study.folder / "held_equal.json").read_text())}
    assert all(line["is_equal"] for line in held.values())
    assert "the same in every arm of a seed" in held["First weights of `interaction_network`"]["detail"]
    assert "Rows and their order" in (study.folder / "report.md").read_text()


def test_arms_that_did_not_start_from_the_same_weights_are_refused_by_name(small_world, study):
    path = next(each.folder for each in study.arms if each.arm.name == "frozen/s1") / "result.json"
    written = path.read_text()
    document = json.loads(written)
    document["record"]["weights"]["head.layers.0.weight"] = "(1,) 0000"
    path.write_text(json.dumps(document))
    try:
        with pytest.raises(TrainingError, match=r"end-to-end/s1 and frozen/s1 did not start from the same weights"):
            ablate.run(small_world, silent)
    finally:
        path.write_text(written)


def test_an_arms_costs_stand_in_its_result_its_row_and_its_run(study, arms):
    for each in study.arms:
        cost = each.result.cost
        assert 0 < cost.cpu_seconds < 10 * cost.wall_seconds
        assert cost.peak_memory_bytes > 10**8
        assert cost.energy_joules is not None or cost.energy_source.startswith("absent: ")
        assert each.costs()["peak_memory_bytes"] == cost.peak_memory_bytes
        assert arms.loc[each.arm.name, "metric.cost/cpu_seconds"] == pytest.approx(cost.cpu_seconds)


def test_the_newest_study_is_found_again_for_the_page_that_shows_it(small_world, study):
    assert find_study(open_store(compose_config(small_world))).ablation_id == study.id


def test_the_comparison_is_between_pairs_of_one_seed_on_the_same_rows(study):
    (comparison,) = study.comparisons
    overall = comparison.find("auc")
    assert overall is not None
    assert overall.seeds == 2
    assert overall.difference == pytest.approx(overall.first_mean - overall.second_mean)


def test_the_studys_own_run_says_what_its_arms_share_and_that_the_rest_varied(small_world, study: ablate.FinishedStudy):
    client = open_store(compose_config(small_world)).open()
    experiment = client.get_experiment_by_name("simulated")
    runs = client.search_runs([experiment.experiment_id], f"tags.{names.TAG_KIND} = 'study'")
    own = next(run for run in runs if run.data.tags[names.TAG_ABLATION_ID] == study.id)
    params = own.data.params
    assert (params[names.PARAM_MODE], params["training_mode.stages"]) == ("varied", "varied")
    assert (params[names.PARAM_SEED], params["training.seed"]) == ("varied", "varied")
    assert (params[names.PARAM_COMPOSITION], params[names.PARAM_TOWER]) == ("parallel", "two_tower")
    assert params["ablation.grid.training_mode"] == "end_to_end,frozen_tower"
    assert {value for key, value in params.items() if key.startswith("daily.")} == {"none"}
    assert {use.tags[0].value for use in own.inputs.dataset_inputs} == {"test"}


@pytest.mark.parametrize(
    ("started", "words", "says"),
    [
        (2, ["--from-study", "x"], "Start it without torchrun"),
        (1, ["--from-study", "x", "--resume", "y"], "give one"),
    ],
)
def test_what_a_studys_model_cannot_be_trained_with_is_refused(started, words, says, monkeypatch, small_world):
    monkeypatch.setattr(train_command, "processes", lambda: started)
    options = dict(zip(words[::2], words[1::2], strict=True))
    arguments = argparse.Namespace(
        from_study=options["--from-study"], resume=options.get("--resume"), overrides=small_world
    )
    with pytest.raises(UsageError, match=says):
        train_command.main(compose_config(small_world), arguments)
