"""Data whose candidates are the nearest by the tower: both stages' metrics are those of a naive computation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.artifacts.export import load_scorer
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.features.raw import raw_to_batch
from recsys.progress import silent
from recsys.run import evaluate, rank_nearest, train
from recsys.run.folder import RunResult, new_run
from recsys.run.record import final_metrics
from tests.purchases import Purchases, candidates_at, purchases, schema_of, scored

NEAREST = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path, RunResult]:
    document = schema_of(candidates={"within": "20d", "nearest": NEAREST})
    config = compose_config(Purchases(tmp_path_factory.mktemp("shop"), document).overrides)
    identity = new_run(config)
    return config, identity.folder, train.run(config, identity, silent)


def retrieved_by_hand(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each test invoice's nearest candidates with both scores, and what was bought, by pandas."""
    scorer, events = load_scorer(folder / "model"), purchases().to_pandas()
    bought = events[events["at"] >= "2024-03-25"].assign(new=True)
    parts = []
    for invoice, lines in bought.groupby("invoice"):
        first = lines.iloc[0]
        rows = candidates_at(events, first["user_id"], first["country"], first["at"]).assign(invoice=invoice)
        table = pa.Table.from_pandas(rows.drop(columns=["count", "invoice"]), preserve_index=False)
        user, item = scorer.ranker.embedding_tower.side_vectors(
            raw_to_batch(table, scorer.contract, scorer.vocabularies)
        )
        rows["product"] = (user * item).sum(dim=1).double().numpy()
        parts.append(rows.sort_values(["product"], ascending=False).head(NEAREST))
        had = set(events[(events["user_id"] == first["user_id"]) & (events["at"] < first["at"])]["item_id"])
        bought.loc[lines.index, "new"] = ~lines["item_id"].isin(had)
    found = pd.concat(parts)
    return pd.concat(
        [scored(rows.drop(columns="invoice"), scorer).assign(invoice=name) for name, rows in found.groupby("invoice")]
    ), bought


def metrics_by_hand(ranked: pd.DataFrame, bought: pd.DataFrame, by: str, k: int) -> dict[str, float]:
    values = []
    for invoice, lines in bought.groupby("invoice"):
        relevant = set(lines["item_id"])
        best = ranked[ranked["invoice"] == invoice].sort_values(by, ascending=False)["item_id"].tolist()[:k]
        places = [place for place, item in enumerate(best) if item in relevant]
        ideal = sum(1 / np.log2(place + 2) for place in range(min(len(relevant), k)))
        gain = sum(1 / np.log2(place + 2) for place in places)
        values.append((len(places) / len(relevant), gain / ideal, 1 / (places[0] + 1) if places else 0))
    return dict(zip(("recall", "ndcg", "mrr"), np.mean(values, axis=0).tolist(), strict=True))


def test_both_stages_are_judged_against_everything_that_was_bought(trained):
    _, folder, result = trained
    ranked, bought = retrieved_by_hand(folder)
    new, bought_new = ranked[ranked["bought_times"] == 0], bought[bought["new"]]

    found = result.scores

    for start, by in (("", "score"), ("tower_", "product")):
        for k in (10, 20):
            for name, value in metrics_by_hand(ranked, bought, by, k).items():
                assert found[f"{start}{name}_{k}/all"] == pytest.approx(value), (start, name, k)
            for name, value in metrics_by_hand(new, bought_new, by, k).items():
                assert found[f"{start}{name}_{k}_new/all"] == pytest.approx(value), (start, name, k)
    in_segment = bought["invoice"].isin(ranked[ranked["segment"] == "regular"]["invoice"])
    of_regular = metrics_by_hand(ranked, bought[in_segment], "score", 10)
    assert found["recall_10/regular"] == pytest.approx(of_regular["recall"])


def test_the_first_stages_own_recall_and_the_coverage_are_told(trained):
    _, folder, result = trained
    ranked, bought = retrieved_by_hand(folder)
    pairs = set(zip(ranked["invoice"], ranked["item_id"], strict=True))
    is_there = [pair in pairs for pair in zip(bought["invoice"], bought["item_id"], strict=True)]
    best = ranked.sort_values("score", ascending=False).groupby("invoice").head(10)

    assert result.scores["candidates_recall/all"] == pytest.approx(
        pd.Series(is_there).groupby(bought["invoice"].to_numpy()).mean().mean()
    )
    assert 0 < result.scores["candidates_recall/all"] < 1
    # Every item was sold in the 20 days before some test invoice.
    assert result.scores["coverage_10/all"] == best["item_id"].nunique() / 30
    recorded = final_metrics(result.scores)["ranking_test"]
    assert {"ranking/recall20_all", "ranking/tower_ndcg10_all", "ranking/candidates_recall_all"} <= set(recorded)


def test_the_size_of_blocks_changes_nothing_and_evaluate_finds_the_same(trained, monkeypatch):
    config, folder, result = trained
    monkeypatch.setattr(rank_nearest, "_PAIRS_AT_ONCE", 50)

    found = evaluate.run(config, folder, "test", silent).ranker

    names = [name for name in result.scores if "recall" in name or "ndcg" in name or "coverage" in name]
    assert names
    assert {name: found[name] for name in names} == pytest.approx({name: result.scores[name] for name in names})
