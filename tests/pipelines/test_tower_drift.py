"""How far a run moved its tower: watched, reported with ids, and held to a limit; a frozen tower moves by nothing."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.errors import TrainingError, UsageError
from recsys.progress import silent
from recsys.run import fitted_baselines, prepare, train
from recsys.run.curves import load_curves
from recsys.run.drift_report import DRIFT, load_drift, movers_csv, summaries_of
from recsys.run.drift_watch import DriftWatch
from recsys.run.folder import TRAIN, RunIdentity
from recsys.run.last_rows import last_rows, seen_days
from recsys.run.record import open_store
from recsys.run.streams import scoring_stream, started
from recsys.tracking.drift_names import TAG_DRIFT, drift
from tests.pipelines.own_table import ITEMS, PRETRAIN, OwnTable

MEASURES = ("cosine_distance", "neighbours_lost", "norm_change")
TIGHT = "{measure: cosine_distance, limit: 1.0e-9, action: %s}"


@pytest.fixture(scope="module", autouse=True)
def _all_that_is_learnt_counts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitted_baselines, "gain_error", lambda rows, others: -1e9)
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> OwnTable:
    return OwnTable(tmp_path_factory.mktemp("shop"))


def trained(shop: OwnTable, *words: str) -> tuple[RunConfig, Path]:
    config = compose_config([*shop.words, *PRETRAIN, *words])
    name = f"run-{len(list(shop.root.glob('runs/run-*')))}"
    folder = config.runtime.runs / name
    train.run(config, RunIdentity(folder, name, name, TRAIN), silent)
    return config, folder


@pytest.fixture(scope="module")
def warned(shop: OwnTable) -> tuple[RunConfig, Path]:
    """A run whose tower learns, beyond its limit of drift."""
    return trained(shop, "training_mode=end_to_end", f"training_mode.max_drift={TIGHT % 'warn'}")


def test_drift_is_a_curve_that_begins_at_exactly_0_and_ends_where_the_report_begins(warned: tuple[RunConfig, Path]):
    curves, report = load_curves(warned[1]), load_drift(warned[1])

    assert report is not None
    overall = summaries_of(report)["all"]["all, by rows"]
    for measure in MEASURES:
        steps, values = curves[drift(measure)]
        assert list(steps) == [steps[0], *sorted(steps)[1:]]
        assert values[-1] == pytest.approx(overall[measure], abs=1e-9)
    assert overall["cosine_distance"] > 1e-6


def test_the_report_tells_of_every_item_by_popularity_segment_and_age(warned: tuple[RunConfig, Path]):
    report = load_drift(warned[1])

    assert report is not None
    assert report["items"] == {"in_vocabulary": ITEMS, "in_training_rows": ITEMS, "measured": ITEMS}
    assert (report["neighbours"], report["neighbour_queries"], report["neighbour_pool"]) == (10, ITEMS, ITEMS)
    groups = summaries_of(report)
    assert set(groups) == {"all", "popularity", "segment", "first seen", "last seen"}
    assert set(groups["segment"]) == {"phone", "desktop"}
    assert sum(each["vectors"] for each in groups["popularity"].values()) == ITEMS
    assert sum(each["vectors"] for each in groups["last seen"].values()) == ITEMS
    assert report["to"]["parent"] == report["from"]["version"] != report["to"]["version"]


def test_a_run_beyond_a_limit_that_warns_finishes_and_is_tagged_with_what_was_found(warned: tuple[RunConfig, Path]):
    report = load_drift(warned[1])

    assert report is not None
    assert "cosine_distance is 0.0" in report["fault"]
    assert "above 1e-09 (`training_mode.max_drift`)" in report["fault"]
    assert report["answer"].startswith("Other models should not share this tower unseen")
    (run,) = recorded(warned[0], warned[1].name)
    assert run.data.tags[TAG_DRIFT] == report["fault"]
    assert run.data.params["training_mode.max_drift"] == "cosine_distance 1e-09, warn"
    assert {drift(measure) for measure in MEASURES} <= set(run.data.metrics)
    assert {"drift_segment/phone", "drift_segment/desktop"} <= set(run.data.metrics)
    files = {each.path for each in open_store(warned[0]).open().list_artifacts(run.info.run_id)}
    assert {DRIFT, "drift_worst_movers.csv"} <= files


def test_a_run_beyond_a_limit_that_stops_fails_with_the_reason_and_leaves_no_result(shop: OwnTable):
    with pytest.raises(TrainingError, match=r"cosine_distance is 0.0.*above 1e-09.*rates.embedding_tower.*action=warn"):
        trained(shop, "training_mode=end_to_end", f"training_mode.max_drift={TIGHT % 'stop'}")

    config = compose_config([*shop.words, *PRETRAIN])
    (run,) = [each for each in recorded(config) if "stop" in each.data.params["training_mode.max_drift"]]
    assert run.info.status == "FAILED"
    assert "too far from those that the run began with" in run.data.tags["end_reason"]
    assert "cosine_distance is 0.0" in run.data.tags[TAG_DRIFT]
    assert not list(shop.root.glob(f"runs/{run.info.run_name}/result.json"))


def test_a_mode_that_never_moves_the_tower_may_have_no_limit():
    with pytest.raises(UsageError, match="`frozen_tower` never moves the tower; set `max_drift` to null"):
        compose_config(["training_mode=frozen_tower", f"training_mode.max_drift={TIGHT % 'warn'}"])


def test_planted_movers_are_named_by_their_ids_and_whatever_stays_is_not(shop: OwnTable):
    config = compose_config([*shop.words, *PRETRAIN, "training_mode=end_to_end"])
    encoded, context = prepare.run(config, silent), started(config)
    ready = train.ready_ranker(config, encoded, train.pretrain.run(config, encoded, silent), silent)
    watch = DriftWatch(ready.assembly.wrapped, ready.config, encoded, context)
    assert watch.figures() == dict.fromkeys(map(drift, MEASURES), 0.0)

    table = next(
        each for name, each in ready.assembly.wrapped.state_dict().items() if name.endswith("tower_item_id.weight")
    )
    ids = encoded.vocabulary("item_id").ids.to_pylist()
    with torch.no_grad():
        local = getattr(table, "local_shards", list)()
        (local[0].tensor if local else table)[[1 + ids.index(3), 1 + ids.index(17)]] += 5.0
    rows = list(csv.DictReader(io.StringIO(movers_csv(watch.measure(), watch.items, encoded))))
    assert {row["id"] for row in rows} == {"3", "17"}
    assert all(int(row["rows"]) > 0 and row["first_seen"].startswith("2024-03-") for row in rows)


def test_the_last_training_row_of_each_id_is_the_one_that_is_taken(shop: OwnTable):
    config = compose_config([*shop.words, *PRETRAIN, "evaluation.batch_size=32"])
    encoded, context = prepare.run(config, silent), started(config)
    found = last_rows(config, encoded, context, "item_id", 1000, seed=0)

    expected: dict[int, float] = {}
    for batch in scoring_stream(config, encoded, "train", context):
        for item, age in zip(batch.sparse["item_id"].values().tolist(), batch.dense[:, 0].tolist(), strict=True):
            expected[item] = age
    ages = torch.cat([batch.dense[:, 0] for batch in found.batches]).tolist()
    assert dict(zip(found.ids.tolist(), ages, strict=True)) == expected
    assert found.rows.sum() == encoded.rows("train")
    days = seen_days(encoded, found)
    assert days is not None
    assert (days[0] <= days[1]).all()
    assert days[1].max() == len(encoded.days("train")) - 1


def recorded(config: RunConfig, name: str = "") -> list:
    client = open_store(config).open()
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'train'")
    return [run for run in runs if not name or run.info.run_name == name]
