"""`recsys towers compare`: a run takes a new tower whose vectors a map brings back, and no other."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.cli import main
from recsys.ablation.comparison import FixedDifference
from recsys.artifacts.pretrained_tower import StoredTower, load_tower, read_tower, save_tower
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.features.vocabulary import Vocabulary
from recsys.progress import silent
from recsys.run import compare_towers, prepare
from recsys.run.compare_towers import MayTake, TowerComparison, verdict_of
from recsys.run.shared_towers import open_shared
from recsys.towers.artifact import TowerArtifact
from recsys.towers.linear_map import PROCRUSTES, RIDGE
from recsys.towers.tower_spec import TowerKind
from recsys.towers.version import TowerVersion, version_of, with_version
from tests.pipelines.own_table import PRETRAIN, OwnTable

SIDES = ("user_side", "item_side")
WIDTH = 4


class Shop:
    """A run on a frozen tower through which alone it knows its items, and what else can be made of that tower."""

    def __init__(self, root: Path) -> None:
        self.table = OwnTable(root)
        # Whether a row is clicked follows from its item, whose id and price only the tower reads.
        for feature in self.table.schema["features"]:
            if feature["name"] in ("item_id", "price"):
                feature["used_by"] = ["item_tower"]
        self.table.schema["table"]["splits"] = {"validation_start": "2024-03-10", "test_start": "2024-03-12"}
        self.table.columns["clicked"] = [int(item >= 10) for item in self.table.columns["item_id"]]
        self.table.write()
        words = [*self.table.words, *PRETRAIN, "training_mode=frozen_tower", "network.first_order=false"]
        assert main(["train", *words, "training.epochs=20", "training.learning_rate=0.01"]) == 0
        (self.run,) = root.glob("runs/table/*/")
        (self.old,) = root.glob("towers/*/tower")
        self.config: RunConfig = compose_config([*words])
        self.encoded: EncodedDataset = prepare.run(self.config, silent)
        self.artifact: TowerArtifact = load_tower(self.old, self.encoded.contract)
        self.vocabularies: dict[str, Vocabulary] = {
            table: self.encoded.vocabulary(table) for table in self.encoded.contract.table_rows
        }

    def saved(self, name: str, weights: Mapping[str, Tensor], width: int = WIDTH) -> Path:
        """Write a new tower, whose parent is the old one."""
        spec, path = replace(self.artifact.spec, width=width), self.table.root / name
        version = TowerVersion.of(weights, parent=version_of(self.artifact).version)
        new = with_version(TowerArtifact(spec, weights, {}), version)
        save_tower(path, new, self.encoded.contract, self.vocabularies)
        return path

    def turned(self, matrix: Tensor) -> dict[str, Tensor]:
        """The old tower's weights with the output of both sides times a matrix, (WIDTH, width)."""
        weights = dict(self.artifact.weights)
        for side in SIDES:
            last = max(name for name in weights if name.startswith(side)).rpartition(".")[0]
            weights[f"{last}.weight"] = matrix.T @ weights[f"{last}.weight"]
            weights[f"{last}.bias"] = matrix.T @ weights[f"{last}.bias"]
        return weights

    def compared(self, new: Path, old: Path | None = None) -> TowerComparison:
        return compare_towers.run(self.config, old or self.old, new, self.run, "test", silent)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def orthogonal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(columns, rows, generator=torch.Generator().manual_seed(7)))[0].T


def test_a_rotated_tower_may_be_taken_through_procrustes_with_the_same_metrics(shop: Shop):
    found = shop.compared(shop.saved("rotated", shop.turned(orthogonal(WIDTH, WIDTH))))

    assert found.own["auc/all"] > 0.75, "the run must depend on its tower, or nothing is shown"
    assert (found.chosen.fit.method, found.chosen.verdict) == (PROCRUSTES, MayTake.YES)
    assert found.chosen.fit.r2 == pytest.approx(1, abs=1e-6)
    assert found.chosen.scores == pytest.approx(found.own, abs=1e-6)
    assert found.sentence.startswith("The run may take the new tower through the map that procrustes fits")
    (as_it_is,) = [each for each in found.maps if each.fit.method == "none"]
    assert as_it_is.verdict is not MayTake.YES
    assert found.new.parent == found.old.version
    assert found.missing == {"item_id": (0, 0.0), "user_id": (0, 0.0)}


def test_a_wider_tower_that_says_the_same_may_be_taken(shop: Shop):
    found = shop.compared(shop.saved("wider", shop.turned(orthogonal(WIDTH, 6)), width=6))

    assert {each.fit.method for each in found.maps} == {PROCRUSTES, RIDGE}
    assert found.chosen.verdict is MayTake.YES
    assert found.chosen.scores == pytest.approx(found.own, abs=1e-6)


