"""The challenger beside the champion on the newest rows: equal where they are, better where it is, and by day."""

import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.evaluation.stored_predictions import load_predictions
from recsys.metrics.auc import auc
from recsys.nightly import champion_comparison
from recsys.nightly.champion_comparison import (
    COMPARISON,
    ChampionComparison,
    compare_with_champion,
    load_comparison,
)
from recsys.nightly.champion_decay import decay_of
from recsys.nightly.golden_rows import GoldenCheck
from recsys.progress import silent
from recsys.run.drift_report import DRIFT
from recsys.run.folder import PREDICTIONS
from recsys.scheduling.promotion import Decision
from tests.nightly.made_nights import DATE, FIRST_TEST_DAY, MadeNights

YES, NO = Decision(True, ("better",)), Decision(False, ("worse",))
DAY = datetime.timedelta(days=1)


@pytest.fixture
def nights(made: MadeNights, monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeNights]:
    """The nights as they were before any was compared; golden rows are another file's matter."""
    good = GoldenCheck(70, 0.0, 1e-6, "")
    monkeypatch.setattr(champion_comparison, "check_in_fresh_process", lambda config, folder: good)
    yield made
    for path in (made.champions.path, *made.root.glob(f"*/{COMPARISON}")):
        path.unlink(missing_ok=True)


def compared(nights: MadeNights, name: str, date: datetime.date = DATE) -> ChampionComparison:
    return compare_with_champion(nights.config, nights.encoded, nights.root / name, date, nights.champions, silent)


def crown(nights: MadeNights, name: str = "champion", date: datetime.date = FIRST_TEST_DAY) -> None:
    before, own = nights.champions.before(date), nights.champions.of(date)
    artifacts = [each.artifact if each else None for each in (before, own)]
    nights.champions.settle(nights.root / name, date, artifacts[0], YES, artifacts[1])


def test_without_a_champion_the_challenger_is_measured_alone(nights: MadeNights):
    found = compared(nights, "knowing")

    rows = load_predictions(nights.root / "knowing" / PREDICTIONS)
    assert (found.champion, found.champion_date, found.differences, found.decay) == (None, None, {}, None)
    assert (found.rows, found.auc) == (240, {"challenger": auc(rows.label, rows.logit)})
    assert set(found.calibration_error) == {"challenger"}
    assert (nights.root / "knowing" / "golden" / "rows.parquet").is_file()
    assert not found.evidence.overall.is_measured


def test_a_challengers_drift_beyond_its_limit_is_kept_and_stands_in_its_way(nights: MadeNights):
    path = nights.root / "knowing" / DRIFT
    path.write_text(json.dumps({"fault": "cosine_distance is 0.3", "most_moved": "item", "spaces": {"item": {}}}))
    try:
        assert compared(nights, "knowing").evidence.drift_fault == "cosine_distance is 0.3"
    finally:
        path.unlink()
    # Compared already, it is read back; one of an earlier version says nothing of drift.
    written = nights.root / "knowing" / COMPARISON
    assert load_comparison(written.parent).drift_fault == "cosine_distance is 0.3"
    document = json.loads(written.read_text())
    del document["drift_fault"]
    written.write_text(json.dumps(document))
    assert load_comparison(written.parent).drift_fault == ""


def test_a_challenger_of_the_champions_weights_differs_by_nothing(nights: MadeNights):
    crown(nights)
    found = compared(nights, "same")

    rows = load_predictions(nights.root / "champion" / PREDICTIONS)
    assert found.auc["champion"] == pytest.approx(auc(rows.label, rows.logit), abs=1e-12)
    assert set(found.differences) == {"all", "new", "light", "heavy"}
    for difference in found.differences.values():
        assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.calibration_error["champion"] == pytest.approx(found.calibration_error["challenger"], abs=1e-6)
    assert (found.champion, found.champion_date) == ("champion", FIRST_TEST_DAY)


def test_a_challenger_that_knows_more_is_better_over_all_and_by_segment(nights: MadeNights):
    crown(nights)
    evidence = compared(nights, "knowing").evidence

    first, second = (load_predictions(nights.root / name / PREDICTIONS) for name in ("knowing", "champion"))
    value = (auc(first.label, first.logit) or 0) - (auc(second.label, second.logit) or 0)
    assert evidence.overall.value == pytest.approx(value, abs=1e-9)
    assert evidence.overall.low > 0
    assert list(evidence.by_segment) == ["new", "light", "heavy"]


def test_written_again_from_the_same_models_and_rows_it_is_the_same_file(nights: MadeNights):
    crown(nights)
    found = compared(nights, "other")
    path = nights.root / "other" / COMPARISON
    first = path.read_bytes()

    assert load_comparison(path.parent) == found
    path.unlink()
    compared(nights, "other")
    assert path.read_bytes() == first


