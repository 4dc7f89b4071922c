"""When a challenger takes the champion's place, and how it is taken back."""

import json
import math
from pathlib import Path

import pytest

from recsys.errors import BusyError, DataError, UsageError
from recsys.locks import held_lock
from recsys.scheduling.promotion import AucDifference, ChampionFile, decide

BETTER = AucDifference(0.004, 0.001, 0.007)
UNDEFINED = AucDifference(math.nan, math.nan, math.nan)


def runs_with(folder: Path, *names: str) -> ChampionFile:
    for name in names:
        (folder / name).mkdir(parents=True)
    return ChampionFile(folder / "champion.json")


def test_challenger_better_by_more_than_its_noise_is_promoted() -> None:
    decision = decide(BETTER, {"new": AucDifference(0.002, -0.01, 0.014)}, margin=0.005)

    assert decision.promote
    assert decision.reasons == (
        "Over all rows the challenger is better by more than its noise: +0.0040 [+0.0010, +0.0070].",
    )


@pytest.mark.parametrize("low", [0.0, -0.001])
def test_challenger_whose_interval_reaches_zero_is_not(low: float) -> None:
    decision = decide(AucDifference(0.004, low, 0.009), {}, margin=0.005)

    assert not decision.promote
    assert "is not better by more than its noise: +0.0040 [" in decision.reasons[0]


def test_one_segment_clearly_worse_by_more_than_the_margin_stands_in_the_way() -> None:
    decision = decide(BETTER, {"new": AucDifference(-0.02, -0.03, -0.01), "heavy": BETTER}, margin=0.005)

    assert not decision.promote
    assert decision.reasons[1] == ("Segment `new` is worse by more than the margin 0.005: -0.0200 [-0.0300, -0.0100].")


def test_segment_worse_by_less_than_the_margin_does_not() -> None:
    assert decide(BETTER, {"new": AucDifference(-0.004, -0.005, -0.003)}, margin=0.005).promote


def test_segment_that_reads_worse_within_its_noise_is_said_and_does_not_decide() -> None:
    decision = decide(BETTER, {"new": AucDifference(-0.02, -0.06, 0.02)}, margin=0.005)

    assert decision.promote
    assert "Segment `new` reads worse, but within its noise" in decision.reasons[1]


def test_what_is_not_measured_never_promotes_over_all_and_is_said_per_segment() -> None:
    over_all = decide(UNDEFINED, {}, margin=0.005)
    in_a_segment = decide(BETTER, {"new": UNDEFINED}, margin=0.005)

    assert not over_all.promote
    assert "could not be measured, so the champion stays" in over_all.reasons[0]
    assert in_a_segment.promote
    assert in_a_segment.reasons[1] == "Segment `new` could not be measured and did not decide."


@pytest.mark.parametrize("margin", [-0.01, math.nan])
def test_margin_below_zero_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match=r"margin is .*; expected 0 or more"):
        decide(BETTER, {}, margin)


def test_first_challenger_becomes_champion_where_there_was_none(tmp_path: Path) -> None:
    file = runs_with(tmp_path, "monday")
    assert file.current() is None

    champion = file.promote(tmp_path / "monday", None, ("the first",))

    assert file.current() == champion
    assert file.folder(champion) == tmp_path / "monday"
    assert champion.reasons == ("the first",)


def test_promoting_the_champion_again_writes_nothing(tmp_path: Path) -> None:
    file = runs_with(tmp_path, "monday")
    champion = file.promote(tmp_path / "monday", None, ("the first",))
    before = file.path.read_bytes()

    assert file.promote(tmp_path / "monday", None, ("once more",)) == champion
    assert file.path.read_bytes() == before


def test_rolling_back_returns_to_each_champion_before_and_history_keeps_all(tmp_path: Path) -> None:
    file = runs_with(tmp_path, "monday", "tuesday", "wednesday")
    first = file.promote(tmp_path / "monday", None, ())
    second = file.promote(tmp_path / "tuesday", first, ())
    file.promote(tmp_path / "wednesday", second, ("better",))

    assert file.roll_back("complaints about it") == second
    assert file.current() == second
    assert file.roll_back("still") == first

    assert [(event["what"], event["champion"]) for event in file.events()] == [
        ("promoted", "monday"),
        ("promoted", "tuesday"),
        ("promoted", "wednesday"),
        ("rolled back", "tuesday"),
        ("rolled back", "monday"),
    ]
    assert file.events()[3]["reasons"] == ["complaints about it"]
    with pytest.raises(UsageError, match="holds no champion before the current one"):
        file.roll_back("again")


def test_challenger_compared_with_a_champion_that_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    file = runs_with(tmp_path, "monday", "tuesday", "wednesday")
    first = file.promote(tmp_path / "monday", None, ())
    file.promote(tmp_path / "tuesday", first, ())

    with pytest.raises(BusyError, match=r"became tuesday while wednesday was being compared with monday"):
        file.promote(tmp_path / "wednesday", first, ())

    assert file.folder(file.current() or first).name == "tuesday"


def test_promotion_while_another_promotes_is_busy(tmp_path: Path) -> None:
    file = runs_with(tmp_path, "monday")
    with (
        held_lock(tmp_path / ".champion.json.lock", "a test"),
        pytest.raises(BusyError, match=r"champion file .*process"),
    ):
        file.promote(tmp_path / "monday", None, ())
    assert file.current() is None


def test_champion_moves_with_its_folder(tmp_path: Path) -> None:
    file = runs_with(tmp_path / "here", "monday")
    file.promote(tmp_path / "here" / "monday", None, ())
    (tmp_path / "here").rename(tmp_path / "there")

    moved = ChampionFile(tmp_path / "there" / "champion.json")
    champion = moved.current()

    assert champion is not None
    assert moved.folder(champion).is_dir()


@pytest.mark.parametrize("artifact", ["absent", "../elsewhere", "."])
def test_artifact_outside_the_champion_folder_is_refused(tmp_path: Path, artifact: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = runs_with(tmp_path / "runs", "monday")
    with pytest.raises(UsageError, match=r"is no folder below .*/runs, where champion.json stands"):
        file.promote(tmp_path / "runs" / artifact, None, ())


@pytest.mark.parametrize(
    "text",
    ["", '{"champions": [', "[]", '{"champions": [{"artifact": "monday"}], "events": []}'],
)
def test_damaged_champion_file_is_refused_and_says_how_to_go_on(tmp_path: Path, text: str) -> None:
    file = ChampionFile(tmp_path / "champion.json")
    file.path.write_text(text)
    with pytest.raises(DataError, match=r"champion.json is damaged .* Put back a copy, or remove it"):
        file.current()


def test_champion_file_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    file = ChampionFile(tmp_path / "champion.json")
    entry = {"artifact": "../../etc", "since": "2011-09-01", "reasons": []}
    file.path.write_text(json.dumps({"champions": [entry], "events": []}))
    with pytest.raises(DataError, match="an artifact lies outside the file's folder"):
        file.current()
