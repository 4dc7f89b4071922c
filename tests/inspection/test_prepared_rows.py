"""What is told of prepared rows, and which leaks are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.inspection import prepared_rows
from recsys.inspection.findings import findings_of
from recsys.inspection.prepared_rows import PreparedReport, report_on
from recsys.inspection.summaries import FeatureInSplit, FeatureSummary, MeasuredAuc
from tests.worlds import MadeSource, world_rows, world_schema, write_encoded_world

Change = Callable[[dict[str, Any], np.random.Generator], None]
LATER = slice(600, None)


def report_of(folder: Path, change: Change, rows_per_day: int = 200) -> PreparedReport:
    """Three days of training, one each of validation and test, with some columns made anew."""
    rows = world_rows({"train": 3, "validation": 1, "test": 1}, rows_per_day, seed=0)
    columns = {name: rows[name].to_numpy(zero_copy_only=False).copy() for name in ("clicked", "price", "days_away")}
    columns |= {name: np.array(rows[name].to_pylist(), dtype=object) for name in ("country", "user_id", "activity")}
    change(columns, np.random.default_rng(0))
    for name, values in columns.items():
        is_dense = name in ("price", "days_away")
        made = pa.array(values, from_pandas=is_dense) if is_dense else pa.array(values.tolist())
        rows = rows.set_column(rows.column_names.index(name), name, made)
    rows = rows.set_column(rows.column_names.index("clicked"), "clicked", rows["clicked"].cast(pa.int8()))
    schema = world_schema().to_document()
    for feature in schema["features"]:
        feature.pop("minimum", None)
    encode(MadeSource(rows), FeatureSchema.from_document(schema), folder, memory_limit="200MB", threads=1)
    return report_on(open_encoded(folder))


def feature(report: PreparedReport, name: str) -> FeatureSummary:
    return next(each for each in report.features if each.name == name)


def value(auc: MeasuredAuc | None) -> float:
    assert auc is not None
    return auc.value


def named(report: PreparedReport) -> dict[str, str]:
    return {each.subject: each.found for each in report.findings}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EncodedDataset:
    folder = tmp_path_factory.mktemp("plain") / "rows"
    write_encoded_world(folder, rows_per_day=200)
    return open_encoded(folder)


def test_every_row_of_a_split_is_counted(plain: EncodedDataset) -> None:
    rows = world_rows({"train": 3, "validation": 1, "test": 1}, 200, seed=0).to_pandas()
    report = report_on(plain)
    assert [each.split for each in report.splits] == ["train", "validation", "test"]
    known = rows[rows["split"] == "train"]
    for each in report.splits:
        of_split = rows[rows["split"] == each.split]
        assert (each.rows, each.positives) == (len(of_split), of_split["clicked"].sum())
        assert each.label_rate == pytest.approx(of_split["clicked"].mean())
        assert each.known_users == len(set(of_split["user_id"]) & set(known["user_id"]))
        assert each.unseen_item_share == (~of_split["item_id"].isin(known["item_id"])).mean()
        segments = {part.segment: (part.rows, part.positives) for part in each.segments}
        expected = of_split.groupby("activity")["clicked"]
        assert segments == {name: (len(part), part.sum()) for name, part in expected}
    assert [each.rows_looked_at for each in report.splits] == [600, 200, 0]
    assert (report.splits[0].first_day, report.splits[0].last_day) == ("2011-06-28", "2011-06-30")


def test_coverage_counts_what_was_not_filled_known_ids_and_lists_that_hold_some(plain: EncodedDataset) -> None:
    rows = world_rows({"train": 3, "validation": 1, "test": 1}, 200, seed=0).to_pandas()
    report = report_on(plain)
    for split, of_split in (("training", rows[:600]), ("validation", rows[600:800])):
        look = {each.name: each.splits[split] for each in report.features}
        assert look["price"].coverage == 1
        assert look["days_away"].coverage == of_split["days_away"].notna().mean()
        assert look["country"].coverage == of_split["country"].notna().mean()
        lengths = of_split["recent_item_ids"].map(lambda each: min(len(each), 3))
        assert look["recent_item_ids"].coverage == (lengths > 0).mean()
        assert look["recent_item_ids"].mean_length == pytest.approx(lengths.mean())
        assert look["price"].mean_length is None
        assert look["activity"].coverage == 1


def test_honest_features_are_not_named(plain: EncodedDataset) -> None:
    report = report_on(plain)
    assert report.findings == ()
    # The label is drawn by the item's parity, which turns round with the segment.
    item = feature(report, "item_id")
    assert 0.55 < value(item.training.auc) < 0.9


def _copy(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["price"] = 5 - 2.0 * columns["clicked"]


def _noisy_function(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["price"] = 10 * columns["clicked"] + draw.normal(size=1000)


def _known_only_where_positive(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["days_away"] = np.where(columns["clicked"] == 1, 30 + 10 * draw.normal(size=1000), np.nan)


def _category_of_the_label(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["country"] = np.where(columns["clicked"] == 1, "refunded", "open").astype(object)


def _segment_of_the_label(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["activity"] = np.where(columns["clicked"] == 1, "heavy", "light").astype(object)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_copy, "price"),
        (_noisy_function, "price"),
        (_known_only_where_positive, "days_away"),
        (_category_of_the_label, "country"),
        (_segment_of_the_label, "activity"),
    ],
)
def test_a_feature_made_of_the_label_is_named(change: Change, name: str, tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", change)
    assert next(iter(named(report))) == name
    found = feature(report, name)
    assert found.validation is not None
    assert (
        f"an AUC of {value(found.training.auc):.3f} in training, {value(found.validation.auc):.3f} in validation"
        in named(report)[name]
    )
    assert {"item_id", "recent_item_ids", "user_id"}.isdisjoint(named(report))


def _target_mean_with_the_row_itself(columns: dict[str, Any], draw: np.random.Generator) -> None:
    # Of groups of three rows: training means hold the row's own label, later ones are of other rows.
    group, label = draw.integers(0, 200, 1000), columns["clicked"].astype(float)
    mean = np.array([label[:600][group[:600] == each].mean() if (group[:600] == each).any() else 0.5 for each in group])
    columns["price"] = mean


def test_a_target_mean_that_holds_the_rows_own_label_is_named(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", _target_mean_with_the_row_itself)
    price = feature(report, "price")
    assert price.validation is not None
    found = (
        f"its AUC is {value(price.training.auc):.3f} in training and {value(price.validation.auc):.3f} in validation"
    )
    assert named(report)["price"].startswith(found)
    assert "own" in next(each.means for each in report.findings if each.subject == "price")


def _sessions(columns: dict[str, Any], draw: np.random.Generator) -> None:
    # Ten rows a session, mostly of one label, and none of them later.
    columns["country"] = np.array([f"session-{place // 10}" for place in range(1000)], dtype=object)
    columns["clicked"] = (draw.random(1000) < np.repeat(draw.choice([0.15, 0.85], 100), 10)).astype(int)


def test_an_id_that_never_comes_back_is_told_from_a_leak(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", _sessions)
    found = next(each for each in report.findings if each.subject == "country")
    assert "0.500 in validation" in found.found
    assert "its coverage 100.0% and 0.0%" in found.found
    assert "hardly again" in found.means
    assert len(report.findings) == 1


def _empty(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["price"] = np.full(1000, 7.0)
    columns["days_away"] = np.where(np.arange(1000) % 300 == 0, draw.normal(size=1000), np.nan)
    columns["country"] = np.where(np.arange(1000) < 3, "France", None)
    columns["activity"] = np.where(np.arange(1000) < 600, "new", "light").astype(object)
    columns["user_id"] = np.where(np.arange(1000) < 600, columns["user_id"], np.arange(1000) + 5000).astype(object)


def test_empty_features_segments_without_rows_and_users_that_do_not_come_back_are_named(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", _empty)
    found = [(each.subject, each.found) for each in report.findings]
    assert ("price", "it has one value alone in training") in found
    assert ("days_away", "rows with a value of it: 0.33% in training, 0.50% in validation") in found
    assert ("country", "rows with a value of it: 0.50% in training, 0.00% in validation") in found
    assert ("heavy", "this user segment has no rows in train") in found
    assert ("new", "this user segment has no rows in validation") in found
    assert ("validation", "100.0% of its rows are of users that training does not know") in found


def _one_label_later(columns: dict[str, Any], draw: np.random.Generator) -> None:
    columns["clicked"][LATER] = 0


def test_a_split_of_one_label_is_named_and_has_no_auc(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", _one_label_later)
    assert named(report)["validation"] == "all of its 200 labels are 0"
    later = feature(report, "price").validation
    assert later is not None
    assert later.auc is None


@pytest.mark.parametrize(
    ("known", "later", "error", "scarcer", "is_named"),
    [
        (0.96, 0.60, 0.001, 20, True),
        (0.60, 0.96, 0.001, 20, True),
        (0.96, 0.96, 0.001, 19, False),
        (0.75, 0.60, 0.01, 20, True),
        (0.75, 0.60, 0.04, 20, False),
        (0.75, 0.66, 0.001, 20, False),
        (0.60, 0.75, 0.001, 20, False),
    ],
)
def test_what_chance_can_do_is_not_named(
    known: float, later: float, error: float, scarcer: int, is_named: bool
) -> None:
    looks = [FeatureInSplit(1.0, None, MeasuredAuc(value, error, scarcer)) for value in (known, later)]
    assert bool(findings_of([], [FeatureSummary("price", "dense", False, *looks)])) == is_named


@pytest.mark.parametrize(
    ("kind", "coverage", "of_known", "says"),
    [
        ("dense", 1.0, 0.5, "each row's own among them"),
        ("sparse", 1.0, 0.5, "single users"),
        ("sparse_list", 0.4, 0.5, "hardly again"),
        ("sparse", 1.0, 0.78, "many of validation's are others"),
        ("dense", 1.0, 0.78, "many of validation's are others"),
    ],
)
def test_why_a_feature_is_better_in_training_is_said(kind: str, coverage: float, of_known: float, says: str) -> None:
    training, later, known = (MeasuredAuc(value, 0.001, 50) for value in (0.8, 0.5, of_known))
    looks = FeatureInSplit(1.0, None, training), FeatureInSplit(coverage, None, later)
    (found,) = findings_of([], [FeatureSummary("price", kind, False, *looks, known)])
    assert "0.800 in training and 0.500 in validation" in found.found
    assert says in found.means


def _new_users_later(columns: dict[str, Any], draw: np.random.Generator) -> None:
    # An honest mean of each user's earlier labels; of later rows most are of users without any.
    user, is_new = draw.integers(0, 20, 1000), (np.arange(1000) >= 600) & (np.arange(1000) % 5 > 0)
    liking = draw.choice([0.1, 0.9], 20)
    columns["clicked"] = (draw.random(1000) < np.where(is_new, 0.5, liking[user])).astype(int)
    columns["price"] = np.where(is_new, 0.5, liking[user] + 0.1 * draw.normal(size=1000))
    columns["user_id"] = np.where(is_new, 5000 + np.arange(1000), user).astype(object)


def test_a_feature_that_says_nothing_of_new_users_is_told_from_a_leak(tmp_path: Path) -> None:
    report = report_of(tmp_path / "rows", _new_users_later, rows_per_day=200)
    price = feature(report, "price")
    assert value(price.known_auc) > value(price.training.auc) - 0.1
    (found,) = (each for each in report.findings if each.subject == "price")
    assert f"{value(price.known_auc):.3f} in the rows of users and items that training knows" in found.found
    assert "nothing is wrong with it" in found.do
    # As in training, so with the rows of known users alone.
    assert "hardly again" in next(each.means for each in report.findings if each.subject == "user_id")


def test_of_many_rows_whole_row_groups_are_looked_at(plain: EncodedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_rows, "MOST_ROWS", 300)
    whole, part = report_on(plain), report_on(plain)
    assert whole == part
    assert [each.rows_looked_at for each in part.splits] == [400, 200, 0]
    assert part.splits[0].rows == 600


def test_row_groups_are_chosen_evenly() -> None:
    for rows, most in ((np.full(1000, 7), 700), (np.arange(1, 200), 3000)):
        places = sorted(prepared_rows.evenly(rows.tolist(), most))
        assert most <= rows[places].sum() <= most + rows.max()
        half = [place for place in places if rows[:place].sum() < rows.sum() / 2]
        assert rows[half].sum() == pytest.approx(most / 2, abs=int(rows.max()))
    assert prepared_rows.evenly([3, 4], most=7) == {0, 1}


def test_a_report_is_read_back_as_it_was(plain: EncodedDataset, tmp_path: Path) -> None:
    for report in (report_on(plain), report_of(tmp_path / "rows", _empty)):
        assert PreparedReport.from_document(report.to_document()) == report


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_encoded_world(tmp_path / "rows", rows_per_day=200)
    encoded = open_encoded(tmp_path / "rows")
    path = encoded.files("validation")[0]
    path.write_bytes(b"PAR1" + bytes(path.stat().st_size - 8) + b"PAR1")
    with pytest.raises(DataError, match=str(path)):
        report_on(encoded)
