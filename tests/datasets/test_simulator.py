"""The simulator keeps what it promises: the truth is the best score, segments differ, the past is the past."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from recsys.datasets.database import temporary_database
from recsys.datasets.simulator import RECENT_ITEMS, SimulatorSource, load_world, simulate
from recsys.datasets.staging import stage
from recsys.datasets.world import FACTORS, People, World
from recsys.errors import CannotWriteError, DataError, UsageError
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import silent

ROOT = Path(__file__).parents[2]
SMALL = World(rows=40_000, users=800, items=300, days=20, seed=0, world_seed=0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def rows(raw: Path) -> pd.DataFrame:
    return read_days(raw)


@pytest.fixture
def schema() -> FeatureSchema:
    return load_schema(ROOT / "data" / "schemas" / "simulated.yaml")


def read_days(raw: Path) -> pd.DataFrame:
    return pa.concat_tables(pq.read_table(path) for path in sorted((raw / "days").iterdir())).to_pandas()


def smoothed_rate(train: pd.DataFrame, test: pd.DataFrame, by: list[str]) -> npt.NDArray[np.float64]:
    """Click rate in training of each test row's group, drawn toward one half by two rows."""
    groups = train.groupby(by, observed=True)["label"].agg(["sum", "count"]).reset_index()
    joined = test[by].merge(groups, on=by, how="left").fillna(0)
    return np.asarray((joined["sum"] + 1) / (joined["count"] + 2), dtype=np.float64)


def test_the_true_probability_is_calibrated_and_scores_best(rows: pd.DataFrame) -> None:
    train, test = rows[:32_000], rows[36_000:]
    best = roc_auc_score(test["label"], test["true_probability"])

    # Standard error of a mean of 40,000 clicks: 0.0025.
    assert rows["label"].mean() == pytest.approx(rows["true_probability"].mean(), abs=0.01)
    assert 0.74 < best < 0.82
    for by in (["item_id"], ["category", "segment"], ["item_id", "segment"]):
        assert 0.5 < roc_auc_score(test["label"], smoothed_rate(train, test, by)) < best - 0.03


def test_who_asks_matters_more_than_what_is_popular(rows: pd.DataFrame) -> None:
    train, test = rows[:32_000], rows[36_000:]
    by_item = roc_auc_score(test["label"], smoothed_rate(train, test, ["item_id"]))
    by_segment_too = roc_auc_score(test["label"], smoothed_rate(train, test, ["item_id", "segment"]))

    # The standard error of an AUC on 4,000 rows is 0.009.
    assert by_segment_too > by_item + 0.03


def test_without_a_segment_strength_the_logit_does_not_depend_on_the_segment() -> None:
    people = People(dataclasses.replace(SMALL, segment_strength=0.0))
    user, item, discount = np.arange(100), np.arange(100), np.full(100, 0.2, dtype=np.float32)
    before = people.logit(5, user, item, discount)
    people.user_segment = (people.user_segment + 1) % len(SMALL.segments)

    np.testing.assert_array_equal(people.logit(5, user, item, discount), before)


@pytest.mark.parametrize("personal_share", [0.0, 0.5, 1.0])
def test_without_a_personal_share_all_users_of_a_segment_want_the_same(personal_share: float) -> None:
    people = People(dataclasses.replace(SMALL, shared_strength=0.0, personal_share=personal_share))
    alike = np.flatnonzero(people.user_segment == 0)
    items = np.zeros(len(alike), dtype=np.int64)

    logits = people.logit(5, alike, items, np.zeros(len(alike), dtype=np.float32))

    assert (np.ptp(logits) == 0) == (personal_share == 0)


