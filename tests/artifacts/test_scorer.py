"""A finished ranker reads a user's own rows as its training did: the same batch to the bit, the same probabilities."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from mlflow.pyfunc import load_model

from recsys.artifacts.export import load_scorer
from recsys.artifacts.scorer import Scorer
from recsys.datasets.event_rows import events_opened
from recsys.datasets.table_rows import RowReader
from recsys.errors import DataError
from recsys.features.raw import raw_to_batch
from recsys.progress import silent
from tests.artifacts.own_rows import HISTORY, OwnRows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> OwnRows:
    return OwnRows(tmp_path_factory.mktemp("shop"))


def test_raw_rows_become_the_batches_of_the_prepared_ones_to_the_bit(shop: OwnRows):
    scorer = load_scorer(shop.folder)
    assert scorer.reader is not None

    for rows, prepared in zip(shop.parts(), shop.prepared_batches().values(), strict=True):
        batch = raw_to_batch(scorer.reader.read(rows), scorer.contract, scorer.vocabularies)
        assert torch.equal(batch.dense, prepared.dense)
        assert torch.equal(batch.sparse.values(), prepared.sparse.values())
        assert torch.equal(batch.sparse.lengths(), prepared.sparse.lengths())
        assert torch.equal(batch.lists["seen_how"], prepared.lists["seen_how"])
        assert torch.equal(batch.segment, prepared.segment)
    users = prepared.sparse["user_id"].values().tolist()
    assert 0 in users
    assert len(set(users)) > 3


def test_every_row_gets_the_score_that_evaluation_gives_it(shop: OwnRows):
    scores = [load_scorer(shop.folder).score(rows) for rows in shop.parts()]

    assert np.concatenate(scores).tolist() == shop.prepared_scores().tolist()
    assert np.ptp(np.concatenate(scores)) > 0.01


def test_a_frame_is_scored_as_the_file_is(shop: OwnRows):
    frame = shop.table.to_pandas(types_mapper=pd.ArrowDtype)

    scores = load_model(str(shop.folder)).predict(frame)["probability"]

    np.testing.assert_allclose(scores, shop.prepared_scores(), rtol=0, atol=1e-6)


def test_a_fresh_process_reads_the_users_own_columns_with_the_code_that_the_model_brings(shop: OwnRows, tmp_path: Path):
    shop.table.to_pandas(types_mapper=pd.ArrowDtype).to_parquet(tmp_path / "rows.parquet")
    script = (
        "import sys, json, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "rows = pd.read_parquet(sys.argv[2], dtype_backend='pyarrow')\n"
        "scores = model.predict(rows)['probability'].tolist()\n"
        "import recsys\n"
        "print(json.dumps({'scores': scores, 'code': recsys.__file__}))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", script, str(shop.folder), str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)

    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["scores"], shop.prepared_scores(), rtol=0, atol=1e-6)
    assert Path(found["code"]).is_relative_to(shop.folder)


def test_ids_that_a_frame_rounded_are_refused_and_exact_ones_with_missing_ones_are_taken(shop: OwnRows):
    model, rows = load_model(str(shop.folder)), shop.table
    expected = load_scorer(shop.folder).score(rows)

    rounded = (
        r"`user_id` \(`customer` in the files\) holds ids as floating-point numbers, such as 11529215046068\d+; from"
    )
    with pytest.raises(DataError, match=rounded):
        model.predict(rows.to_pandas())
    exact = rows.to_pandas(types_mapper=pd.ArrowDtype)
    exact["customer"] = pd.array(rows["customer"].to_pylist(), dtype="Int64")
    np.testing.assert_allclose(model.predict(exact)["probability"], expected, rtol=0, atol=1e-6)


def test_the_signature_names_the_columns_of_the_files_and_the_example_is_one(shop: OwnRows):
    model = load_model(str(shop.folder))

    read = {"customer", "item_id", "brand", "cost", "stock", "kinds", "title", "seen", "seen_how", "image", "age"}
    assert set(model.metadata.signature.inputs.input_names()) == read
    assert set(shop.example.columns) == read
    scores = model.predict(model.input_example)["probability"]
    # Rows of the test split, whose segment, cut from numbers, and missing numbers are told by values like them.
    known = [row for row in shop.parts()[-1].to_pylist() if None not in (row["customer"], row["brand"])]
    assert shop.example["customer"].tolist() == [row["customer"] for row in known[: len(scores)]]
    assert scores.between(0, 1).all()


def test_one_row_without_any_value_that_may_be_missing_is_scored(shop: OwnRows):
    row = shop.table.slice(0, 1)
    empty = {name: pa.nulls(1) for name in ("customer", "brand", "cost", "stock", "kinds", "seen", "seen_how", "image")}
    typed = {name: pa.nulls(1, row[name].type) for name in empty}
    scorer = load_scorer(shop.folder)

    def score(changed: dict[str, pa.Array]) -> float:
        return float(scorer.score(pa.table({name: changed.get(name, row[name]) for name in row.column_names}))[0])

    assert score(empty) == score(typed)
    frame = pa.table({name: empty.get(name, row[name]) for name in row.column_names}).to_pandas()
    assert load_model(str(shop.folder)).predict(frame)["probability"].tolist() == [score(typed)]


def test_an_id_beyond_64_signed_bits_is_unknown_as_in_the_preparation(shop: OwnRows):
    scorer, rows = load_scorer(shop.folder), shop.table.slice(0, 2)
    place = rows.column_names.index("item_id")
    beyond = rows.set_column(place, "item_id", pa.array([2**63, 2**64 - 1], pa.uint64()))
    unseen = rows.set_column(place, "item_id", pa.array([5, 6], pa.int64()))

    assert scorer.score(beyond).tolist() == scorer.score(unseen).tolist()


def test_rows_keep_their_order_however_many_they_are(shop: OwnRows):
    scorer = load_scorer(shop.folder)
    many = pa.concat_tables([shop.table] * 3000)

    assert scorer.reader is not None
    read = scorer.reader.read(many)

    once = scorer.reader.read(shop.table)
    assert read.num_rows == 3000 * shop.table.num_rows
    for number in (0, 1234, 2999):
        assert read.slice(number * len(once), len(once)).equals(once)


def test_several_threads_score_at_once(shop: OwnRows):
    scorer = load_scorer(shop.folder)
    parts = [shop.table.slice(start, 5) for start in range(0, 60, 5)]
    expected = [scorer.score(part).tolist() for part in parts]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert [scores.tolist() for scores in pool.map(scorer.score, parts)] == expected


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "age",
            [None, 20.0],
            r"column `activity` .`age` in the files. holds None in 1 of 2 rows; expected one of new, light, heavy",
        ),
        ("customer", ["x", "y"], r"column `user_id` \(`customer` in the files\) has type string; expected integer ids"),
        ("kinds", [["red"], []], r"column `kinds` has type array<string>; expected text, to be cut"),
        ("image", [1.0, 2.0], "column `image` has type float64; expected vectors"),
        ("cost", ["a", "b"], r"column `price` \(`cost` in the files\) has type string; expected numbers"),
    ],
)
def test_a_value_that_preparation_stops_at_stops_scoring(column, values, message, shop: OwnRows):
    rows = shop.table.slice(0, 2)
    rows = rows.set_column(rows.column_names.index(column), column, pa.array(values))

    with pytest.raises(DataError, match=message):
        load_scorer(shop.folder).score(rows)


def test_a_missing_column_is_told_by_its_name_in_the_files(shop: OwnRows):
    rows = shop.table.rename_columns(["Cost" if name == "cost" else name for name in shop.table.column_names])

    with pytest.raises(DataError, match=r"column `cost` is missing.*the feature `price`.*Did you mean `Cost`"):
        load_scorer(shop.folder).score(rows)


@pytest.fixture(scope="module")
def shop_with_past(tmp_path_factory: pytest.TempPathFactory) -> OwnRows:
    return OwnRows(tmp_path_factory.mktemp("past"), history=HISTORY, derive={"pallets": "crates / 4"})


@contextmanager
def with_events(shop: OwnRows, work: Path) -> Iterator[Scorer]:
    scorer = load_scorer(shop.folder)
    assert isinstance(scorer.reader, RowReader)
    with events_opened(scorer.reader, shop.folder.parent / "raw", work, "200MB", 1, silent) as reader:
        yield replace(scorer, reader=reader)


def test_features_of_the_past_are_asked_for_by_name(shop_with_past: OwnRows):
    shop = shop_with_past
    rows = shop.table.append_column("user_rows", pa.array([2.0] * shop.table.num_rows))
    derived = rows.drop_columns("crates").append_column("pallets", pa.array([1.0] * rows.num_rows))
    scorer = load_scorer(shop.folder)

    with pytest.raises(DataError, match=r"column `user_rows` is missing.*Training counted it from rows of the past"):
        scorer.score(shop.table)
    with pytest.raises(DataError, match=r"column `crates` is missing.*the feature `pallets`"):
        scorer.score(rows.drop_columns("crates"))
    assert len(scorer.score(rows)) == rows.num_rows
    assert len(scorer.score(derived)) == rows.num_rows
    # A signature asks for one way to say a thing at most.
    inputs = load_model(str(shop.folder)).metadata.signature.inputs
    assert {each.name for each in inputs if not each.required} == {"pallets", "crates"}


def test_what_rows_lack_is_read_from_the_events(shop_with_past: OwnRows, tmp_path: Path):
    # Always the same of the item; `stock` and `cost` are of the event.
    known = ["brand", "kinds", "title", "seen", "image", "bought", "price"]
    parts = [rows.drop_columns(known) for rows in shop_with_past.parts()]
    few, last_first = pa.concat_tables(parts), pa.array(range(60)[::-1])
    few = few.append_column("note", pa.array(["left alone"] * few.num_rows))

    with with_events(shop_with_past, tmp_path) as scorer:
        scores = np.concatenate([scorer.score(rows) for rows in parts])
        assert scores.tolist() == shop_with_past.prepared_scores().tolist()
        assert scorer.reader is not None
        read = scorer.reader.read(few)
        assert scorer.reader.read(few.take(last_first)).equals(read.take(last_first))
        # Whoever brings a feature of the past is believed.
        brought = few.append_column("user_rows", pa.array([3.0] * few.num_rows))
        assert set(scorer.reader.read(brought)["user_rows"].to_pylist()) == {3.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns("at"), "column `at` is missing, the time before which everything is counted"),
        (lambda rows: rows.drop_columns("customer"), "column `customer` is missing, an id"),
        (lambda rows: rows.drop_columns("cost"), "column `cost` is missing, which is to be the feature `price`"),
        (
            lambda rows: rows.set_column(0, "customer", pa.array(["x"] * rows.num_rows)),
            "column `customer` has type string; expected int64, as in the events",
        ),
    ],
)
def test_what_the_events_cannot_tell_is_asked_for(change, message: str, shop_with_past: OwnRows, tmp_path: Path):
    with with_events(shop_with_past, tmp_path) as scorer, pytest.raises(DataError, match=message):
        scorer.score(change(shop_with_past.table))


@pytest.mark.parametrize("text", [None, '{"ranker": {', '{"files": {}}', "[]", '{"ranker": 1, "files": 2}'])
def test_a_description_that_is_missing_or_torn_is_named(text: str | None, shop: OwnRows, tmp_path: Path):
    folder = tmp_path / "model"
    (folder / "artifacts" / "ranker").mkdir(parents=True)
    (folder / "MLmodel").write_bytes((shop.folder / "MLmodel").read_bytes())
    if text is not None:
        (folder / "artifacts" / "ranker" / "ranker.json").write_text(text)

    with pytest.raises(DataError, match=r"ranker\.json is missing or torn"):
        load_scorer(folder)


def test_a_folder_may_have_any_name(shop: OwnRows, tmp_path: Path):
    folder = shutil.copytree(shop.folder, tmp_path / "a#b?c%20 ü=5" / "model")

    assert (
        load_scorer(folder).score(shop.table.slice(0, 2)).tolist()
        == load_scorer(shop.folder).score(shop.table.slice(0, 2)).tolist()
    )


@pytest.mark.parametrize("text", ["", "{", "flavors: {}\n", "metadata: {rebuild: 3}\n"])
def test_a_torn_mlmodel_is_named(text: str, tmp_path: Path):
    (tmp_path / "MLmodel").write_text(text)

    with pytest.raises(DataError, match=r"MLmodel is torn or is no model of ours"):
        load_scorer(tmp_path)


def test_a_changed_declaration_of_the_table_is_refused(shop: OwnRows, tmp_path: Path):
    folder = shutil.copytree(shop.folder, tmp_path / "model")
    table = folder / "artifacts" / "ranker" / "table.yaml"
    table.write_text(table.read_text().replace("cost", "price"))

    with pytest.raises(DataError, match=r"table\.yaml is missing or was changed"):
        load_scorer(folder)


def test_a_ranker_exported_without_a_declaration_takes_the_schemas_own_names(shop: OwnRows, tmp_path: Path):
    folder = shutil.copytree(shop.folder, tmp_path / "model")
    ranker = folder / "artifacts" / "ranker"
    description = json.loads((ranker / "ranker.json").read_text())
    del description["files"]["table.yaml"]
    (ranker / "table.yaml").unlink()
    (ranker / "ranker.json").write_text(json.dumps(description))
    reader = load_scorer(shop.folder).reader
    assert reader is not None

    plain = load_scorer(folder)

    assert "price" in plain.columns
    assert plain.score(reader.read(shop.table)).tolist() == load_scorer(shop.folder).score(shop.table).tolist()
