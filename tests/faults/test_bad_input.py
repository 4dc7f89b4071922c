"""What a careless user meets: training stops before it starts, and the message says where, what, and what to do."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.cli import main
from tests.pipelines.own_table import ITEMS, PRETRAIN, OwnTable

Change = Callable[[OwnTable], Any]


@pytest.fixture
def table(tmp_path: Path) -> OwnTable:
    """A sound table; each test spoils it in one way."""
    return OwnTable(tmp_path)


def refusal(table: OwnTable, words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Train, check that it was refused and left nothing that looks finished, and return the message."""
    capsys.readouterr()
    assert main(["train", *words]) == code
    message = capsys.readouterr().err
    assert message.startswith("recsys train: ")
    assert "Traceback" not in message
    assert not list(table.root.rglob("mlflow.db")), "a run was recorded"
    assert not list(table.root.glob("runs/*/*")), "a run folder was left"
    assert not list(table.root.rglob("*.partial")), "half of something was left"
    return message


def put(column: str, value: Any, row: int = 7) -> Change:
    """Put one value into a row of the table."""
    return lambda table: table.columns[column].__setitem__(row, value)


def rename(column: str, name: str) -> Change:
    return lambda table: table.columns.__setitem__(name, table.columns.pop(column))


def convert(column: str, convert_one: Callable[[Any], Any]) -> Change:
    return lambda table: table.columns.update({column: [convert_one(value) for value in table.columns[column]]})


def retype(column: str, values: Callable[[OwnTable], pa.Array]) -> Change:
    return lambda table: table.columns.update({column: values(table)})


def split_at(validation: str, test: str) -> Change:
    splits = {"validation_start": validation, "test_start": test}
    return lambda table: table.schema["table"].update(splits=splits)


def too_large_ids(table: OwnTable) -> pa.Array:
    return pa.array([2**64 - 1 if row < 40 else item for row, item in enumerate(table.columns["item_id"])], pa.uint64())