def test_a_tower_of_random_weights_may_not_be_taken(shop: Shop):
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(each.shape, generator=generator) for name, each in shop.artifact.weights.items()}
    found = shop.compared(shop.saved("random", weights))

    assert found.chosen.verdict is MayTake.NO
    assert found.chosen.fit.r2 < 0.5
    assert found.sentence.startswith("The run may not take the new tower")


def test_ids_that_the_new_tower_lacks_are_counted_with_their_rows_and_get_its_unknown_row(shop: Shop, capsys):
    known = shop.vocabularies["item_id"].ids[:-3]
    contract, own = shop.encoded.contract, dict(shop.vocabularies)
    weights = shop.turned(orthogonal(WIDTH, WIDTH))
    (name,) = [each for each in weights if each.endswith("tower_item_id.weight")]
    weights[name] = weights[name][:-3]
    own["item_id"] = Vocabulary("item_id", known)
    fewer = replace(
        contract,
        table_rows={**contract.table_rows, "item_id": len(own["item_id"])},
        vocabulary_fingerprints={**contract.vocabulary_fingerprints, "item_id": own["item_id"].fingerprint},
    )
    path = shop.table.root / "fewer"
    save_tower(path, TowerArtifact(shop.artifact.spec, weights, {}), fewer, own)
    words = ["towers", "compare", str(shop.old), str(path), "--run", str(shop.run)]

    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    lost = set(shop.vocabularies["item_id"].ids[-3:].to_pylist())
    days = shop.table.columns["when"]
    test = [item for item, when in zip(shop.table.columns["item_id"], days, strict=True) if when.day >= 12]
    assert document["missing"]["item_id"]["ids"] == 3
    assert document["missing"]["item_id"]["rows_share"] == pytest.approx(sum(i in lost for i in test) / len(test))
    assert not document["is_parent"]
    assert main(words) == 0
    assert "3 ids of `item_id` are not in the new tower" in " ".join(capsys.readouterr().out.split())


def test_a_tower_that_the_run_does_not_stand_on_is_refused_as_the_old_one(shop: Shop):
    other = shop.saved("other", shop.turned(orthogonal(WIDTH, WIDTH)))

    with pytest.raises(UsageError, match=r"a map to that one would not fit the run. Name the run's own tower"):
        shop.compared(shop.old, old=other)
    # A run holds its tower, so it may be named in its place.
    assert open_shared(shop.run).version == open_shared(shop.old).version


def test_what_is_no_tower_or_gives_no_vectors_is_refused_with_what_was_expected(shop: Shop, tmp_path: Path):
    with pytest.raises(DataError, match=r"There is no tower at .*: expected a folder with tower.json"):
        shop.compared(tmp_path)
    text = (shop.old / "tower.json").read_text()
    reads_histories = shop.saved("history", shop.artifact.weights)
    (reads_histories / "tower.json").write_text(text.replace(TowerKind.TWO_TOWER, TowerKind.HISTORY))
    with pytest.raises(UsageError, match=r"reads histories.*Compare towers of kind two_tower, imported or sequence"):
        shop.compared(reads_histories)
    other_scaling = shop.saved("scaled", shop.artifact.weights)
    document = json.loads(text)
    document["contract"]["scaling"] = "0" * 16
    (other_scaling / "tower.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"was made with scaling 0{16}.*prepared with the fit that the run's data have"):
        shop.compared(other_scaling)


def test_a_vocabulary_that_was_exchanged_is_found_out(shop: Shop):
    path = shop.saved("exchanged", shop.artifact.weights)
    Vocabulary.of("item_id", list(range(20, 40))).save(path / "vocabulary" / "item_id.parquet")

    with pytest.raises(DataError, match="the vocabulary of table `item_id` has fingerprint"):
        read_tower(path)


def test_an_artifact_without_a_version_of_earlier_times_is_read_and_named(shop: Shop):
    path = shop.table.root / "unnamed"
    save_tower(
        path, TowerArtifact(shop.artifact.spec, shop.artifact.weights, {}), shop.encoded.contract, shop.vocabularies
    )

    stored: StoredTower = read_tower(path)
    assert version_of(stored.artifact).digest == version_of(shop.artifact).digest
    assert version_of(stored.artifact).parent == ""


@pytest.mark.parametrize(
    ("low", "high", "in_segment", "verdict"),
    [
        (-0.0019, 0.01, 0.0, MayTake.YES),
        (-0.0021, 0.01, 0.0, MayTake.OPEN),
        (-0.01, -0.0021, 0.0, MayTake.NO),
        (-0.0019, 0.01, -0.01, MayTake.NO),
    ],
)
def test_a_loss_must_lie_within_the_margin_with_its_whole_interval(low, high, in_segment, verdict):
    segment = FixedDifference(in_segment, in_segment - 0.001, in_segment + 0.001)
    differences = {"all": FixedDifference((low + high) / 2, low, high), "new": segment}

    assert verdict_of(differences, margin=0.002) is verdict
    with pytest.raises(DataError, match="could not be measured"):
        verdict_of({}, margin=0.002)
