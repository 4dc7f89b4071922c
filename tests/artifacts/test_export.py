"""The served model: what a stranger gets who loads it in a fresh process and scores raw columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from mlflow.pyfunc import load_model

from recsys.artifacts.export import export_ranker
from recsys.build import build_ranker, describe_ranker
from recsys.composition.ranker import Ranker
from recsys.config.compositions import GatedConfig
from recsys.config.networks import CrossConfig
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.errors import DataError, UsageError
from recsys.features.raw import raw_to_batch
from recsys.features.vocabulary import Vocabulary
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import spread_out
from tests.worlds import world_rows, world_schema, write_encoded_world

NETWORK = CrossConfig(
    name="cross", field_width=4, field_widths={}, hidden_widths=(8,), dropout=0.5, first_order=True, layers=2
)
COMPOSITION = GatedConfig(name="conditional", width=6, expert_hidden=(5,), head_hidden=(4,), members=1)
SPEC = TowerSpec.two_tower(world_schema(), width=4, table_dimension=4, hidden_widths=[6])


class Exported:
    """A ranker with weights of its own, and the folder that it was exported to."""

    def __init__(self, folder: Path) -> None:
        write_encoded_world(folder / "encoded", rows_per_day=30)
        self.data: EncodedDataset = open_encoded(folder / "encoded")
        self.vocabularies = {table: self.data.vocabulary(table) for table in self.data.contract.table_rows}
        self.ranker: Ranker = build_ranker(NETWORK, COMPOSITION, SPEC, self.data.contract, seed=1)
        spread_out(self.ranker)
        self.ranker.eval()
        self.frame = raw_frame(seed=7)
        self.folder = folder / "served"
        self.export(self.folder)
        # Listed before anybody loads it: Python leaves what it compiled beside the model's code.
        self.files = [path for path in self.folder.rglob("*") if path.is_file()]

    def export(self, target: Path, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "weights": self.ranker.state_dict(),
            "description": describe_ranker(NETWORK, COMPOSITION, SPEC),
            "rebuild": "recsys.build:rebuild_ranker",
            "contract": self.data.contract,
            "vocabularies": self.vocabularies,
            "example": self.frame.head(3),
        }
        export_ranker(target, **arguments | changes)

    def expected(self, frame: pd.DataFrame) -> np.ndarray:
        batch = raw_to_batch(pa.Table.from_pandas(frame), self.data.contract, self.vocabularies)
        with torch.no_grad():
            return self.ranker(batch).double().sigmoid().numpy()


def raw_frame(seed: int) -> pd.DataFrame:
    """Raw columns as a user has them, without what only training knows; users and items in part never seen."""
    rows = world_rows({"test": 1}, rows_per_day=40, seed=seed, users=30, items=40)
    return rows.drop_columns(
        ["clicked", "clicked_at", "split", "day", "user_key", "query", "is_new_to_user"]
    ).to_pandas()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("export"))


def test_scores_keep_the_index_of_their_rows(exported: Exported):
    frame = exported.frame.iloc[[5, 2, 9]]

    scores = load_model(str(exported.folder)).predict(frame)

    assert scores.index.tolist() == [5, 2, 9]
    np.testing.assert_allclose(scores["probability"], exported.expected(frame), rtol=0, atol=1e-6)


def test_nothing_in_the_folder_is_pickled(exported: Exported):
    assert {path.suffix for path in exported.files} <= {
        ".py",
        ".typed",
        ".jinja",
        ".json",
        ".yaml",
        ".txt",
        ".parquet",
        ".safetensors",
        "",
    }
    # A pickle of any protocol from 2 on starts with this byte; a zip, which is what torch.save writes, with PK.
    # A safetensors file, whose length of header may begin so too, holds numbers alone.
    others = [path for path in exported.files if path.suffix != ".safetensors"]
    assert not [path for path in others if path.read_bytes()[:1] == b"\x80" or path.read_bytes()[:2] == b"PK"]


def test_the_model_has_a_signature_and_an_example_that_can_be_scored(exported: Exported):
    model = load_model(str(exported.folder))

    names = model.metadata.signature.inputs.input_names()
    assert set(names) == {"user_id", "item_id", "country", "recent_item_ids", "price", "days_away", "activity"}
    assert model.metadata.signature.outputs.input_names() == ["probability"]
    example = model.input_example
    np.testing.assert_allclose(
        model.predict(example)["probability"], exported.expected(exported.frame.head(3)), rtol=0, atol=1e-6
    )


def test_missing_numbers_and_ids_follow_the_schema(exported: Exported):
    frame = exported.frame.head(2).assign(
        user_id=[float("nan"), 1001.0],
        item_id=[None, "item-1"],
        days_away=[float("nan"), 30],
        country=["France", "Mars"],
    )
    same = frame.assign(
        user_id=[-1, 1001], item_id=["never seen", "item-1"], days_away=[30, 30], country=["France", None]
    )

    model = load_model(str(exported.folder))

    assert model.predict(frame)["probability"].tolist() == model.predict(same)["probability"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": [1.0, float("nan")]}, "`price` holds no finite number in 1 of 2 rows"),
        ({"price": [1.0, -3.0]}, r"`price` holds -3\.0"),
        ({"activity": ["new", "VIP"]}, "`activity` holds 'VIP' in 1 of 2 rows; expected one of new, light, heavy"),
        ({"user_id": [1000, "x"]}, "`user_id` mixes types"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_scored(exported: Exported, change: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        load_model(str(exported.folder)).predict(exported.frame.head(2).assign(**change))


def test_a_missing_column_is_named(exported: Exported):
    with pytest.raises(Exception, match="item_id"):
        load_model(str(exported.folder)).predict(exported.frame.drop(columns="item_id"))


def test_more_rows_than_one_pass_takes_are_all_scored(exported: Exported, monkeypatch: pytest.MonkeyPatch):
    whole = load_model(str(exported.folder)).predict(exported.frame)
    monkeypatch.setattr("recsys.artifacts.scorer._ROWS_PER_PASS", 7)

    np.testing.assert_allclose(load_model(str(exported.folder)).predict(exported.frame), whole, rtol=0, atol=1e-6)


def test_no_rows_give_no_scores(exported: Exported):
    assert load_model(str(exported.folder)).predict(exported.frame.head(0)).empty


def test_changed_weights_are_refused_by_file_name(exported: Exported, tmp_path: Path):
    exported.export(tmp_path / "served")
    weights = tmp_path / "served" / "artifacts" / "ranker" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(DataError, match=r"weights\.safetensors is missing or was changed"):
        load_model(str(tmp_path / "served"))


def test_weights_of_another_ranker_are_refused_and_leave_nothing_behind(exported: Exported, tmp_path: Path):
    weights = exported.ranker.state_dict()
    weights.pop("head.output.bias")

    with pytest.raises(UsageError, match=r"`head\.output\.bias` has shape \(absent\)"):
        exported.export(tmp_path / "served", weights=weights)
    with pytest.raises(UsageError, match="names no function of ours"):
        exported.export(tmp_path / "served", rebuild="recsys.build:x\nimport os")
    with pytest.raises(KeyError):
        exported.export(tmp_path / "served", vocabularies={"user_id": Vocabulary.of("user_id", [1])})
    assert list(tmp_path.iterdir()) == []
