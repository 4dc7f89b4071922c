"""Runs by each objective: what they learn from, what they leave, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifacts.export import load_scorer
from recsys.build_objective import build_objective
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.features.graded import GRADE
from recsys.progress import silent
from recsys.run import prepare, pretrain, train
from recsys.run.assemble import ready_ranker
from recsys.run.folder import RunResult, new_run
from recsys.run.streams import TRAIN, ranker_stream, started
from recsys.sharding.inventory import unwrapped
from tests.pipelines.own_table import PRETRAIN, OwnTable
from tests.purchases import Purchases

ORDINAL = ["training.objective=ordinal", "composition.members=3", "composition.head_hidden=[8]"]
LISTWISE = ["training.objective=listwise", "training.epochs=1", "training.batch_size=64"]


def rated(table: OwnTable) -> OwnTable:
    """The shop's clicks as ratings from 1 to 5; 4 and 5 are what a click was."""
    draw = np.random.default_rng(2)
    clicked = np.array(table.columns.pop("clicked"))
    table.columns["rating"] = np.where(clicked, draw.integers(4, 6, len(clicked)), draw.integers(1, 4, len(clicked)))
    table.columns["rating"] = table.columns["rating"].tolist()
    table.schema["table"]["label"] = "rating > 3"
    table.schema["graded"] = {"column": "rating", "thresholds": [1, 3, 4], "answer": 3, "weights": [0.25, 1, 0.25]}
    table.write()
    return table


def trained(config: RunConfig) -> tuple[RunResult, Path]:
    identity = new_run(config)
    return train.run(config, identity, silent), identity.folder


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> OwnTable:
    return rated(OwnTable(tmp_path_factory.mktemp("ratings")))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Purchases:
    return Purchases(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def listed(shop: Purchases) -> tuple[RunConfig, EncodedDataset]:
    config = compose_config([*shop.overrides, *LISTWISE])
    return config, prepare.run(config, silent)


def test_a_run_by_grades_and_members_serves_the_label_alone(ratings: OwnTable) -> None:
    result, folder = trained(compose_config([*ratings.words, *PRETRAIN, *ORDINAL]))

    assert 0 < result.scores["log_loss/all"] < 2
    scorer = load_scorer(folder / "model")
    head = scorer.ranker.head
    assert (head.output_names, head.answer, len(head.members)) == (("above_1", "above_3", "above_4"), 1, 3)


def test_each_thresholds_output_starts_at_its_own_share_of_the_rows(ratings: OwnTable) -> None:
    config = compose_config([*ratings.words, *PRETRAIN, *ORDINAL])
    encoded = prepare.run(config, silent)
    ready = ready_ranker(config, encoded, pretrain.run(config, encoded, silent), silent)
    bias = unwrapped(ready.assembly.wrapped).head.members[0].output.bias.detach()
    ready.assembly.stages.proof.close()

    rows = 14 * 20
    rating = np.array(ratings.columns["rating"])[:rows]
    above = np.array([(rating > threshold).sum() for threshold in (1, 3, 4)])
    log_odds = np.log((above + 1) / (rows - above + 1))
    assert (bias - bias[1]).tolist() == pytest.approx((log_odds - log_odds[1]).tolist(), abs=1e-5)


def test_a_label_that_does_not_follow_from_its_grade_is_refused(tmp_path: Path) -> None:
    table = rated(OwnTable(tmp_path))
    table.schema["graded"] |= {"answer": 4}
    table.write()

    with pytest.raises(DataError, match=r"column `label` .*1 just where `rating` is above 4, as `graded.answer` says"):
        prepare.run(compose_config(table.words), silent)


def test_grades_are_read_beside_the_label_and_never_as_a_feature(tmp_path: Path) -> None:
    table = rated(OwnTable(tmp_path))
    table.schema["features"].append({"name": "stars", "kind": "dense", "used_by": ["interaction_network"]})
    table.schema["table"] |= {"label": "liked", "columns": {"stars": "rating"}}
    table.columns["liked"] = [int(each > 3) for each in table.columns["rating"]]
    table.write()

    with pytest.raises(UsageError, match="the feature `stars` reads `rating`, which the label is made of"):
        prepare.run(compose_config(table.words), silent)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("ordinal", "grades, and these data have none. Declare in the schema what the label follows from"),
        ("listwise", "queries with sampled candidates, and these data have none"),
    ],
)
def test_data_without_what_an_objective_learns_from_are_refused_before_any_work(
    tmp_path: Path, objective: str, said: str
) -> None:
    config = compose_config([*OwnTable(tmp_path).words, *PRETRAIN, f"training.objective={objective}"])

    with pytest.raises(UsageError, match=said):
        train.run(config, new_run(config), silent)
    assert not list((tmp_path / "towers").glob("*"))


def test_a_batch_holds_the_queries_whole_but_at_its_ends(listed: tuple[RunConfig, EncodedDataset]) -> None:
    config, encoded = listed
    context = started(config)
    stream = ranker_stream(config, encoded, context)
    batches = list(stream)

    parts = [batch.extra["query"].unique_consecutive() for batch in batches]
    # Side by side: no query comes back within a batch, and over all at most one is cut at each end.
    assert all(len(part) == len(part.unique()) for part in parts)
    every = torch.cat(parts)
    assert len(every) - len(every.unique()) <= len(batches) - 1
    first = torch.cat([batch.extra["query"] for batch in batches]).unique_consecutive()
    assert first.tolist() != sorted(first.tolist())
    assert sum(map(len, batches)) == stream.num_rows


def test_a_listwise_run_is_measured_by_log_loss_and_lists(listed: tuple[RunConfig, EncodedDataset]) -> None:
    config, encoded = listed
    assert build_objective(config.training, encoded.contract).extras == ("query",)
    result, _ = trained(config)

    assert 0 < result.scores["log_loss/all"] < 2
    assert 0 < result.scores["ndcg_20/all"] <= 1


def test_grades_lie_beside_the_encoded_rows(ratings: OwnTable) -> None:
    config = compose_config([*ratings.words, *PRETRAIN, *ORDINAL])
    encoded = prepare.run(config, silent)

    batch = next(iter(ranker_stream(config, encoded, started(config))))
    assert torch.equal(batch.extra[GRADE] > 3, batch.label > 0)
    assert encoded.profile(TRAIN)["grade: above_3"] == encoded.profile(TRAIN)["positives"]
