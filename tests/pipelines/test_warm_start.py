"""A run that starts from a served model: what it takes from it, to the bit, and what it refuses."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.artifacts.export import load_saved
from recsys.artifacts.scorer import read_scorer
from recsys.build import build_ranker, rebuild_ranker
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.evaluation.baselines import gain_error
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.progress import silent
from recsys.run import fitted_baselines, prepare, pretrain, train
from recsys.run.folder import DAILY, RunIdentity, RunResult
from recsys.run.record import open_store
from recsys.run.serving import MODEL
from recsys.run.stopping import StopRequest
from recsys.run.streams import scoring_stream, started
from recsys.run.warm_start import WarmStart
from recsys.towers.artifact import apply_tower
from recsys.towers.version import version_of
from tests.pipelines.own_table import PRETRAIN, OwnTable

DAY_5 = ("data.train_start=2024-03-01", "data.validation_start=2024-03-06", "data.test_start=2024-03-08")
DAY_15 = ("data.train_start=2024-03-08", "data.validation_start=2024-03-16", "data.test_start=2024-03-18")
NEW_ITEMS = {100, 101, 102}
FROZEN = "training_mode=frozen_tower"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> OwnTable:
    """From the tenth day on it sells three goods more."""
    shop = OwnTable(tmp_path_factory.mktemp("shop"))
    shop.columns["item_id"] = [
        100 + row % 3 if row >= 200 and row % 7 == 0 else item for row, item in enumerate(shop.columns["item_id"])
    ]
    shop.write()
    return shop


def trained(config: RunConfig, name: str, start: WarmStart | None = None, *, resume: bool = False) -> RunResult:
    known = start.known_fit if start else None
    config = start.settled(config) if start else config
    encoded = prepare.run(config, silent, known)
    artifact = pretrain.run(config, encoded, silent, start)
    identity = RunIdentity(config.runtime.runs / name, name, name, DAILY)
    store = open_store(config)
    return train.fit_and_measure(config, identity, store, encoded, artifact, silent, resume=resume, start=start)


@pytest.fixture(scope="module", autouse=True)
def _all_that_is_learnt_counts() -> Iterator[None]:
    """Weights after a step are kept: on forty rows hardly any are better by more than chance."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitted_baselines, "gain_error", lambda rows, others: -1e9)
        yield


@pytest.fixture(scope="module")
def before(shop: OwnTable) -> RunConfig:
    """Of the model that is started from."""
    return compose_config([*shop.words, *PRETRAIN, *DAY_5, "data.test_end=2024-03-10", FROZEN])


@pytest.fixture(scope="module")
def config(shop: OwnTable) -> RunConfig:
    return compose_config([*shop.words, *PRETRAIN, *DAY_15, "data.test_end=2024-03-20", FROZEN])


@pytest.fixture(scope="module")
def start(before: RunConfig) -> WarmStart:
    trained(before, "champion")
    return WarmStart(before.runtime.runs / "champion" / MODEL)


@pytest.fixture(scope="module")
def encoded(config: RunConfig, start: WarmStart) -> EncodedDataset:
    return prepare.run(config, silent, start.known_fit)


@pytest.fixture(scope="module")
def warm(config: RunConfig, start: WarmStart, encoded: EncodedDataset) -> RunResult:
    return trained(config, "warm", start)


def saved_weights(config: RunConfig, name: str) -> dict[str, torch.Tensor]:
    return dict(load_saved(config.runtime.runs / name / MODEL).weights)


def plain_ranker(config: RunConfig, start: WarmStart, encoded: EncodedDataset) -> Ranker:
    artifact, mode = start.tower(config, encoded), config.training_mode
    ranker = build_ranker(config.network, config.composition, artifact.spec, encoded.contract, seed=1)
    assert mode.adapter_rank is None
    apply_tower(ranker.embedding_tower, artifact)
    start.load_into(ranker, encoded)
    return ranker.eval()


def test_the_rows_know_new_items_beside_those_of_the_model(encoded: EncodedDataset, start: WarmStart):
    known, ids = start.known_fit.vocabularies["item_id"].ids, encoded.vocabulary("item_id").ids
    assert ids[: len(known)].equals(known)
    assert {*ids[len(known) :].to_pylist()} >= NEW_ITEMS


