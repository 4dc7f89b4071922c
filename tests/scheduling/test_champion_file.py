"""Which model is the champion: promoted, refused, rolled back, by one or by several at once."""

import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from recsys.errors import BusyError, DataError, UsageError
from recsys.locks import held_lock
from recsys.scheduling.champion_file import PROMOTED, REFUSED, ROLLED_BACK, ChampionFile
from recsys.scheduling.promotion import Decision

YES, NO = Decision(True, ("better",)), Decision(False, ("worse", "and uncalibrated"))
FIRST = datetime.date(2011, 9, 1)


def made(folder: Path, *names: str) -> ChampionFile:
    for name in names:
        (folder / name).mkdir(parents=True)
    return ChampionFile(folder / "champion.json")


def settle(
    file: ChampionFile,
    name: str,
    instead_of: str | None,
    decision: Decision = YES,
    day: int = 0,
    gives_way: str | None = None,
) -> Decision:
    return file.settle(file.path.parent / name, FIRST + datetime.timedelta(days=day), instead_of, decision, gives_way)


def three(folder: Path) -> ChampionFile:
    """monday, tuesday and wednesday, each promoted in the place of the one before."""
    file = made(folder, "monday", "tuesday", "wednesday")
    settle(file, "monday", None)
    settle(file, "tuesday", "monday", day=1)
    settle(file, "wednesday", "tuesday", day=2)
    return file


def name_of(file: ChampionFile) -> str | None:
    champion = file.current()
    return champion.artifact if champion else None


def test_first_challenger_becomes_champion_where_there_was_none(tmp_path: Path) -> None:
    file = made(tmp_path, "monday")
    assert file.current() is None

    assert settle(file, "monday", None) == YES

    champion = file.current()
    assert champion is not None
    assert (champion.artifact, champion.date, champion.reasons) == ("monday", FIRST, ("better",))
    assert file.folder(champion) == tmp_path / "monday"


def test_refused_challenger_is_remembered_with_its_reasons_and_changes_no_champion(tmp_path: Path) -> None:
    file = made(tmp_path, "monday", "tuesday")
    settle(file, "monday", None)

    assert settle(file, "tuesday", "monday", NO, day=1) == NO

    assert name_of(file) == "monday"
    event = file.events()[-1]
    assert (event.what, event.artifact, event.champion, event.reasons) == (REFUSED, "tuesday", "monday", NO.reasons)


def test_each_champion_and_each_event_is_one_line(tmp_path: Path) -> None:
    file = three(tmp_path)
    lines = [line for line in file.path.read_text().splitlines() if line.startswith("    ")]
    assert [json.loads(line.rstrip(","))["artifact"] for line in lines] == ["monday", "tuesday", "wednesday"] * 2


@pytest.mark.parametrize("decision", [YES, NO])
def test_settling_again_returns_what_was_decided_and_writes_nothing(tmp_path: Path, decision: Decision) -> None:
    file = three(tmp_path)
    before = file.path.read_bytes()

    for name in ("monday", "wednesday"):
        assert settle(file, name, "whatever it was compared with", decision) == YES
    assert file.path.read_bytes() == before


def test_champion_before_a_date_is_the_newest_that_was_not_rolled_back(tmp_path: Path) -> None:
    file = three(tmp_path)

    def before(day: int) -> str | None:
        champion = file.before(FIRST + datetime.timedelta(days=day))
        return champion.artifact if champion else None

    assert [before(day) for day in range(5)] == [None, "monday", "tuesday", "wednesday", "wednesday"]
    file.roll_back("complaints")
    assert [before(day) for day in range(5)] == [None, "monday", "tuesday", "tuesday", "tuesday"]


def test_date_that_is_done_again_gives_its_champion_way_and_later_champions_stay(tmp_path: Path) -> None:
    file = three(tmp_path)
    for again, day in (("tuesday again", 1), ("wednesday again", 2)):
        (tmp_path / again).mkdir()
        old = again.partition(" ")[0]
        before = "monday" if day == 1 else "tuesday again"
        with pytest.raises(BusyError, match=f"that of {FIRST + datetime.timedelta(days=day)} {old}, while"):
            settle(file, again, before, day=day)
        settle(file, again, before, day=day, gives_way=old)
        assert name_of(file) == ("wednesday" if day == 1 else "wednesday again")
    assert file.events()[3].champion == "wednesday"
    assert file.roll_back("complaints").artifact == "tuesday again"
    assert file.roll_back("complaints").artifact == "monday"


def test_rolling_back_returns_to_each_champion_before_and_history_keeps_all(tmp_path: Path) -> None:
    file = three(tmp_path)

    assert file.roll_back("complaints about it").artifact == "tuesday"
    assert name_of(file) == "tuesday"
    assert file.roll_back("still").artifact == "monday"

    assert [(event.what, event.artifact, event.champion) for event in file.events()] == [
        (PROMOTED, "monday", "monday"),
        (PROMOTED, "tuesday", "tuesday"),
        (PROMOTED, "wednesday", "wednesday"),
        (ROLLED_BACK, "wednesday", "tuesday"),
        (ROLLED_BACK, "tuesday", "monday"),
    ]
    assert file.events()[3].reasons == ("complaints about it",)
    with pytest.raises(UsageError, match="holds no champion before the current one"):
        file.roll_back("again")