def test_content_vectors_foretell_preference_the_better_the_less_noise_they_have() -> None:
    def likeness(noise: float) -> float:
        """Correlation of two items' content likeness with the likeness of what they truly are."""
        people = People(dataclasses.replace(SMALL, content_noise=noise))
        upper = np.triu_indices(SMALL.items, 1)
        factors = people.item_factors / np.linalg.norm(people.item_factors, axis=1, keepdims=True)
        return float(np.corrcoef((factors @ factors.T)[upper], (people.content @ people.content.T)[upper])[0, 1])

    assert likeness(0.0) > 0.9
    assert likeness(0.0) > likeness(1.0) + 0.05
    assert likeness(1.0) > 0.3


def test_tastes_turn_with_the_days_and_stand_still_without_drift() -> None:
    def cosine_of_first_and_last(drift: float) -> float:
        people = People(dataclasses.replace(SMALL, drift=drift))
        first, last = people.segment_tastes(0), people.segment_tastes(SMALL.days - 1)
        return float((first * last).sum() / (np.linalg.norm(first) * np.linalg.norm(last)))

    assert cosine_of_first_and_last(0.0) == pytest.approx(1.0, abs=1e-6)
    # One quarter turn: from one independent draw to another.
    assert abs(cosine_of_first_and_last(1.0)) < 3 / np.sqrt(len(SMALL.segments) * FACTORS)


def test_popularity_follows_zipf(rows: pd.DataFrame) -> None:
    warm = rows["item_id"].value_counts().to_numpy()
    # Under Zipf's law with exponent 1 the first ten of 300 items take 47 % of the impressions.
    assert warm[:10].sum() / warm.sum() == pytest.approx(0.47, abs=0.08)


def test_cold_users_and_items_come_late(rows: pd.DataFrame) -> None:
    people = People(SMALL)
    cold = np.flatnonzero(people.item_arrival > 0)
    seen = rows[rows["item_id"].isin(cold + 1)]

    assert len(cold) / SMALL.items == pytest.approx(0.15, abs=0.06)
    assert people.item_arrival[cold].min() >= 12
    assert seen["time"].min() >= pd.Timestamp("2025-01-13", tz="UTC")
    assert (seen["item_age_days"] >= 0).all()
    assert (people.user_arrival > 0).mean() == pytest.approx(0.15, abs=0.05)


def test_recent_items_are_the_last_clicks_of_earlier_days(rows: pd.DataFrame) -> None:
    day = rows["time"].dt.normalize()
    user = rows["user_id"].value_counts().index[0]
    mine = rows[rows["user_id"] == user]
    assert len(mine) > 2 * RECENT_ITEMS

    for index, row in mine.iterrows():
        clicks = mine[(mine["label"] == 1) & (day[mine.index] < day[index])]["item_id"].tolist()
        assert list(row["recent_item_ids"]) == clicks[-RECENT_ITEMS:]
        assert row["user_clicks"] == len(clicks)


def test_every_day_is_in_time_order_and_inside_its_day(raw: Path) -> None:
    for path in (raw / "days").iterdir():
        times = pq.read_table(path)["time"].to_pandas()
        assert times.is_monotonic_increasing
        assert set(times.dt.strftime("%Y-%m-%d")) == {path.stem}


def test_equal_worlds_give_equal_rows_and_another_seed_other_rows_of_the_same_world(tmp_path: Path) -> None:
    world = dataclasses.replace(SMALL, rows=500)
    simulate(tmp_path / "a", world)
    simulate(tmp_path / "b", world)
    simulate(tmp_path / "c", dataclasses.replace(world, seed=1))

    first, again, other = (read_days(tmp_path / name) for name in "abc")
    pd.testing.assert_frame_equal(first, again)
    assert not first["user_id"].equals(other["user_id"])
    # The same goods: an item's category and price do not depend on the rows' seed.
    assert pq.read_table(tmp_path / "a" / "item_vectors.parquet").equals(
        pq.read_table(tmp_path / "c" / "item_vectors.parquet")
    )


def test_another_world_seed_has_other_items() -> None:
    one, other = People(SMALL), People(dataclasses.replace(SMALL, world_seed=1))
    assert abs(np.corrcoef(one.item_factors.ravel(), other.item_factors.ravel())[0, 1]) < 0.2


