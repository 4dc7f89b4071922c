"""A run around a history tower: from declared events to a served model, audited, measured and frozen by name."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.artifacts.export import load_scorer
from recsys.build import build_spec
from recsys.config.compose import compose_config
from recsys.datasets.decode import raw_rows
from recsys.evaluation.split_evaluation import predict
from recsys.features.graded import GRADE
from recsys.progress import silent
from recsys.run import prepare, pretrain, train
from recsys.run.folder import RunResult, new_run
from recsys.run.pretrain_history import grades_of, history_objective
from recsys.run.streams import TEST, VALIDATION, scoring_stream, started
from recsys.towers.any_tower import build_tower
from recsys.towers.history import HistoryTower
from tests.pipelines.own_table import OwnTable
from tests.pipelines.test_objectives_of_a_run import rated

NARROW = ["tower.key_width=4", "tower.factor_width=4", "tower.epochs=1", "tower.batch_size=64"]
VECTORS = ["tower.vectors.width=4", "tower.vectors.projection_width=3", "tower.vectors.vector_column=vector"]


def with_events(table: OwnTable, value: str = "clicked") -> None:
    """Declare the last clicks of each user and of each item, what came of them and when."""
    for side, other, tower in (("user", "item", "user_tower"), ("item", "user", "item_tower")):
        name, of = f"{side}_events", f"{other}_id"
        table.schema["features"] += [
            {"name": name, "kind": "sparse_list", "table": of, "max_length": 5, "used_by": [tower]},
            {"name": f"{name}_{value}", "kind": "dense_list", "beside": name, "fill": 0, "used_by": [tower]},
            {
                "name": f"{name}_ages",
                "kind": "dense_list",
                "beside": name,
                "holds": "age_days",
                "fill": 0,
                "used_by": [tower],
            },
        ]
        history = table.schema["table"].setdefault("history", {"scope": "live", "features": {}})
        for feature, what in ((name, {}), (f"{name}_{value}", {"of": value}), (f"{name}_ages", {"of": "age_days"})):
            listed = {"kind": "recent", "by": [f"{side}_id"], "of": of, "length": 5, "rows": "all"}
            history["features"][feature] = listed | what | ({"beside": of} if what else {})
    table.write()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, RunResult]:
    table = OwnTable(tmp_path_factory.mktemp("events"))
    with_events(table)
    draw = torch.Generator().manual_seed(0)
    table.write_vectors(list(range(20)), torch.randn(20, 6, generator=draw).tolist())
    words = ["tower=history_titles", f"tower.vectors.file={table.root}/vectors.parquet", "tower.vectors.id_column=id"]
    overrides = [*table.words, *words, *VECTORS, *NARROW, "training.tower_day_share=0"]
    config = compose_config(overrides)
    identity = new_run(config)
    return overrides, identity.folder, train.run(config, identity, silent)


def test_what_is_frozen_by_name_is_proven_unchanged_and_the_rest_has_moved(trained):
    _, _, result = trained
    assert 0 < result.scores["auc/all"] < 1
    assert set(result.frozen_proof) == {"embedding_tower.sources.vectors", "embedding_tower.heads.user_vectors"}


def test_the_served_model_scores_raw_rows_with_their_lists_as_the_run_did(trained):
    overrides, folder, _ = trained
    config = compose_config(overrides)
    encoded = prepare.run(config, silent)
    scorer = load_scorer(folder / "model")
    assert isinstance(scorer.ranker.embedding_tower, HistoryTower)
    raw = next(iter(raw_rows(encoded, TEST)))
    raw = raw.rename_columns({"segment": "device"})  # as in the files
    assert raw["user_events_clicked"].combine_chunks().flatten().to_pylist()
    stream = scoring_stream(config, encoded, TEST, started(config))
    expected = torch.as_tensor(predict(scorer.ranker, stream, silent).logit[: len(raw)]).double().sigmoid()
    torch.testing.assert_close(torch.from_numpy(scorer.score(raw)), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def rated_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    table = rated(OwnTable(tmp_path_factory.mktemp("graded_events")))
    with_events(table, "rating")
    return [*table.words, "tower=history", *NARROW, "training.tower_day_share=0"]


def test_where_labels_are_graded_pretraining_asks_at_every_threshold(rated_words):
    config = compose_config(rated_words)
    encoded = prepare.run(config, silent)
    tower = build_tower(build_spec(config.tower, encoded.contract.schema), encoded.contract)
    objective = history_objective(config.tower, tower, encoded).eval()
    stream = scoring_stream(config, encoded, VALIDATION, started(config), grades_of(encoded))
    batch = next(iter(stream))

    logits, grade = objective.readout(tower(batch)), batch.extra[GRADE]
    expected = sum(
        share * binary_cross_entropy_with_logits(logits[:, place], (grade > threshold).float())
        for place, (threshold, share) in enumerate(((1, 0.25), (3, 1.0), (4, 0.25)))
    )
    torch.testing.assert_close(objective(batch), expected)


def test_the_pretrained_tower_is_the_average_of_its_weights(rated_words):
    plain = compose_config(rated_words)
    averaged = compose_config([*rated_words, "tower.average_decay=0.9"])
    encoded = prepare.run(plain, silent)
    one, other = (pretrain.run(config, encoded, silent) for config in (plain, averaged))

    assert "at every threshold" in other.provenance["objective"]
    start = build_tower(build_spec(plain.tower, encoded.contract.schema), encoded.contract).state_dict()
    assert one.weights.keys() == other.weights.keys()
    name = "biases.user.prior"
    last, mean = (abs(each.weights[name] - start[name]).max() for each in (one, other))
    assert 0 < mean < last, "a scalar that drifts one way lags behind in its average"
