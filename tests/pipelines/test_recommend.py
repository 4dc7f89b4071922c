"""Lists of recommendations: what a scorer would give each candidate, on the date, whole or not at all."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts.export import load_scorer
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.errors import DataError, UsageError
from recsys.features.raw import raw_to_batch
from recsys.progress import silent
from recsys.run import recommend, train
from recsys.run.folder import new_run
from recsys.run.recommend import Request
from tests.purchases import Purchases, candidates_at, purchases, scored

DATE = "2024-03-26"
ASKED = Request(date=DATE, users=None, top=7, retrieve=0, is_new_only=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Purchases:
    return Purchases(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def trained(shop: Purchases) -> tuple[RunConfig, Path]:
    config = compose_config(shop.overrides)
    identity = new_run(config)
    train.run(config, identity, silent)
    return config, identity.folder


def lists_of(trained: tuple[RunConfig, Path], asked: Request, output: Path) -> pd.DataFrame:
    config, folder = trained
    found = recommend.run(config, folder, asked, output, silent)
    rows = pd.concat(
        [pq.read_table(part, partitioning=None).to_pandas() for part in sorted(found.path.glob("*.parquet"))]
    )
    assert found.rows == len(rows)
    return rows.reset_index(drop=True)


def by_hand(folder: Path, is_new_only: bool = False) -> pd.DataFrame:
    """Every user's candidates by pandas, scored one row at a time by the scorer's own encoding."""
    events = purchases().to_pandas()
    parts = []
    for user, own in events[events["at"] < DATE].groupby("user_id"):
        rows = candidates_at(events, user, own["country"].iloc[-1], pd.Timestamp(DATE))
        parts.append(rows[rows["bought_times"] == 0] if is_new_only else rows)
    found = scored(pd.concat(parts), load_scorer(folder / "model"))
    ordered = found.sort_values(["user_id", "score", "item_id"], ascending=[True, False, True])
    ordered["rank"] = ordered.groupby("user_id").cumcount() + 1
    return ordered.reset_index(drop=True)


@pytest.mark.parametrize("is_new_only", [False, True])
def test_lists_are_the_best_of_all_candidates_scored_one_by_one(trained, tmp_path, is_new_only):
    found = lists_of(trained, replace(ASKED, is_new_only=is_new_only), tmp_path)

    expected = by_hand(trained[1], is_new_only)
    expected = expected[expected["rank"] <= 7].reset_index(drop=True)
    assert found[["user_id", "item_id", "rank"]].to_numpy().tolist() == (
        expected[["user_id", "item_id", "rank"]].to_numpy().tolist()
    )
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_the_ranker_orders_what_the_tower_found_and_what_the_user_had_before(trained, tmp_path):
    every = by_hand(trained[1])
    table = pa.Table.from_pandas(every.drop(columns=["count", "probability", "score", "rank"]), preserve_index=False)
    scorer = load_scorer(trained[1] / "model")
    user, item = scorer.ranker.embedding_tower.side_vectors(raw_to_batch(table, scorer.contract, scorer.vocabularies))
    every["product"] = (user * item).sum(dim=1).double().numpy()
    nearest = every.groupby("user_id")["product"].rank(ascending=False) <= 5
    expected = every[nearest | (every["bought_times"] > 0)].groupby("user_id").head(7)

    found = lists_of(trained, replace(ASKED, retrieve=5), tmp_path)

    assert found[["user_id", "item_id"]].to_numpy().tolist() == expected[["user_id", "item_id"]].to_numpy().tolist()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_nothing_that_was_bought_before_is_recommended_again_where_only_new_is_asked_for(trained, tmp_path):
    found = lists_of(trained, replace(ASKED, retrieve=5, is_new_only=True), tmp_path)

    events = purchases().to_pandas()
    had = set(zip(*(events[events["at"] < DATE][name] for name in ("user_id", "item_id")), strict=True))
    assert len(found)
    assert not had & set(zip(found["user_id"], found["item_id"], strict=True))


def test_later_events_change_no_list(shop, trained, tmp_path):
    before = lists_of(trained, ASKED, tmp_path / "before")
    later = purchases().to_pandas()
    later = later[later["at"] < DATE]
    more = later.tail(40).assign(at=pd.Timestamp(DATE), invoice="later", item_id="005", country="US")
    raw = tmp_path / "raw"
    shutil.copytree(shop.raw, raw)
    pd.concat([later, more]).to_parquet(raw / "purchases.parquet", index=False)
    config, folder = trained

    after = lists_of((replace(config, data=replace(config.data, raw=raw)), folder), ASKED, tmp_path / "after")

    pd.testing.assert_frame_equal(before, after)


def test_a_killed_one_goes_on_after_its_last_whole_part(trained, tmp_path, monkeypatch):
    config, folder = trained
    whole = lists_of(trained, ASKED, tmp_path / "whole")
    monkeypatch.setattr(recommend, "_PAIRS_AT_ONCE", 100)
    write, written = recommend._write_part, list[str]()

    def dies_at_the_third(part: Path, *rest) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(part, *rest)
        written.append(part.name)

    monkeypatch.setattr(recommend, "_write_part", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        recommend.run(config, folder, ASKED, tmp_path / "parts", silent)
    assert not list(tmp_path.glob("parts/date=*/model=*"))
    monkeypatch.setattr(recommend, "_write_part", lambda part, *rest: (written.append(part.name), write(part, *rest)))

    found = lists_of(trained, ASKED, tmp_path / "parts")

    assert written == sorted(set(written))
    assert len(written) > 3
    pd.testing.assert_frame_equal(found, whole)
    assert not recommend.run(config, folder, ASKED, tmp_path / "parts", silent).was_run


def test_some_users_by_their_ids(trained, tmp_path):
    found = lists_of(trained, replace(ASKED, users=("u03", "u07", "nobody")), tmp_path)

    assert found["user_id"].unique().tolist() == ["u03", "u07"]


def test_what_cannot_be_asked_is_said(trained, tmp_path):
    config, folder = trained
    with pytest.raises(UsageError, match=r"--date is '26.3.2024'; expected YYYY-MM-DD"):
        recommend.run(config, folder, replace(ASKED, date="26.3.2024"), tmp_path, silent)
    with pytest.raises(DataError, match=r"none of the users asked for has an event before 2024-03-26"):
        recommend.run(config, folder, replace(ASKED, users=("nobody",)), tmp_path, silent)
