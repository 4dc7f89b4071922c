"""What the grid promises: every combination once, names that tell arms apart, questions that differ in one thing."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from recsys.ablation.arms import contrasts, expand_grid, study_id
from recsys.config.overrides import override
from recsys.errors import UsageError

MODES = {"training_mode": ["frozen_tower", "end_to_end"]}
GRID = {**MODES, "composition": ["parallel", "conditional"], "model": ["cross"]}


def test_the_grid_holds_every_combination_with_every_seed_once():
    arms = expand_grid(GRID, [0, 1, 2], labels={})
    assert len({arm.name for arm in arms}) == len(arms) == 2 * 2 * 1 * 3
    assert {arm.condition for arm in arms} == {
        "frozen_tower/parallel",
        "frozen_tower/conditional",
        "end_to_end/parallel",
        "end_to_end/conditional",
    }


def test_names_put_what_differs_first_and_leave_out_what_does_not():
    arms = expand_grid(GRID, [0], labels={"frozen_tower": "frozen"})
    assert arms[1].name == "frozen/conditional/s0"


def test_values_that_are_no_words_of_their_own_are_named_with_their_key():
    arms = expand_grid({"training.learning_rate": [0.1, 0.01], "tower.dim": [8], "model.low_rank": [None, 4]}, [7], {})
    assert [arm.name for arm in arms][:2] == ["learning_rate=0.1/low_rank=null/s7", "learning_rate=0.1/low_rank=4/s7"]


def test_a_list_of_numbers_is_one_value_with_a_name_that_a_folder_can_have():
    arms = expand_grid({"network.hidden_widths": [(64, 32), (8,)]}, [0], {})
    assert [arm.name for arm in arms] == ["hidden_widths=64-32/s0", "hidden_widths=8/s0"]


def test_a_word_that_two_keys_share_is_named_with_its_key():
    arms = expand_grid({"user_tower": ["small", "big"], "item_tower": ["small", "big"]}, [0], {})
    assert arms[0].name == "user_tower=small/item_tower=small/s0"


def test_a_grid_in_which_only_the_seed_varies_still_has_names():
    assert [arm.name for arm in expand_grid({"model": ["cross"]}, [4, 5], {})] == ["cross/s4", "cross/s5"]


def test_overrides_come_back_through_hydra_with_their_types():
    axes = {"training_mode": ["frozen_tower"], "a.x": [0.5], "a.flag": [True], "a.none": [None], "a.word": ["true"]}
    axes |= {"a.path": ["data/towers/title"], "a.odd": ["it's, {so}=1"], "a.widths": [[64, 32]]}
    words = [override(key, value) for key, value in expand_grid(axes, [3], {})[0].choices.items()]
    values = {parsed.key_or_group: parsed.value() for parsed in OverridesParser.create().parse_overrides(words)}
    quoted = {key: getattr(value, "text", value) for key, value in values.items()}
    assert quoted == {key: listed[0] for key, listed in axes.items()}


def test_more_values_of_an_axis_extend_the_same_study_and_another_axis_is_another_study():
    assert study_id("frozen_vs_finetuned", "c", GRID).startswith("frozen_vs_finetuned-")
    assert study_id("a", "c", {**MODES, "model": ["cross", "mask"]}) == study_id("a", "c", {"model": ["dot"], **MODES})
    assert len({study_id("a", "c", GRID), study_id("a", "c", MODES), study_id("a", "d", MODES)}) == 3


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("training.seed", "`ablation.seeds`"),
        ("training.epochs", "different numbers of steps"),
        ("training.batch_size", "different numbers of steps"),
        ("training.tower_day_share", "different rows"),
        ("training.shuffle_buffer_rows", "different orders"),
        ("data", "different rows"),
        ("data.seed", "different rows"),
        ("evaluation.ranking", "different ways"),
        ("runtime.threads", "nothing of what an arm learns"),
    ],
)
def test_a_key_that_would_make_arms_no_pairs_is_refused_with_the_reason(key: str, reason: str):
    with pytest.raises(UsageError, match=rf"`{key}` cannot be a key of the grid: .*{reason}"):
        expand_grid({key: [1, 2]}, [0], {})


def test_contrasts_are_the_pairs_that_differ_in_one_key_and_say_what_is_held():
    found = contrasts(expand_grid(GRID, [0, 1], {}), "training_mode")
    assert [(c.first, c.second, dict(c.held)) for c in found] == [
        ("frozen_tower/parallel", "end_to_end/parallel", {"composition": "parallel"}),
        ("frozen_tower/conditional", "end_to_end/conditional", {"composition": "conditional"}),
    ]
    assert (found[0].first_value, found[0].second_value) == ("frozen_tower", "end_to_end")


def test_an_axis_of_three_values_gives_every_pair():
    found = contrasts(expand_grid({"model": ["cross", "mask", "dot"]}, [0], {}), "model")
    assert [(c.first, c.second) for c in found] == [("cross", "mask"), ("cross", "dot"), ("mask", "dot")]


def test_a_key_with_one_value_cannot_be_compared():
    with pytest.raises(UsageError, match=r"cannot compare 'model'.*training_mode, composition"):
        contrasts(expand_grid(GRID, [0], {}), "model")


@pytest.mark.parametrize(
    ("axes", "seeds", "message"),
    [
        ({}, [0], "grid is empty"),
        ({"model": []}, [0], "expected a list of one or more values"),
        ({"model": "cross"}, [0], "model has 'cross': expected a list"),
        ({"model": ["cross", "cross"]}, [0], "lists 'cross' twice"),
        ({"model": [{"name": "cross"}]}, [0], "expected words, numbers, lists of numbers, true"),
        ({"+model": ["cross"]}, [0], "'\\+model' is no config key"),
        ({"model": ["cross"]}, [], "no seeds"),
        ({"model": ["cross"]}, [0, 0], "hold one twice"),
        ({"model": ["cross"]}, [-1], "Seed -1 is none"),
        ({"model": ["cross"]}, [True], "Seed True is none"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_with_what_was_found(axes, seeds, message):
    with pytest.raises(UsageError, match=message):
        expand_grid(axes, seeds, {})


def test_labels_that_make_two_arms_look_alike_are_refused():
    with pytest.raises(UsageError, match="Two arms would be named 'x/s0'"):
        expand_grid(MODES, [0], {"frozen_tower": "x", "end_to_end": "x"})