def test_a_segment_that_could_not_be_measured_is_there_and_no_number(nights: MadeNights):
    crown(nights)
    compared(nights, "other")
    path = nights.root / "other" / COMPARISON
    document = json.loads(path.read_text())
    document["differences"]["light"] = None
    path.write_text(json.dumps(document))

    assert not load_comparison(path.parent).evidence.by_segment["light"].is_measured


def test_compared_already_it_is_read_and_compared_again_only_with_another_champion(
    nights: MadeNights, monkeypatch: pytest.MonkeyPatch
):
    crown(nights)
    first = compared(nights, "other")
    with monkeypatch.context() as patched:
        patched.setattr(champion_comparison, "raw_rows", None)
        assert compared(nights, "other") == first

    crown(nights, "same")
    again = compared(nights, "other")
    assert again.champion == "same"
    nights.champions.settle(nights.root / "other", DATE, "same", NO)
    crown(nights, "knowing", DATE + DAY)
    assert compared(nights, "other") == again


def test_the_champion_of_a_later_date_or_of_its_own_is_not_what_it_is_compared_with(nights: MadeNights):
    crown(nights, date=DATE + DAY)
    found = compared(nights, "other")
    assert (found.champion, found.gives_way, found.differences) == (None, None, {})

    crown(nights, "same", DATE)
    assert compared(nights, "other").gives_way == "same"


def test_a_champion_whose_model_is_gone_is_named_and_the_way_back_told(nights: MadeNights, tmp_path: Path):
    crown(nights)
    model, aside = nights.root / "champion" / "model", tmp_path / "model"
    shutil.move(model, aside)
    try:
        with pytest.raises(DataError, match=rf"champion of {FIRST_TEST_DAY} cannot be compared .*`recsys rollback`"):
            compared(nights, "other")
    finally:
        shutil.move(aside, model)


def test_the_champion_is_followed_by_day_from_its_own_date_on(nights: MadeNights):
    crown(nights, date=FIRST_TEST_DAY + DAY)
    decay = compared(nights, "other").decay

    rows = load_predictions(nights.root / "champion" / PREDICTIONS)
    days = {str(FIRST_TEST_DAY + n * DAY): slice(60 * n, 60 * (n + 1)) for n in range(1, 4)}
    expected = {day: auc(rows.label[part], rows.logit[part]) for day, part in days.items()}
    assert decay is not None
    assert decay.auc_by_day == pytest.approx(expected, abs=1e-12)
    line = np.polyfit(range(3), list(expected.values()), 1)
    assert decay.slope == pytest.approx(line[0], abs=1e-9)


def test_days_before_the_newest_rows_come_from_the_runs_that_the_champion_was_kept_against(nights: MadeNights):
    start = FIRST_TEST_DAY - 2 * DAY
    crown(nights, date=start)
    for name, day, value in (("same", str(start), 0.9), ("knowing", str(FIRST_TEST_DAY), 0.0)):
        compared(nights, name, DATE - DAY)
        path = nights.root / name / COMPARISON
        document = json.loads(path.read_text())
        document["decay"]["auc_by_day"] = {day: value}
        path.write_text(json.dumps(document))
        nights.champions.settle(path.parent, DATE - DAY, "champion", NO)

    decay = compared(nights, "other").decay

    assert decay is not None
    assert list(decay.auc_by_day) == [str(start), *(str(FIRST_TEST_DAY + n * DAY) for n in range(4))]
    assert decay.auc_by_day[str(start)] == 0.9
    # What the newest rows say of a day counts.
    assert decay.auc_by_day[str(FIRST_TEST_DAY)] > 0


def test_decay_is_told_as_a_sentence_with_its_error():
    days = {str(DATE + n * DAY): 0.8 - 0.01 * n + (0.001 if n % 2 else -0.001) for n in range(9)}
    assert decay_of(DATE, days).sentence == (
        f"The champion of {DATE} loses 0.0100 AUC a day on new data, +-0.0001, over 9 days."
    )
    up = decay_of(DATE, {day: 0.5 + 0.1 * (number == 4) + 0.001 * number for number, day in enumerate(days)})
    assert up.sentence.startswith(f"The champion of {DATE} gains 0.0010 AUC a day on new data")
    assert up.sentence.endswith("over 9 days, which is within its noise.")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_fewer_than_three_days_there_is_no_slope(count: int):
    found = decay_of(DATE, {str(DATE + n * DAY): 0.5 + n for n in range(count)})
    assert (found.slope, found.error, found.sentence) == (None, None, "")