BAD_ROWS: dict[str, tuple[Change, list[str]]] = {
    "missing column": (
        lambda table: table.columns.pop("age"),
        ["clicks.parquet: column `age` is missing", "found user_id, item_id", "`table.columns` of schema `shop`"],
    ),
    "renamed column": (
        rename("item_id", "Item ID"),
        ["clicks.parquet: column `item_id` is missing", "Did you mean `Item ID`?", "Rename it"],
    ),
    "renamed label": (
        rename("clicked", "click"),
        ["column `clicked` is missing, which is to be the label", "Did you mean `click`?", "`table.label`"],
    ),
    "words in a number's place": (
        convert("age", lambda age: f"{age} years"),
        ["clicks.parquet: column `age` has type string", "expected a number", "Cast the column"],
    ),
    "fractions for ids": (
        convert("item_id", float),
        ["column `item_id` has type float64", "expected a string or integer id", "Cast the column"],
    ),
    "words for a label": (
        convert("clicked", lambda clicked: "yes" if clicked else "no"),
        ["column `label` (`clicked` in the files) has type string", "expected a number"],
    ),
    "words for a time": (
        convert("when", lambda moment: moment.strftime("%d.%m.%Y %H:%M")),
        ["clicks.parquet: column `when` holds '01.03.2024 00:00'", "expected times such as 2026-01-31 23:59:59"],
    ),
    "NaN without a fill": (
        put("age", math.nan),
        ["column `age` holds no value (null, NaN or infinity) in 1 of 400 rows", "declares no `fill`"],
    ),
    "null without a fill": (put("age", None), ["column `age` holds no value", "in 1 of 400 rows", "no `fill`"]),
    "infinity": (put("age", math.inf), ["column `age` holds no value", "in 1 of 400 rows", "no `fill`"]),
    "out of range": (put("age", -3.0), ["column `age` holds -3.0 in 1 of 400 rows", "a number in [0.0, 120.0]"]),
    "negative ids": (
        convert("item_id", lambda item: -item - 1),
        ["Column `item_id`: 400 ids in 400 rows are negative or beyond 64 bits", "at most 1%", "holds ids"],
    ),
    "too large ids": (
        retype("item_id", too_large_ids),
        ["Column `item_id`: 40 ids in 400 rows are negative or beyond 64 bits", "at most 1%", "holds ids"],
    ),
    "no rows": (
        lambda table: table.columns.update({name: pa.array(v)[:0] for name, v in table.columns.items()}),
        ["clicks.parquet: 0 rows for split `train` (rows by split: none", "check"],
    ),
    "a label of 2": (
        put("clicked", 2),
        ["`label` (`clicked` in the files) holds 2.0 in 1 of 400 rows", "expected a label of 0 or 1", "Mend"],
    ),
    "an age beside which all others are one": (
        lambda table: (table.schema["features"][1].pop("maximum"), put("age", 1e38)(table)),
        ["Column `age` holds 1e+38 (a row of split `train`, user_id", "`maximum:`", "`invalid: {age: clip}`"],
    ),
    "weights of which no test row has any": (
        lambda table: (
            table.schema.update(weight="weight"),
            table.columns.update(weight=[float(row < 320) for row in range(400)]),
        ),
        ["the weight `weight` is 0 in all 60 rows of split `test`", "Mend the weights"],
    ),
    "no label": (put("clicked", None), ["(`clicked` in the files) holds no value", "expected a label of 0 or 1"]),
    "one label alone": (
        convert("clicked", lambda _: 0),
        ["`clicked` in the files) is 0 in all 280 training rows", "expected both 0 and 1", "rule of the label"],
    ),
    "an undeclared segment": (
        put("device", "watch"),
        ["`segment` (`device` in the files) holds 'watch' in 1 of 400 rows", "expected one of phone, desktop"],
    ),
    "no time": (put("when", None), ["`time` (`when` in the files) holds no value", "expected a time in every row"]),
    "no training rows": (
        split_at("2024-02-01", "2024-03-10"),
        ["0 rows for split `train` (rows by split: test 220, validation 180)", "rule by which the rows are split"],
    ),
    "no validation rows": (
        split_at("2024-03-09 22:00", "2024-03-09 23:00"),
        ["0 rows for split `validation`", "found test 220", "train 180 (2024-03-01 to 2024-03-09)", "check the dates"],
    ),
    "no test rows": (
        split_at("2024-03-10", "2024-04-10"),
        ["0 rows for split `test`", "validation 220 (2024-03-10 to 2024-03-20)", "check the dates"],
    ),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_bad_rows_stop_the_run_before_training_with_what_was_found_and_expected(
    what: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    spoil, words = BAD_ROWS[what]
    spoil(table)
    table.write()
    message = refusal(table, [*table.words, *PRETRAIN], 65, capsys)
    for word in words:
        assert word in message
    assert not list(table.root.glob("towers/[!.]*")), "a tower was made"
    if "split" not in message:
        assert not list(table.root.rglob("split=*"))


def test_one_stray_id_is_no_reason_to_stop_but_is_counted_and_told(table: OwnTable, capsys: pytest.CaptureFixture[str]):
    put("item_id", -5)(table)
    put("user_id", None)(table)
    table.write()
    assert main(["prepare", *table.words]) == 0
    printed = capsys.readouterr().out
    assert "ids invalid: item_id │      1" in printed
    assert "ids missing: user_id │      1" in printed


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BAD_FILES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "0 bytes": (lambda path: path.write_bytes(b""), ["clicks.parquet is empty (0 bytes)", "Write it again"]),
    "cut short": (cut_short, ["clicks.parquet cannot be read as Parquet", "copy it again"]),
    "empty folder": (Path.unlink, ["clicks.parquet: no such file", "holds: nothing", "`table.files`", "`data.raw`"]),
    "other name": (
        lambda path: path.rename(path.with_name("Clicks.parquet")),
        ["clicks.parquet: no such file", "holds: Clicks.parquet", "`table.files`"],
    ),
    "no folder": (
        lambda path: shutil.rmtree(path.parent),
        ["There is no raw data at", "my data (`data.raw`)", "Set data.raw=...", "recsys fetch"],
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_files_that_cannot_be_read_are_named_with_what_lies_there(
    what: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    spoil, words = BAD_FILES[what]
    spoil(table.raw / "clicks.parquet")
    message = refusal(table, [*table.words, *PRETRAIN], 65, capsys)
    for word in words:
        assert word in message
    assert not list(table.root.rglob("split=*"))


BAD_KEYS: dict[str, tuple[list[str], list[str]]] = {
    "misspelt key": (["training.epoch=3"], ["no key `training.epoch`", "near it: training.epochs"]),
    "key of another choice": (
        ["tower=title_vectors", "tower.epochs=3"],
        ["no key `tower.epochs`", "tower=title_vectors"],
    ),
    "unknown choice": (["network=deep"], ["`network=deep` is none of the choices", "cross", "mask_parallel", "mlp"]),
    "wrong type": (["training.epochs=many"], ["`training.epochs` is 'many'", "valid integer"]),
    "out of range": (["training.batch_size=0"], ["`training.batch_size` is 0", "greater than 0"]),
    "unreadable value": (["network.hidden_widths=[16"], ["`network.hidden_widths=[16` cannot be read", "[1,2]"]),
    "several values": (["training.epochs=1,2"], ["`training.epochs=1,2` gives several values", "`recsys ablate`"]),
    "several choices": (["network=dot,mlp"], ["`network=dot,mlp` gives several values", "`ablation.grid`"]),
    "a path without a name": (["tower.vectors=", "tower=title_vectors"], ["`tower.vectors=` gives", "no value"]),
    "a seed of 20 digits": (["training.seed=12345678901234567890"], ["`training.seed` is 1234567", "4294967295"]),
    "the tower's": (["tower.seed=12345678901234567890"], ["`tower.seed` is 1234567", "equal to 4294967295"]),
    "a study's": (["ablation.tune.seed=99999999999"], ["`ablation.tune.seed` is 99999999999", "4294967295"]),
    "a batch beyond all rows": (["training.batch_size=" + 30 * "9"], ["`training.batch_size` is 999", "2147483647"]),
    "a width beyond all memory": (["tower.width=1000000000000"], ["`tower.width` is 1000000000000", "65536"]),
    "too many threads": (["runtime.threads=1000000000"], ["`runtime.threads` is 1000000000", "equal to 1024"]),
    "too many layers": (["network.layers=1000000000"], ["`network.layers` is 1000000000", "equal to 1000"]),
    "a mask of no size": (
        ["network=mask_parallel", "network.mask_ratio=1e300"],
        ["`network.mask_ratio` is 1e+300", "equal to 1000"],
    ),
    "no memory": (["runtime.memory_limit=0MB"], ["`runtime.memory_limit` is '0MB'", "16MB or more"]),
    "more memory than there is": (
        ["runtime.memory_limit=9999999999GB"],
        ["`runtime.memory_limit` is '9999999999GB'", "16MB or more"],
    ),
    "a tracking store of no kind": (["tracking.uri=mysql://x"], ["'mysql://x'", "sqlite:///", "`tracking.uri`"]),
}


@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_wrong_override_is_refused_with_the_key_and_what_there_is(
    what: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    overrides, words = BAD_KEYS[what]
    message = refusal(table, [*table.words, *overrides], 2, capsys)
    for word in words:
        assert word in message
    assert not list(table.root.glob("encoded/*"))


def test_a_value_that_must_be_given_is_asked_for_by_its_key(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "data=table"]) == 2
    assert "`data.schema_path` has no value" in capsys.readouterr().err


BAD_SCHEMAS: dict[str, tuple[Change, list[str]]] = {
    "key of a feature": (
        lambda table: table.schema["features"][1].update(minimun=0),
        ["shop.yaml, line 10, feature `age`: unknown key `minimun`", "minimum"],
    ),
    "key of the schema": (
        lambda table: table.schema.update(lable="label"),
        ["shop.yaml, line 28: unknown key `lable`"],
    ),
    "key of the table": (
        lambda table: table.schema["table"].update(split={}),
        ["shop.yaml, line 39, `table`: unknown key `split`", "splits"],
    ),
    "kind of a feature": (
        lambda table: table.schema["features"][1].update(kind="numeric"),
        ["feature `age`", "'numeric'", "dense, sparse, sparse_list"],
    ),
    "a segment of every row's name": (
        lambda table: table.schema.update(segments=["all", "desktop"]),
        ["a segment is named `all`", "Give it another name"],
    ),
    "no feature for the network": (
        lambda table: [feature.update(used_by=["user_tower", "item_tower"]) for feature in table.schema["features"]],
        ["Schema `shop` gives interaction_network no feature", "`used_by` of at least one"],
    ),
    "the time as a feature": (
        lambda table: table.schema["features"].append({"name": "time", "kind": "dense", "used_by": ["user_tower"]}),
        ["a feature is named `time`", "Rename it"],
    ),
    "a misspelt name": (
        lambda table: table.schema["table"].update(missing={"prise": -1}),
        ["shop.yaml, line 38, `table`.missing: `prise` (did you mean `price`?)"],
    ),
    "no table block": (lambda table: table.schema.pop("table"), ["`table`: the block is missing", "recsys init"]),
}


@pytest.mark.parametrize("what", BAD_SCHEMAS)
def test_a_schema_that_cannot_be_meant_is_refused_by_file_and_key(
    what: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    spoil, words = BAD_SCHEMAS[what]
    spoil(table)
    table.write()
    message = refusal(table, [*table.words, *PRETRAIN], 2, capsys)
    for word in words:
        assert word in message
    assert not list(table.root.glob("towers/[!.]*")), "a tower was made"


def test_a_schema_file_that_is_not_there_is_named(table: OwnTable, capsys: pytest.CaptureFixture[str]):
    table.schema_path.unlink()
    message = refusal(table, table.words, 2, capsys)
    assert f"{table.schema_path} does not exist" in message


VECTORS = [[float((item * place) % 7) for place in range(6)] for item in range(ITEMS)]
BAD_VECTORS: dict[str, tuple[list[Any], list[list[float]], list[str]]] = {
    "no id matches": (
        [item + 5000 for item in range(ITEMS)],
        VECTORS,
        ["None of the 20 ids", "vectors.parquet", "such as 5000", "table `item_id`", "`tower.id_column`"],
    ),
    "ids of another type": ([f"p{item}" for item in range(ITEMS)], VECTORS, ["vectors.parquet", "`tower.id_column`"]),
    "too narrow": (
        list(range(ITEMS)),
        [vector[:3] for vector in VECTORS],
        ["vectors.parquet", "vectors of 3 numbers", "Lower `tower.width`"],
    ),
    "several widths": (list(range(ITEMS)), [VECTORS[0][:5], *VECTORS[1:]], ["lists of [5, 6] numbers", "one length"]),
    "a vector of NaN": (
        list(range(ITEMS)),
        [[math.nan] * 6, *VECTORS[1:]],
        ["vectors.parquet has 1 vectors with a number that is not finite", "id 0", "Drop those rows"],
    ),
    "an id twice": ([1, *range(1, ITEMS)], VECTORS, ["1 repeated ids, such as 1", "one vector per id"]),
}


@pytest.mark.parametrize("what", BAD_VECTORS)
def test_vectors_that_cannot_be_the_datas_tower_are_refused(
    what: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    ids, vectors, words = BAD_VECTORS[what]
    message = refusal(table, [*table.words, *table.write_vectors(ids, vectors)], 65, capsys)
    for word in words:
        assert word in message
    assert not list(table.root.glob("towers/[!.]*")), "a tower was made"


def test_vectors_that_are_not_there_are_named(table: OwnTable, capsys: pytest.CaptureFixture[str]):
    message = refusal(table, [*table.words, "tower=title_vectors"], 65, capsys)
    assert "title_vectors.parquet" in message
    assert "`tower.vectors`" in message


def test_a_tower_of_another_vocabulary_is_refused_by_the_table_whose_ids_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ours, theirs = OwnTable(tmp_path / "ours"), OwnTable(tmp_path / "theirs")
    convert("item_id", lambda item: item + 100)(theirs)
    theirs.write()
    for table in (ours, theirs):
        assert main(["pretrain", *table.words, *PRETRAIN]) == 0
    (tower,), (other,) = (list(table.root.glob("towers/*/tower")) for table in (ours, theirs))
    shutil.rmtree(tower)
    shutil.copytree(other, tower)
    receipt = json.loads((tower.parent / "receipt.json").read_text())
    receipt["files"] = {name: (tower.parent / name).stat().st_size for name in receipt["files"]}
    (tower.parent / "receipt.json").write_text(json.dumps(receipt))
    shutil.rmtree(ours.root / "runs")
    message = refusal(ours, [*ours.words, *PRETRAIN], 65, capsys)
    assert f"Pre-trained tower {tower} was made with vocabulary of table `item_id`" in message
    assert "but this data has" in message
    assert "Make it again from this data" in message


@pytest.fixture
def prepared(table: OwnTable) -> Path:
    """The newest encoded training file of a prepared table."""
    assert main(["prepare", *table.words]) == 0
    return sorted(table.root.glob("encoded/*/rows/split=train/*/*.parquet"))[-1]


def test_an_encoded_file_that_rotted_is_found_before_training(
    prepared: Path, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    content = bytearray(prepared.read_bytes())
    content[len(content) // 3] ^= 1
    prepared.write_bytes(content)
    message = refusal(table, [*table.words, *PRETRAIN], 65, capsys)
    assert f"sha256 mismatch in {prepared}" in message
    assert f"remove the folder {prepared.parents[2]}" in message
    assert not list(table.root.glob("towers/[!.]*")), "a tower was made"
    shutil.rmtree(prepared.parents[2])
    assert main(["prepare", *table.words]) == 0, "what the message says to do helps"


def test_an_encoded_file_that_was_cut_short_is_made_again_from_the_raw_rows(prepared: Path, table: OwnTable):
    whole = prepared.read_bytes()
    cut_short(prepared)
    assert main(["prepare", *table.words]) == 0
    assert prepared.read_bytes() == whole


@pytest.mark.parametrize("output", ["runs", "encoded", "towers"])
def test_an_output_that_cannot_be_written_is_found_before_any_work(
    output: str, table: OwnTable, capsys: pytest.CaptureFixture[str]
):
    blocked = table.root / "a file"
    blocked.write_text("in the way")
    message = refusal(table, [*table.words, *PRETRAIN, f"runtime.{output}={blocked}/{output}"], 73, capsys)
    assert f"Cannot write to {blocked}/{output}" in message
    assert "Choose another output folder" in message
    assert not list(table.root.rglob("split=*")), "rows were prepared"
    assert blocked.read_text() == "in the way"
