"""`recsys init`, and its namesake for who writes Python."""

from pathlib import Path

import pandas as pd
import pytest

import recsys
from pipelines.cli import main
from recsys.errors import UsageError
from recsys.features.plain_yaml import read_plain_yaml
from tests.datasets.schema_inference.shop_folders import reviews


def test_init_writes_a_schema_says_what_it_asks_for_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "My Shop").mkdir()
    reviews(tmp_path / "My Shop")
    monkeypatch.chdir(tmp_path)

    assert main(["init", "My Shop"]) == 0

    said = capsys.readouterr().out
    assert read_plain_yaml(Path("my_shop.yaml"), "Schema")["name"] == "my_shop"
    assert "Asked for, label: is `stars > 3` what counts as a positive?" in said
    assert "Next: recsys prepare data=table data.name=my_shop data.schema_path=my_shop.yaml 'data.raw=My Shop'" in said


def test_init_never_writes_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    path = reviews(tmp_path)
    Path("reviews.yaml").write_text("mine")

    assert main(["init", str(path)]) == 2

    assert "reviews.yaml is there already and is not overwritten" in capsys.readouterr().err
    assert Path("reviews.yaml").read_text() == "mine"


def test_frames_get_a_schema_as_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sales = pd.read_csv(reviews(tmp_path))
    products = pd.DataFrame({"product": sales["product"].unique()}).assign(brand="A")
    products.loc[::2, "brand"] = "B"

    text = recsys.init({"sales": sales, "products": products}, tmp_path / "shop.yaml", name="shop")

    document = read_plain_yaml(tmp_path / "shop.yaml", "Schema")
    assert text == (tmp_path / "shop.yaml").read_text()
    assert document["table"]["files"] == "sales.parquet"
    assert document["table"]["tables"]["products"]["columns"] == {"brand": "brand"}
    with pytest.raises(UsageError, match="already"):
        recsys.init(sales, tmp_path / "shop.yaml")
