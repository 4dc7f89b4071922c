"""The AUC of one feature alone: of numbers, of ids and of lists of ids."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from recsys.inspection.single_feature import FeatureAuc, Ids, LabelledRows, id_auc, value_auc
from recsys.metrics.auc import auc_error

ROWS = 4000


def labels(rate: float = 0.3, rows: int = ROWS, seed: int = 0) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(rows) < rate).astype(float)


def rows_of(label: NDArray[np.float64], weight: NDArray[np.float64] | None = None) -> LabelledRows:
    """Rows each of which is a query of its own."""
    return LabelledRows.of(label, weight, (np.arange(len(label)),), np.ones(len(label), dtype=bool))


def both(found: FeatureAuc) -> tuple[float | None, float | None]:
    """Of training and of later rows."""
    training, later = (each and each.value for each in (found.training, found.later))
    return training, later


def of_ids(*arguments: Any) -> tuple[float | None, float | None]:
    return both(id_auc(*arguments))


def of_numbers(*arguments: Any) -> tuple[float | None, float | None]:
    return both(value_auc(*arguments))


def naive_id_auc(lists: list[list[int]], rows: LabelledRows) -> float:
    """Written row by row: label means of the other folds, ten rows of the overall rate added; pairs within a fold."""
    won = pairs = 0.0
    for fold in set(rows.fold.tolist()):
        others = [place for place in range(len(lists)) if rows.fold[place] != fold]
        weight = sum(rows.weight[place] for place in others)
        rate = sum(rows.weight[place] * rows.label[place] for place in others) / weight if weight else 0.0
        sums, counts = dict[int, float](), dict[int, float]()
        for place in others:
            for each in lists[place] or [-1]:
                sums[each] = sums.get(each, 0.0) + rows.weight[place] * rows.label[place]
                counts[each] = counts.get(each, 0.0) + rows.weight[place]
        mean = {each: (sums.get(each, 0) + 10 * rate) / (counts.get(each, 0) + 10) for each in range(-1, 6)}
        own = [place for place in range(len(lists)) if rows.fold[place] == fold]
        score = {place: round(np.mean([mean[each] for each in lists[place] or [-1]]), 12) for place in own}
        for one in own:
            for other in own:
                if rows.label[one] > rows.label[other]:
                    weight = rows.weight[one] * rows.weight[other]
                    pairs += weight
                    won += weight * ((score[one] > score[other]) + 0.5 * (score[one] == score[other]))
    # `grouped_auc` averages folds by their weight, not by their pairs, so the caller compares folds of equal make.
    return won / pairs if pairs else float("nan")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), st.booleans()), min_size=12, max_size=40))
def test_lists_are_scored_as_a_loop_over_rows_scores_them(made: list[tuple[list[int], bool]]) -> None:
    lists, label = [each for each, _ in made], np.array([float(is_positive) for _, is_positive in made])
    # Of one fold's rows, the others' means: everything in two folds, of which one has all pairs.
    fold = np.array([0] * (len(made) // 2) + [1] * (len(made) - len(made) // 2))
    label[fold == 1] = label[fold == 1][0]
    rows = LabelledRows(label, np.ones(len(made)), fold, np.ones(len(made), dtype=bool))
    ids = Ids.lists(np.array([each for one in lists for each in one], dtype=int), np.array(list(map(len, lists))), 6)
    found, _ = of_ids(ids, rows, None, None)
    expected = naive_id_auc(lists, rows)
    assert found == pytest.approx(expected, abs=1e-9) if found is not None else np.isnan(expected)


def test_later_rows_are_scored_by_the_means_of_all_training_rows() -> None:
    train, later = rows_of(np.array([1.0, 1, 0, 0])), rows_of(np.array([1.0, 0, 0]))
    # Label means (10 * 0.5 + positives) / (10 + rows): id 1 6/11, id 2 5/11, id 3 6/12; an unseen id 5/10.
    ids, seen_later = Ids.single(np.array([1, 3, 2, 3]), 5), Ids.single(np.array([3, 4, 1]), 5)
    # The positive ties with the unseen id and loses against id 1.
    assert of_ids(ids, train, seen_later, later)[1] == 0.25


def test_ids_that_say_nothing_have_half_in_training_however_few_or_many_rows_each_has() -> None:
    rows, draw = rows_of(labels()), np.random.default_rng(1)
    assert of_ids(Ids.single(np.zeros(ROWS), 1), rows, None, None)[0] == 0.5
    assert of_ids(Ids.single(np.arange(ROWS), ROWS), rows, None, None)[0] == 0.5
    for ids in (2, 50, 1000):
        value, _ = of_ids(Ids.single(draw.integers(0, ids, ROWS), ids), rows, None, None)
        assert value == pytest.approx(0.5, abs=0.05), ids


def test_users_with_the_same_share_of_positives_in_every_query_have_half() -> None:
    query = np.arange(ROWS) // 5
    label, user = (np.arange(ROWS) % 5 == 0).astype(float), query % 20
    ids = Ids.single(user, 20)
    by_query = LabelledRows.of(label, None, (user, query), np.ones(ROWS, dtype=bool))
    assert all(len(set(by_query.fold[start : start + 5])) == 1 for start in range(0, ROWS, 5))
    assert of_ids(ids, by_query, None, None)[0] == pytest.approx(0.5, abs=0.005)
    by_row, _ = of_ids(ids, rows_of(label), None, None)
    assert by_row is not None
    assert by_row < 0.48


def test_an_id_made_of_the_label_has_all() -> None:
    rows = rows_of(labels())
    ids = Ids.single(rows.label.astype(int), 2)
    assert of_ids(ids, rows, ids, rows) == (1.0, 1.0)


def test_a_list_that_is_empty_where_the_label_is_positive_has_all() -> None:
    rows = rows_of(labels())
    lengths = (rows.label == 0).astype(int)
    ids = Ids.lists(np.ones(lengths.sum(), dtype=int), lengths, 2)
    assert of_ids(ids, rows, ids, rows) == (1.0, 1.0)


def test_a_number_is_judged_by_its_order_in_the_direction_that_training_says() -> None:
    train, later = (rows_of(labels(seed=seed)) for seed in (0, 1))
    draw = np.random.default_rng(2)
    falling = [-2 * rows.label + draw.normal(size=ROWS) for rows in (train, later)]
    found = of_numbers(falling[0], train, falling[1], later)
    assert found[0] == pytest.approx(roc_auc_score(train.label, -falling[0]))
    assert found[1] == pytest.approx(roc_auc_score(later.label, -falling[1]))
    # A direction that turns round in later rows is a loss there, not a gain.
    turned = of_numbers(falling[0], train, -falling[1], later)
    assert turned[1] == pytest.approx(1 - found[1])


def test_a_value_amid_the_others_that_stands_for_the_label_is_found() -> None:
    rows = rows_of(labels())
    filled = np.where(rows.label == 1, 0.0, np.random.default_rng(0).normal(size=ROWS))
    assert abs(roc_auc_score(rows.label, filled) - 0.5) < 0.05
    for value in of_numbers(filled, rows, filled, rows):
        assert value is not None
        assert value > 0.95


def test_rows_of_weight_zero_count_for_nothing() -> None:
    weight = np.tile([2.0, 0.0], ROWS // 2)
    label = labels()
    values = np.where(weight > 0, label, 1 - label)
    assert of_numbers(values, rows_of(label, weight), None, None)[0] == 1.0
    found = value_auc(values, rows_of(label, weight), None, None).training
    assert found is not None
    assert found.scarcer_rows == label[::2].sum()


def test_the_known_among_later_rows_are_measured_by_themselves() -> None:
    train = rows_of(labels())
    is_known = np.arange(ROWS) < 1000
    later = replace(rows_of(labels(seed=1)), is_known=is_known)
    draw = np.random.default_rng(0)
    told = np.where(is_known, later.label, 0.5) + draw.normal(size=ROWS)
    for found, score in (
        (value_auc(train.label + draw.normal(size=ROWS), train, told, later), told),
        (id_auc(Ids.single(train.label, 3), train, Ids.single(np.where(is_known, later.label, 2), 3), later), None),
    ):
        expected = 1.0 if score is None else roc_auc_score(later.label[:1000], score[:1000])
        assert found.known_later is not None
        assert found.later is not None
        assert found.known_later.value == pytest.approx(expected)
        assert found.known_later.value > found.later.value + 0.1
        assert found.known_later.scarcer_rows == later.label[:1000].sum()


def test_without_both_labels_there_is_no_figure() -> None:
    rows, other = rows_of(np.ones(20)), rows_of(labels(rows=20))
    assert of_numbers(np.arange(20.0), rows, np.arange(20.0), other) == (None, None)
    assert of_ids(Ids.single(np.zeros(20), 1), other, Ids.single(np.zeros(20), 1), rows)[1] is None


def test_the_error_of_an_auc_is_what_many_draws_of_it_spread_by() -> None:
    draw = np.random.default_rng(0)
    label = np.repeat([1.0, 0.0], [60, 140])
    drawn = [roc_auc_score(label, label + draw.normal(size=200)) for _ in range(300)]
    assert auc_error(float(np.mean(drawn)), 60, 140) == pytest.approx(np.std(drawn), rel=0.2)