def test_a_model_of_the_label_alone_is_no_start_for_thresholds(config, start, encoded):
    ordinal = dataclasses.replace(config, training=dataclasses.replace(config.training, objective="ordinal"))
    with pytest.raises(UsageError, match=r"`training\.objective` is \"not ordinal\" there and \"ordinal\" in this run"):
        start.require_fit(ordinal, encoded.contract.schema)


def test_before_its_first_step_it_answers_every_row_as_the_model_did(config, start, encoded, before):
    ranker = plain_ranker(config, start, encoded)
    folder = before.runtime.runs / "champion" / MODEL / "artifacts" / "ranker"
    champion = read_scorer(folder, rebuild_ranker).ranker
    (batch,) = scoring_stream(config, encoded, "test", started(config))
    ids = batch.sparse.values()
    features = torch.repeat_interleave(torch.arange(2), len(batch))
    keys = batch.sparse.keys()
    sizes = torch.tensor([len(start.known_fit.vocabularies[name]) for name in keys])
    # The model knows no new id: to it they all are the unknown row.
    as_known = torch.where(ids < sizes[features], ids, UNKNOWN_ROW)
    assert not torch.equal(ids, as_known)
    seen = KeyedJaggedTensor(keys, as_known, lengths=batch.sparse.lengths())
    with torch.no_grad():
        assert torch.equal(ranker(batch), champion(dataclasses.replace(batch, sparse=seen)))


def test_known_rows_are_the_models_to_the_bit_and_new_ones_its_unknown_row(config, start, encoded):
    weights, old = plain_ranker(config, start, encoded).state_dict(), dict(load_saved(start.model).weights)
    tables = [name for name, table in weights.items() if len(table) > len(old[name])]
    assert {name.partition(".")[0] for name in tables} == {"embedding_tower", "interaction_network", "head"}
    for name, table in weights.items():
        assert torch.equal(table[: len(old[name])], old[name])
        if name in tables:
            assert torch.equal(table[len(old[name]) :], old[name][:1].expand(len(table) - len(old[name]), -1))


def test_a_frozen_tower_keeps_its_bits_its_version_and_its_digest(config, start, warm):
    old, new = saved_weights(config, "champion"), saved_weights(config, "warm")
    for name, weight in old.items():
        if name.startswith("embedding_tower."):
            assert torch.equal(new[name][: len(weight)], weight)
    assert warm.frozen_proof["embedding_tower"]["is_unchanged"]
    after = WarmStart(config.runtime.runs / "warm" / MODEL)
    assert after.tower_version == start.tower_version
    assert after.digest != start.digest
    client = open_store(config).open()
    experiment = client.get_experiment_by_name(config.data.name)
    tags = {run.info.run_name: run.data.tags for run in client.search_runs([experiment.experiment_id])}
    version = start.tower_version
    for run in ("champion", "warm"):
        assert (tags[run]["tower_version"], tags[run]["tower_digest"]) == (version.version, version.digest)
    assert tags["warm"]["start"] == start.digest
    assert "start" not in tags["champion"]


@pytest.mark.usefixtures("warm")
def test_every_other_part_learns_on(config: RunConfig, start: WarmStart, encoded: EncodedDataset):
    first = plain_ranker(config, start, encoded).state_dict()
    weights = saved_weights(config, "warm")
    moved = {name.partition(".")[0] for name in weights if not torch.equal(weights[name], first[name])}
    assert moved == {"interaction_network", "composition", "head"}


def test_no_tower_is_pre_trained(config, start, encoded):
    artifact = pretrain.run(config, encoded, silent, start)
    assert version_of(artifact) == start.tower_version
    assert artifact.provenance["model"] == start.digest


