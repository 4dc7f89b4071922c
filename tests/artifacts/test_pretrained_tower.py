"""A tower's folder: read back as it was written, or refused by the name of what is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.artifacts.pretrained_tower import load_tower, save_tower
from recsys.errors import CannotWriteError, DataError
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.vocabulary import Vocabulary
from recsys.towers.artifact import TowerArtifact, apply_tower
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import ROWS, batch_of, small_contract, small_schema, two_tower_spec

VOCABULARIES = {
    "user_id": Vocabulary.of("user_id", ["ann", "bob", "eve", "joe"]),
    "item_id": Vocabulary.of("item_id", [11, 12, 13, 14, 15]),
    "brand": Vocabulary.of("brand", ["acme", "apex"]),
}


def fitted_contract() -> FeatureContract:
    prints = {table: vocabulary.fingerprint for table, vocabulary in VOCABULARIES.items()}
    return replace(small_contract(), vocabulary_fingerprints=prints)


def tower_with_weights(spec: TowerSpec | None = None) -> EmbeddingTower:
    torch.manual_seed(0)
    return EmbeddingTower(spec or two_tower_spec(), fitted_contract())


def saved_tower(folder: Path, spec: TowerSpec | None = None) -> Path:
    tower = tower_with_weights(spec)
    artifact = TowerArtifact(tower.spec, tower.state_dict(), {"made_by": "pretrain", "recall@10": 0.25})
    save_tower(folder / "tower", artifact, fitted_contract(), VOCABULARIES)
    return folder / "tower"


def refusal(path: Path, contract: FeatureContract) -> str:
    with pytest.raises(DataError) as caught:
        load_tower(path, contract)
    return str(caught.value)


def test_a_saved_tower_comes_back_bit_for_bit_with_its_provenance(tmp_path: Path) -> None:
    artifact = load_tower(saved_tower(tmp_path), fitted_contract())

    torch.manual_seed(1)
    other = EmbeddingTower(artifact.spec, fitted_contract())
    apply_tower(other, artifact)
    assert torch.equal(other(batch_of(ROWS)), tower_with_weights()(batch_of(ROWS)))
    assert artifact.spec == two_tower_spec()
    assert artifact.provenance == {"made_by": "pretrain", "recall@10": 0.25}


def test_the_folder_holds_the_vocabulary_of_every_table_the_tower_uses_and_no_other(tmp_path: Path) -> None:
    path = saved_tower(tmp_path, TowerSpec.imported(small_schema(), width=4))

    assert sorted(file.name for file in path.rglob("*.parquet")) == ["item_id.parquet"]
    loaded = Vocabulary.load(path / "vocabulary" / "item_id.parquet")
    assert loaded.fingerprint == VOCABULARIES["item_id"].fingerprint


def test_no_file_of_a_tower_can_carry_code(tmp_path: Path) -> None:
    suffixes = {file.suffix for file in saved_tower(tmp_path).rglob("*") if file.is_file()}

    assert suffixes == {".json", ".safetensors", ".parquet"}


def test_a_tower_of_another_vocabulary_is_refused_by_the_tables_name(tmp_path: Path) -> None:
    path, contract = saved_tower(tmp_path), fitted_contract()
    changed = replace(contract, vocabulary_fingerprints={**contract.vocabulary_fingerprints, "item_id": "0000"})

    message = refusal(path, changed)

    assert f"Pre-trained tower {path}" in message
    assert "vocabulary of table `item_id`" in message
    assert VOCABULARIES["item_id"].fingerprint in message
    assert "0000" in message


def test_a_tower_of_other_scaling_is_refused(tmp_path: Path) -> None:
    contract = fitted_contract()
    changed = replace(contract, scaling={**contract.scaling, "price": Scaling(3.5, 2.0)})

    assert "was made with scaling" in refusal(saved_tower(tmp_path), changed)


def test_a_tower_of_another_declaration_of_its_features_is_refused(tmp_path: Path) -> None:
    contract = fitted_contract()
    features = tuple(replace(f, max_length=9) if f.name == "recent" else f for f in contract.schema.features)
    changed = replace(contract, schema=replace(contract.schema, features=features))

    assert "was made with schema" in refusal(saved_tower(tmp_path), changed)


def test_a_tower_whose_feature_the_data_lacks_is_refused_by_the_features_name(tmp_path: Path) -> None:
    contract = fitted_contract()
    features = tuple(f for f in contract.schema.features if f.name != "brand")

    message = refusal(saved_tower(tmp_path), replace(contract, schema=replace(contract.schema, features=features)))

    assert "reads the feature `brand`" in message


def test_what_the_tower_does_not_read_may_differ(tmp_path: Path) -> None:
    path, contract = saved_tower(tmp_path, TowerSpec.imported(small_schema(), width=4)), fitted_contract()
    changed = replace(
        contract,
        vocabulary_fingerprints={**contract.vocabulary_fingerprints, "user_id": "0000"},
        scaling={"age": Scaling(1.0, 1.0), "price": Scaling(1.0, 1.0)},
    )

    assert load_tower(path, changed).spec.item_features == ("item_id",)


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_flipped_bit_in_the_weights_is_found_before_they_are_read(position: int, tmp_path: Path) -> None:
    path = saved_tower(tmp_path)
    weights = path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[position] ^= 1
    weights.write_bytes(bytes(content))

    assert f"sha256 mismatch in {weights}" in refusal(path, fitted_contract())


def test_a_missing_or_half_tower_is_refused(tmp_path: Path) -> None:
    assert "no pre-trained tower at" in refusal(tmp_path / "none", fitted_contract())

    path = saved_tower(tmp_path)
    (path / "weights.safetensors").unlink()
    assert "weights.safetensors is missing, so the tower is not whole" in refusal(path, fitted_contract())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "cannot be read"), ("[]", "holds list"), ("{}", "lacks the key 'spec'")],
)
def test_a_torn_description_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = saved_tower(tmp_path)
    (path / "tower.json").write_text(text)

    assert expected in refusal(path, fitted_contract())


def test_a_description_of_an_unknown_kind_of_tower_is_refused(tmp_path: Path) -> None:
    path = saved_tower(tmp_path)
    description = json.loads((path / "tower.json").read_text())
    description["spec"]["kind"] = "three_tower"
    (path / "tower.json").write_text(json.dumps(description))

    assert "three_tower" in refusal(path, fitted_contract())


def test_a_save_that_fails_half_way_leaves_the_old_tower_and_nothing_else(tmp_path: Path) -> None:
    path = saved_tower(tmp_path)
    before = {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    tower = tower_with_weights()

    with pytest.raises(KeyError):
        save_tower(path, TowerArtifact(tower.spec, tower.state_dict(), {}), fitted_contract(), vocabularies={})

    assert {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["tower"]


def test_a_place_that_cannot_be_written_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tower = tower_with_weights()

    with pytest.raises(CannotWriteError, match="Cannot write"):
        save_tower(
            tmp_path / "file" / "tower",
            TowerArtifact(tower.spec, tower.state_dict(), {}),
            fitted_contract(),
            VOCABULARIES,
        )