def test_the_source_splits_by_day_and_tells_the_truth(raw: Path, schema: FeatureSchema, tmp_path: Path) -> None:
    with temporary_database(tmp_path, "500MB", 1) as connection:
        source = SimulatorSource(raw).read(connection, schema, silent)
        staged = connection.con.sql(connection.compile(stage(connection, source, schema).table)).df()

    assert source.extras == ("user_key", "true_probability")
    assert staged.groupby("split")["day"].agg(["nunique", "min"]).to_dict() == {
        "nunique": {"train": 16, "validation": 2, "test": 2},
        "min": {
            "train": pd.Timestamp("2025-01-01"),
            "validation": pd.Timestamp("2025-01-17"),
            "test": pd.Timestamp("2025-01-19"),
        },
    }
    assert len(staged) == SMALL.rows


def test_the_committed_sample_is_what_its_world_gives(tmp_path: Path) -> None:
    sample = ROOT / "data" / "sample"
    simulate(tmp_path / "again", load_world(sample))

    committed, again = read_days(sample), read_days(tmp_path / "again")
    assert len(committed) == 1000
    # Other processors round the last bit of a probability differently; everything drawn is the same.
    pd.testing.assert_frame_equal(committed, again, check_exact=False, rtol=1e-5)


def test_a_world_that_cannot_be_is_refused_by_name() -> None:
    for change, message in (
        ({"days": 2}, "days is 2; expected at least 3"),
        ({"cold_share": 1.0}, "cold_share is 1.0"),
        ({"personal_share": 1.5}, "personal_share is 1.5; expected from 0 to 1"),
        ({"drift": float("nan")}, "drift is nan; expected a finite number"),
        ({"segments": ("a", "a")}, "none twice"),
        ({"start": "yesterday"}, "start is 'yesterday'; expected a date"),
    ):
        with pytest.raises(UsageError, match=message):
            dataclasses.replace(SMALL, **change)


def test_a_folder_that_is_no_world_is_refused(tmp_path: Path, schema: FeatureSchema) -> None:
    with pytest.raises(DataError, match=r"world.json cannot be read as a simulated world.*recsys prepare"):
        load_world(tmp_path)


def test_a_missing_day_is_refused_by_file(tmp_path: Path, schema: FeatureSchema) -> None:
    simulate(tmp_path / "raw", dataclasses.replace(SMALL, rows=100))
    (tmp_path / "raw" / "days" / "2025-01-05.parquet").unlink()
    with temporary_database(tmp_path, "500MB", 1) as connection, pytest.raises(DataError, match=r"2025-01-05\.parquet"):
        SimulatorSource(tmp_path / "raw").read(connection, schema, silent)


def test_a_renamed_column_is_refused_with_file_and_column(tmp_path: Path, schema: FeatureSchema) -> None:
    simulate(tmp_path / "raw", dataclasses.replace(SMALL, rows=100))
    path = tmp_path / "raw" / "days" / "2025-01-05.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["cost" if name == "price" else name for name in table.column_names]), path)
    with (
        temporary_database(tmp_path, "500MB", 1) as connection,
        pytest.raises(DataError, match=r"2025-01-05.parquet has no column `price`"),
    ):
        SimulatorSource(tmp_path / "raw").read(connection, schema, silent)


def test_segments_that_the_schema_does_not_know_are_refused(tmp_path: Path, schema: FeatureSchema) -> None:
    simulate(tmp_path / "raw", dataclasses.replace(SMALL, rows=100, segments=("old", "young")))
    with (
        temporary_database(tmp_path, "500MB", 1) as connection,
        pytest.raises(DataError, match=r"holds segments \['old', 'young'\]"),
    ):
        SimulatorSource(tmp_path / "raw").read(connection, schema, silent)


def test_a_place_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CannotWriteError, match="taken"):
        simulate(tmp_path / "taken" / "raw", SMALL)