def test_a_new_items_row_in_an_imported_tower_is_made_of_its_vector(shop: OwnTable) -> None:
    ids = [*range(20), *NEW_ITEMS]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 6))
    words = [*shop.words, *shop.write_vectors(ids, vectors.tolist()), FROZEN]
    trained(compose_config([*words, *DAY_5, "data.test_end=2024-03-10"]), "imported")
    config = compose_config([*words, *DAY_15, "data.test_end=2024-03-20"])
    start = WarmStart(config.runtime.runs / "imported" / MODEL)
    encoded = prepare.run(config, silent, start.known_fit)
    artifact = pretrain.run(config, encoded, silent, start)
    (table,) = artifact.weights.values()
    rows = encoded.vocabulary("item_id").rows_of(sorted(NEW_ITEMS))
    assert (rows >= len(start.known_fit.vocabularies["item_id"])).all()
    assert len({tuple(row) for row in table[torch.from_numpy(rows)].tolist()}) == len(NEW_ITEMS)
    assert not any(torch.equal(table[row], table[UNKNOWN_ROW]) for row in rows.tolist())
    assert version_of(artifact) == start.tower_version


def test_a_tower_that_learns_becomes_a_new_version_with_the_old_one_as_its_parent(shop, start):
    config = compose_config([*shop.words, *PRETRAIN, *DAY_15, "data.test_end=2024-03-20", "training_mode=end_to_end"])
    assert trained(config, "learning", start).best_step > 0
    after = WarmStart(config.runtime.runs / "learning" / MODEL).tower_version
    assert after.parent == start.tower_version.version
    assert after.digest != start.tower_version.digest


def test_where_nothing_is_better_by_more_than_chance_the_models_weights_are_kept(config, start, encoded, monkeypatch):
    monkeypatch.setattr(fitted_baselines, "gain_error", gain_error)
    tiny = dataclasses.replace(config, daily=dataclasses.replace(config.daily, warm_rate=1e-9))
    assert trained(tiny, "kept", start).best_step == 0
    first = plain_ranker(config, start, encoded).state_dict()
    kept = saved_weights(config, "kept")
    assert all(torch.equal(kept[name], first[name]) for name in kept)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(config, start, warm, monkeypatch):
    asked = []

    def stop(request: StopRequest) -> bool:
        asked.append(None)
        return len(asked) >= 2

    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "__call__", stop)
        patched.setattr(StopRequest, "raise_if_asked", lambda request: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained(config, "stopped", start)
    resumed = trained(config, "stopped", start, resume=True)
    assert resumed.scores == warm.scores
    assert resumed.record == warm.record
    unbroken, weights = saved_weights(config, "warm"), saved_weights(config, "stopped")
    assert all(torch.equal(weights[name], unbroken[name]) for name in unbroken)


def test_rates_are_a_share_of_those_configured_for_one_epoch_over_all_days(config, start):
    training = start.settled(dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=None)))
    share = config.daily.warm_rate
    assert training.training.epochs == 1
    assert training.training.tower_day_share == 0
    assert training.training.learning_rate == pytest.approx(share * config.training.learning_rate)
    assert training.training.table_learning_rate == pytest.approx(share * config.training.table_learning_rate)


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("network.field_width=8", "network.field_width"),
        ("composition=sequential", "composition.name"),
        ("tower.width=8", "tower.width"),
        ("training_mode=frozen_adapter", "training_mode.adapter_rank"),
    ],
)
def test_a_model_of_another_shape_is_refused_with_what_differs(shop, start, encoded, override, setting):
    config = compose_config([*shop.words, *PRETRAIN, *DAY_15, override])
    with pytest.raises(UsageError, match=rf"{start.model} .*`{setting}` is .*`daily\.start=scratch"):
        start.require_fit(config, encoded.contract.schema)


def test_a_run_whose_segments_learn_each_in_their_own_way_starts_from_no_model(shop, start, encoded):
    config = compose_config([*shop.words, *PRETRAIN, *DAY_15, "training_mode=by_segment"])
    with pytest.raises(UsageError, match=r"copies for the ids of its own training rows .*daily\.start=scratch"):
        start.require_fit(config, encoded.contract.schema)


def test_another_schema_is_refused_with_what_differs(config, start, encoded):
    document = encoded.contract.schema.to_document()
    document["features"][1]["scale"] = "log"
    with pytest.raises(UsageError, match=r"`features\.age\.scale` is \"standard\" there and \"log\" in this run"):
        start.require_fit(config, FeatureSchema.from_document(document))


def test_rows_that_were_prepared_without_the_models_fit_are_refused(config, start):
    with pytest.raises(DataError, match="prepared without what the model"):
        start.tower(config, prepare.run(config, silent))


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no served model"):
        WarmStart(tmp_path)