def test_model_that_was_rolled_back_is_not_promoted_by_its_run_starting_again(tmp_path: Path) -> None:
    file = three(tmp_path)
    file.roll_back("complaints")

    assert settle(file, "wednesday", "tuesday", day=2) == YES
    assert name_of(file) == "tuesday"


def test_rolling_back_where_nothing_was_promoted_makes_no_file(tmp_path: Path) -> None:
    file = ChampionFile(tmp_path / "shop" / "daily" / "champion.json")
    with pytest.raises(UsageError, match="nothing was promoted yet"):
        file.roll_back("complaints")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("decision", [YES, NO])
def test_challenger_compared_with_a_champion_that_was_replaced_meanwhile_must_compare_again(
    tmp_path: Path, decision: Decision
) -> None:
    file = made(tmp_path, "monday", "tuesday", "wednesday")
    settle(file, "monday", None)
    settle(file, "tuesday", "monday", day=1)

    with pytest.raises(BusyError, match=r"became tuesday, .* while wednesday was being compared with monday"):
        settle(file, "wednesday", "monday", decision, day=2)

    assert name_of(file) == "tuesday"
    assert [event.artifact for event in file.events()] == ["monday", "tuesday"]


def contend(path: Path, name: str) -> bool:
    """Whether `name` was promoted in the place of monday, over and over until nobody else writes."""
    while True:
        try:
            return settle(ChampionFile(path), name, "monday", day=1).promote
        except BusyError as error:
            if "became" in str(error):
                return False


def test_of_many_that_promote_at_once_in_one_champions_place_one_wins(tmp_path: Path) -> None:
    rivals = [f"tuesday-{number}" for number in range(6)]
    file = made(tmp_path, "monday", *rivals)
    settle(file, "monday", None)

    with (
        ThreadPoolExecutor(3) as threads,
        get_context("fork").Pool(3) as processes,
    ):
        here = [threads.submit(contend, file.path, name) for name in rivals[:3]]
        there = processes.starmap_async(contend, [(file.path, name) for name in rivals[3:]])
        won = [each.result(30) for each in here] + there.get(30)

    assert won.count(True) == 1
    assert name_of(file) == rivals[won.index(True)]
    assert len(file.events()) == 2


def test_settling_while_another_process_writes_is_busy(tmp_path: Path) -> None:
    file = made(tmp_path, "monday")
    with (
        held_lock(tmp_path / ".champion.json.lock", "a test"),
        pytest.raises(BusyError, match=r"champion file .*process"),
    ):
        settle(file, "monday", None)
    assert file.current() is None


def test_champion_moves_with_its_folder(tmp_path: Path) -> None:
    settle(made(tmp_path / "here", "monday"), "monday", None)
    (tmp_path / "here").rename(tmp_path / "there")

    moved = ChampionFile(tmp_path / "there" / "champion.json")
    champion = moved.current()

    assert champion is not None
    assert moved.folder(champion).is_dir()


@pytest.mark.parametrize("artifact", ["absent", "../elsewhere", "."])
def test_artifact_outside_the_champion_folder_is_refused(tmp_path: Path, artifact: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = made(tmp_path / "runs", "monday")
    with pytest.raises(UsageError, match=r"is no folder below .*/runs, where champion.json stands"):
        settle(file, artifact, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"champions": [',
        "[]",
        '{"champions": [{"artifact": "monday"}], "events": []}',
        '{"champions": [{"artifact": "monday", "date": "soon", "since": "", "reasons": []}], "events": []}',
        '{"champions": [], "events": ["promoted"]}',
    ],
)
def test_damaged_champion_file_is_refused_and_says_how_to_go_on(tmp_path: Path, text: str) -> None:
    file = ChampionFile(tmp_path / "champion.json")
    file.path.write_text(text)
    with pytest.raises(DataError, match=r"champion.json is damaged .* Put back a copy, or remove it"):
        file.current()


@pytest.mark.parametrize("part", ["champions", "events"])
@pytest.mark.parametrize("artifact", ["../../etc", "/etc"])
def test_champion_file_that_points_outside_its_folder_is_refused(tmp_path: Path, part: str, artifact: str) -> None:
    file = ChampionFile(tmp_path / "champion.json")
    entry = {"artifact": artifact, "date": "2011-09-01", "since": "2011-09-01", "reasons": []}
    file.path.write_text(json.dumps({"champions": [], "events": []} | {part: [entry]}))
    with pytest.raises(DataError, match="an artifact lies outside the file's folder"):
        file.current()
