"""Checkpoints, towers and models that hold code: refused, and the code never runs; their digests are right.

A digest keeps out bits that rotted, and not somebody who can compute one. What keeps code out is that nothing which is
read can carry any: safetensors, JSON, Parquet.
"""

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recsys.artifacts.checkpoint import newest_checkpoint, save_checkpoint
from recsys.artifacts.export import load_scorer
from recsys.artifacts.pretrained_tower import load_tower, save_tower
from recsys.artifacts.scorer import read_scorer, write_ranker
from recsys.errors import DataError
from recsys.evaluation.stored_predictions import load_predictions
from recsys.features.vocabulary import Vocabulary
from recsys.files import fingerprint_of, sha256_of_file
from recsys.sharding.divided_state import undivided
from recsys.towers.artifact import TowerArtifact
from recsys.towers.embedding import EmbeddingTower
from tests.small_model import small_contract, two_tower_spec

CONTRACT = small_contract()
pytestmark = pytest.mark.usefixtures("context")
IDS: dict[str, list[Any]] = {
    "user_id": ["ann", "bob", "eve", "joe"],
    "item_id": [11, 12, 13, 14, 15],
    "brand": ["acme", "apex"],
}
VOCABULARIES = {table: Vocabulary.of(table, ids) for table, ids in IDS.items()}


class Payload:
    """Makes the marker's file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def as_pt(payload: Payload) -> bytes:
    stream = io.BytesIO()
    torch.save({"weights": payload}, stream)
    return stream.getvalue()


def as_pt2(payload: Payload) -> bytes:
    """An exported program's archive, whose sample inputs are pickled."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/sample_inputs/model.pt", as_pt(payload))
    return stream.getvalue()


# The last is what a distributed checkpoint's `.metadata` is.
FORMS: dict[str, Callable[[Payload], bytes]] = {"pt": as_pt, "pt2": as_pt2, "metadata": pickle.dumps}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture(params=FORMS)
def code(request: pytest.FixtureRequest, marker: Path) -> bytes:
    content = FORMS[request.param](Payload(marker))
    if request.param != "pt2":
        # Shown to be alive: loaded plainly it runs.
        pickle.loads(content) if request.param == "metadata" else torch.load(io.BytesIO(content), weights_only=False)
        marker.unlink()
    return content


@pytest.mark.parametrize("name", ["rank-0.safetensors", "rank-0.json"])
def test_a_checkpoint_that_holds_code_under_a_right_digest_is_passed_over(
    name: str, code: bytes, marker: Path, tmp_path: Path
):
    for step in (100, 200):
        weight = undivided({"weight": torch.ones(2)})
        save_checkpoint(tmp_path / "run", step, weight, {"loop": {}}, {}, CONTRACT, keep_last=5)
    folder, notices = tmp_path / "run" / "step-00000200", []
    (folder / name).write_bytes(code)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(code), "sha256": sha256_of_file(folder / name)}
    del manifest["fingerprint"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": fingerprint_of(manifest)}))
    # Beside what is read, files of the formats that torch itself would take up.
    for other in (".metadata", "__0_0.distcp", "model.pt", "model.pt2"):
        (folder / other).write_bytes(code)

    found = newest_checkpoint(tmp_path / "run", CONTRACT, notices.append)

    assert found is not None
    assert found.step == 100
    found.read(undivided({"weight": torch.zeros(2)}))
    (notice,) = notices
    assert notice.startswith("checkpoint step 200 incomplete (files of another format: ")
    assert not marker.exists()


def test_a_tower_that_holds_code_under_a_right_digest_is_refused(code: bytes, marker: Path, tmp_path: Path):
    tower = EmbeddingTower(two_tower_spec(), CONTRACT)
    save_tower(tmp_path / "tower", TowerArtifact(tower.spec, tower.state_dict(), {}), CONTRACT, VOCABULARIES)
    weights, description = tmp_path / "tower" / "weights.safetensors", tmp_path / "tower" / "tower.json"
    weights.write_bytes(code)
    document = json.loads(description.read_text()) | {"weights_sha256": sha256_of_file(weights)}
    description.write_text(json.dumps(document))

    with pytest.raises(DataError, match="is no safetensors file"):
        load_tower(tmp_path / "tower", CONTRACT)
    assert not marker.exists()


def served(folder: Path) -> nn.Module:
    """Write a module as a served model keeps its ranker; return it."""
    ranker = nn.Linear(2, 1)
    weights = ranker.state_dict()
    write_ranker(folder, weights=weights, description={}, contract=CONTRACT, vocabularies=VOCABULARIES, table=None)
    return ranker


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.safetensors", "is no safetensors file"),
        ("contract.json", "is no feature contract"),
        ("vocabulary/brand.parquet", "cannot be read"),
    ],
)
def test_a_served_model_that_holds_code_under_right_digests_is_refused(
    name: str, said: str, code: bytes, marker: Path, tmp_path: Path
):
    ranker = served(tmp_path / "ranker")
    (tmp_path / "ranker" / name).write_bytes(code)
    description = tmp_path / "ranker" / "ranker.json"
    document = json.loads(description.read_text())
    document["files"][name] = sha256_of_file(tmp_path / "ranker" / name)
    description.write_text(json.dumps(document))

    with pytest.raises(DataError, match=said):
        read_scorer(tmp_path / "ranker", lambda description, contract: ranker)
    assert not marker.exists()


@pytest.mark.parametrize("function", ["hostile:run", "os:system", "recsys.build:hostile.run"])
def test_a_served_model_cannot_name_a_function_of_its_own(
    function: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    served(tmp_path / "model" / "artifacts" / "ranker")
    (tmp_path / "model" / "MLmodel").write_text(json.dumps({"metadata": {"rebuild": function}}))
    (tmp_path / "hostile.py").write_text(f"open({str(marker)!r}, 'w')\n\ndef run(description, contract): ...\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(DataError, match=f"'{function}' names no function of ours"):
        load_scorer(tmp_path / "model")
    assert "hostile" not in sys.modules
    assert not marker.exists()


def test_predictions_that_hold_code_are_refused(code: bytes, marker: Path, tmp_path: Path):
    (tmp_path / "predictions.safetensors").write_bytes(code)
    with pytest.raises(DataError, match="cannot be read"):
        load_predictions(tmp_path)
    assert not marker.exists()
