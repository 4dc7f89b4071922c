"""CSV files of a user's table: nothing is guessed, no row is lost, and a column means one thing in all files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError, UsageError
from tests.datasets.shop_files import BY_FILE, read, schema_document, shop, source_rows

CUTS = {"train": slice(0, 40), "valid": slice(40, 50), "test": slice(50, 60)}


def write(folder: Path, rows: pd.DataFrame, **options: Any) -> list[str]:
    """The rows as three CSV files, one a split; return the texts."""
    texts = []
    for name, cut in CUTS.items():
        path = folder / f"{name}.csv"
        rows[cut].to_csv(path, index=False, **options)
        texts.append(path.read_text(encoding=options.get("encoding", "utf-8")))
    return texts


def read_splits(folder: Path, **table: Any) -> pd.DataFrame:
    return read(folder, folder / ".work", files=BY_FILE, **table)


def test_csv_files_give_the_same_rows_as_parquet_files(tmp_path: Path) -> None:
    rows = shop()
    write(tmp_path, rows)
    for name, cut in CUTS.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        rows[cut].to_parquet(tmp_path / "p" / f"{name}.parquet")
    pd.testing.assert_frame_equal(read_splits(tmp_path), read_splits(tmp_path / "p"))


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ({"sep": ";"}, {"delimiter": ";"}),
        ({"encoding": "latin-1"}, {"encoding": "latin-1"}),
        ({"encoding": "utf-16"}, {"encoding": "utf-16"}),
        ({"encoding": "utf-8-sig"}, {}),
        ({"lineterminator": "\r\n"}, {}),
        ({"lineterminator": "\r"}, {}),
        ({"quoting": 1}, {}),
    ],
)
def test_the_declared_form_of_all_files_is_read(options: dict[str, Any], table: dict[str, Any], tmp_path: Path) -> None:
    rows = shop().assign(item_id=lambda f: 'café "' + f["item_id"].astype(str) + '", a;b')
    write(tmp_path, rows, **options)
    assert read_splits(tmp_path, csv=table)["item_id"].tolist() == rows["item_id"].tolist()


def test_tab_separated_and_packed_files_are_told_by_their_names(tmp_path: Path) -> None:
    rows = shop()
    rows[:40].to_csv(tmp_path / "train.tsv", sep="\t", index=False)
    rows[40:50].to_csv(tmp_path / "valid.csv.gz", index=False)
    rows[50:].to_csv(tmp_path / "test.TSV", sep="\t", index=False)
    assert read_splits(tmp_path)["price"].tolist() == rows["price"].tolist()


@pytest.mark.parametrize("is_packed", [False, True])
def test_bytes_of_another_encoding_are_refused_with_their_place_and_the_key(is_packed: bool, tmp_path: Path) -> None:
    rows = shop().assign(item_id=lambda f: "caf" + f["item_id"].astype(str))
    first, *_ = write(tmp_path, rows)
    lines = first.encode().splitlines(keepends=True)
    lines[7] = lines[7].replace(b"caf", b"caf\xe9")
    place = len(b"".join(lines[:7])) + lines[7].index(b"\xe9") + 1
    text = b"".join(lines)
    (tmp_path / "train.csv").write_bytes(text)
    if is_packed:
        (tmp_path / "train.csv").unlink()
        (tmp_path / "train.csv.gz").write_bytes(gzip.compress(text))
    with pytest.raises(
        DataError, match=rf"train.csv(.gz)?, line 8, byte {place} of the file \(0xe9\).*no utf-8.*table.csv.encoding"
    ):
        read_splits(tmp_path)


def test_utf_16_without_a_word_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, shop(), encoding="utf-16")
    with pytest.raises(DataError, match=r"train.csv, line 1, byte 1 .*utf-16, for instance"):
        read_splits(tmp_path)


def test_another_header_glued_below_is_refused_with_its_line(tmp_path: Path) -> None:
    first, *_ = write(tmp_path, shop())
    # The same header again; then one of other names; then one of more columns.
    (tmp_path / "train.csv").write_text(first + first)
    with pytest.raises(DataError, match=r"train.csv, line 42: the header stands there again"):
        read_splits(tmp_path)
    (tmp_path / "train.csv").write_text(first + first.replace("price", "cost"))
    with pytest.raises(DataError, match=r"train.csv, line 42: column `price` holds 'cost', and 1 of 101 values"):
        read_splits(tmp_path)
    (tmp_path / "train.csv").write_text(first + "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"train.csv, line 42: 2 fields between ','; expected 6, as in the header"):
        read_splits(tmp_path)
    (tmp_path / "train.csv").write_text("a,b\n1,2\n" + first)
    with pytest.raises(DataError, match=r"train.csv: column `\w+` is missing, which .*valid.csv has; found a, b"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# a remark\n", "line 5: 1 fields"),
        ("1,2,3.0,new,1\n", "line 5: 5 fields"),
        ("1,2,3.0,new,1,2026-01-01,x\n", "line 5: 7 fields"),
        ('1,2,3.0,"new,1,2026-01-01\n', "line 5: .*fields|double quote is opened"),
        ('1,2,3.0,"new"x,1,2026-01-01\n', "line 5: a double quote is opened and not closed, or followed"),
        ("1,2,3.0,new,1,2026-01-01\r\n", "its lines end in"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_place(line: str, message: str, tmp_path: Path) -> None:
    first, *_ = write(tmp_path, shop())
    lines = first.splitlines(keepends=True)
    with (tmp_path / "train.csv").open("w", newline="") as stream:
        stream.write("".join([*lines[:4], line, *lines[4:]]))
    with pytest.raises(DataError, match=f"train.csv.*{message}"):
        read_splits(tmp_path)


def test_empty_lines_and_line_ends_inside_of_quotes_lose_no_row(tmp_path: Path) -> None:
    rows = shop().assign(item_id=lambda f: "a\n\nb" + f["item_id"].astype(str))
    first, *_ = write(tmp_path, rows)
    (tmp_path / "train.csv").write_text(first.replace("\n", "\n\n", 1) + "\n\n")
    assert read_splits(tmp_path)["item_id"].tolist() == rows["item_id"].tolist()


def test_a_delimiter_that_is_not_declared_is_named(tmp_path: Path) -> None:
    write(tmp_path, shop(), sep=";")
    with pytest.raises(DataError, match=r"train.csv has one column, .*`table.csv.delimiter: ';'`"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("form", "readings"),
    [
        ("%m/%d/%Y", ["holds '01/02/2026'", "'%m/%d/%Y' reads 2026-01-02", "'%d/%m/%Y' reads 2026-02-01"]),
        ("%d/%m/%Y %H:%M", ["'%m/%d/%Y %H:%M' reads 2026-02-01 ", "'%d/%m/%Y %H:%M' reads 2026-01-02 "]),
        ("%d.%m.%y", ["'%d.%m.%y' reads 2026-01-0"]),
    ],
)
def test_times_in_another_form_stop_with_their_readings_and_are_read_as_declared(
    form: str, readings: list[str], tmp_path: Path
) -> None:
    rows = shop()
    write(tmp_path, rows.assign(at=rows["at"].dt.strftime(form)))
    with pytest.raises(DataError, match=r"(?s)train.csv, line \d+: column `at` holds '.*table.time.format") as caught:
        read_splits(tmp_path)
    for reading in readings:
        assert reading in str(caught.value)
    found = read_splits(tmp_path, time={"column": "at", "unit": "timestamp", "format": form})
    # As strptime itself has it, row by row; rows of one day stay in the order of their prices.
    expected = rows.assign(at=pd.to_datetime(rows["at"].dt.strftime(form), format=form)).sort_values(["at", "price"])
    assert found["at"].tolist() == expected["at"].tolist()
    assert found["price"].tolist() == expected["price"].tolist()


def test_days_that_only_one_file_tells_apart_are_read_by_the_declared_form_in_all(tmp_path: Path) -> None:
    rows = shop()
    rows["at"] = pd.Timestamp("2026-01-08") + pd.to_timedelta(np.arange(60) // 6, unit="D")
    write(tmp_path, rows.assign(at=rows["at"].dt.strftime("%m/%d/%Y")))
    with pytest.raises(DataError, match=r"table.time.format"):
        read_splits(tmp_path)
    time = {"column": "at", "unit": "timestamp", "format": "%m/%d/%Y"}
    assert read_splits(tmp_path, time=time)["at"].tolist() == rows["at"].tolist()
    with pytest.raises(DataError, match=r"column `at` holds '01/1\d/2026'; expected `table.time.format` '%d/%m/%Y'"):
        read_splits(tmp_path, time={**time, "format": "%d/%m/%Y"})


def test_iso_times_with_and_without_zones_days_and_fractions_are_read(tmp_path: Path) -> None:
    rows = shop()
    moments = rows["at"].dt.tz_localize("UTC")
    texts = [f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in moments[:30]]
    texts += [moment.tz_convert("Europe/Kyiv").isoformat(sep=" ") for moment in moments[30:50]]
    texts += [f"{moment:%Y-%m-%d %H:%M:%S}.25" for moment in moments[50:59]] + ["2026-02-01"]
    write(tmp_path, rows.assign(at=texts))
    found = read_splits(tmp_path)["at"]
    assert found[:50].tolist() == rows["at"][:50].tolist()
    assert found[50:59].tolist() == (rows["at"][50:59] + pd.Timedelta("250ms")).tolist()
    assert found[59] == pd.Timestamp("2026-02-01")


def test_text_in_parquet_files_is_a_time_by_the_same_rule(tmp_path: Path) -> None:
    rows = shop()
    rows.assign(at=rows["at"].dt.strftime("%d.%m.%Y %H:%M")).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: column `at` holds .*'%d.%m.%Y %H:%M' reads 2026"):
        read(tmp_path, tmp_path / ".work")
    time = {"column": "at", "unit": "timestamp", "format": "%d.%m.%Y %H:%M"}
    assert read(tmp_path, tmp_path / ".work", time=time)["at"].tolist() == rows["at"].tolist()


@pytest.mark.parametrize("word", ["NA", "N/A", "null", "NULL", "-", "None", "?"])
def test_a_word_for_no_value_is_declared_or_stops_with_the_key(word: str, tmp_path: Path) -> None:
    rows = shop()
    texts = rows["price"].astype(str)
    texts[[3, 45]] = word
    write(tmp_path, rows.assign(price=texts))
    with pytest.raises(
        DataError,
        match=rf"train.csv, line 5: column `price` holds '{word}'.*csv.missing: \['{word}'\]".replace("?", r"\?"),
    ):
        read_splits(tmp_path)
    found = read_splits(tmp_path, csv={"missing": ["unused", word]})["price"]
    assert np.flatnonzero(found.isna()).tolist() == [3, 45]
    assert found.dropna().tolist() == rows["price"].drop([3, 45]).tolist()


def test_a_word_for_no_value_among_ids_stops_and_is_a_value_or_a_word_as_declared(tmp_path: Path) -> None:
    rows = shop()
    texts = rows["item_id"].astype(str)
    texts[7] = "NA"
    write(tmp_path, rows.assign(item_id=texts))
    with pytest.raises(DataError, match=r"train.csv, line 9: column `item_id` holds 'NA' beside numbers, in 1 of 60"):
        read_splits(tmp_path)
    assert read_splits(tmp_path, csv={"missing": []})["item_id"].tolist() == texts.tolist()
    document = schema_document(files=BY_FILE, csv={"missing": ["NA"]})
    document["invalid"] = {"item_id": "unknown"}
    found = source_rows(tmp_path, tmp_path / ".work", document)[0]["item_id"]
    assert found.drop(7).tolist() == rows["item_id"].drop(7).tolist()
    assert pd.isna(found[7])


@pytest.mark.parametrize("words", [("yes", "no"), ("true", "false"), ("True", "False"), ("T", "F"), ("on", "off")])
def test_yes_and_no_are_kept_as_the_words_they_are(words: tuple[str, str], tmp_path: Path) -> None:
    rows = shop()
    named = np.where(rows["bought"] == 1, *words)
    write(tmp_path, rows.assign(item_id=named, bought=named))
    found = read_splits(tmp_path, label=f"bought == {words[0]}")
    assert found["item_id"].tolist() == named.tolist()
    assert found["label"].tolist() == rows["bought"].tolist()


def test_true_and_false_are_one_and_zero_only_where_numbers_are_declared(tmp_path: Path) -> None:
    rows = shop()
    write(tmp_path, rows.assign(bought=rows["bought"] == 1))
    assert read_splits(tmp_path)["label"].tolist() == rows["bought"].tolist()
    write(tmp_path, rows.assign(bought=np.where(rows["bought"] == 1, "yes", "no")))
    with pytest.raises(
        DataError, match=r"column `bought` holds 'no', and 60 of 60 values are no numbers.*bought == yes"
    ):
        read_splits(tmp_path)


@pytest.mark.parametrize("where", ["train", "valid", "test"])
def test_codes_with_zeros_in_front_are_words_in_all_files_when_one_file_has_them(where: str, tmp_path: Path) -> None:
    rows = shop()
    codes = rows["item_id"].astype(str)
    codes[CUTS[where]] = codes[CUTS[where]].str.zfill(3)
    write(tmp_path, rows.assign(item_id=codes))
    assert read_splits(tmp_path)["item_id"].tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["1", "2"], ["1.5", "2"], [1.0, 2.0, 1.5, 2.0]),
        (["", ""], ["3", "4"], [np.nan, np.nan, 3.0, 4.0]),
        ([" 1", "2 "], ["1e3", "+4"], [1.0, 2.0, 1000.0, 4.0]),
        (["007", "0.5"], [".5", "-0"], [7.0, 0.5, 0.5, 0.0]),
        (["nan", "1"], ["inf", "2"], [np.nan, 1.0, np.nan, 2.0]),
        (["9223372036854775807", "1"], ["1", "1"], [9.223372036854775807e18, 1.0, 1.0, 1.0]),
    ],
)
def test_numbers_of_one_column_have_one_type_over_all_files(
    train: list[str], test: list[str], expected: list[float], tmp_path: Path
) -> None:
    rows = shop()
    prices = pd.Series(["5"] * 60)
    prices[[0, 1]], prices[[58, 59]] = train, test
    write(tmp_path, rows.assign(price=prices).sort_values("at"))
    found = read_splits(tmp_path)["price"]
    np.testing.assert_array_equal(found[[0, 1, 58, 59]].to_numpy(float), expected)
    assert set(found[2:58]) == {5.0}


@pytest.mark.parametrize("text", ["1,234.5", "1.234,5", "1_000", "0x1F", "12 EUR", "$5", "1 000"])
def test_what_is_no_plain_number_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    rows = shop()
    prices = rows["price"].astype(str)
    prices[44] = text
    write(tmp_path, rows.assign(price=prices))
    with pytest.raises(
        DataError, match=r"valid.csv, line 6: column `price` holds '.*', and 1 of 60 values are no numbers"
    ):
        read_splits(tmp_path)


def test_whole_prices_in_one_split_and_an_empty_column_in_another_are_read(tmp_path: Path) -> None:
    rows = shop()
    prices = rows["price"].to_numpy().copy()
    prices[:40], prices[40:50] = np.arange(40), np.nan
    texts = [f"{price:g}" if price == price else "" for price in prices]
    write(tmp_path, rows.assign(price=texts))
    np.testing.assert_allclose(read_splits(tmp_path)["price"], prices, rtol=1e-5)


@pytest.mark.parametrize("csv_split", ["train", "test"])
def test_csv_beside_parquet_takes_the_types_of_parquet(csv_split: str, tmp_path: Path) -> None:
    rows = shop().assign(item_id=lambda f: f["item_id"].map("{:03d}".format), at=shop()["at"].dt.floor("D"))
    rows["bought"] = rows["bought"] == 1
    for name, cut in CUTS.items():
        part = rows[cut].copy()
        if name == csv_split:
            part["price"] = part["price"].round().astype(int)
            part["at"] = part["at"].dt.strftime("%Y-%m-%d")
            part.to_csv(tmp_path / f"{name}.csv", index=False)
        else:
            part.to_parquet(tmp_path / f"{name}.parquet")
    found = read_splits(tmp_path)
    expected = rows.copy()
    expected.loc[expected.index[CUTS[csv_split]], "price"] = expected["price"][CUTS[csv_split]].round()
    names = ["at", "price", "user_id", "item_id", "group"]
    assert sorted(zip(*(found[name] for name in [*names, "label"]), strict=True)) == sorted(
        zip(*(expected[name] for name in [*names, "bought"]), strict=True)
    )


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        (
            "item_id",
            "mug",
            r"valid.csv, line 2: column `item_id` is text there \(such as 'mug'\), and int64 in the Parquet",
        ),
        ("item_id", "1.0", r"valid.csv, line 2: column `item_id` is text there \(such as '1.0'\), and int64 in"),
        ("price", "NA", r"valid.csv, line 2: column `price` is text there \(such as 'NA'\), and double in"),
        ("at", "01/02/2026", r"valid.csv, line 2: column `at` holds '01/02/2026'; expected times"),
    ],
)
def test_csv_that_does_not_fit_parquet_is_refused_with_both_types(
    column: str, text: str, message: str, tmp_path: Path
) -> None:
    rows = shop()
    rows[CUTS["train"]].to_parquet(tmp_path / "train.parquet")
    rows[CUTS["test"]].to_parquet(tmp_path / "test.parquet")
    rows[CUTS["valid"]].astype({column: object}).assign(**{column: text}).to_csv(tmp_path / "valid.csv", index=False)
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path)


def test_parquet_files_may_keep_equal_values_in_other_ways(tmp_path: Path) -> None:
    rows = shop()
    base = pa.table({name: pa.array(rows[name]) for name in rows.columns})
    base = base.set_column(1, "item_id", pa.array([str(item) for item in rows["item_id"]]))
    train, valid, test = base.slice(0, 40), base.slice(40, 10), base.slice(50, 10)
    valid = valid.set_column(2, "price", pa.nulls(10)).set_column(5, "at", valid["at"].cast(pa.timestamp("ns", "UTC")))
    valid = valid.set_column(1, "item_id", valid["item_id"].combine_chunks().dictionary_encode())
    test = test.set_column(5, "at", test["at"].cast(pa.timestamp("ms"))).set_column(
        1, "item_id", test["item_id"].cast(pa.large_string())
    )
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    found = read_splits(tmp_path)
    assert found["at"].tolist() == rows["at"].tolist()
    assert found["item_id"].tolist() == [str(item) for item in rows["item_id"]]
    assert np.flatnonzero(found["price"].isna()).tolist() == list(range(40, 50))


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ({"encoding": "klingon"}, r"`table`.csv: `encoding` is 'klingon'; expected an encoding that Python knows"),
        ({"delimiter": "::"}, r"`table`.csv: `delimiter` is '::'; expected one character"),
        ({"missing": "NA"}, r"`table`.csv: `missing` is 'NA'; expected a list of words"),
        ({"missing": [None]}, r"`table`.csv: `missing` is \[None\]; expected a list of words, each in quotation marks"),
        ({"quote": "'"}, "unknown key `quote`; expected some of encoding, delimiter, missing"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused_by_key(csv: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, shop())
    with pytest.raises(UsageError, match=message):
        read_splits(tmp_path, csv=csv)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ({"unit": "seconds", "format": "%Y-%m-%d"}, "has a format, but numbers since 1970 have none"),
        ({"unit": "timestamp", "format": "%H:%M"}, "expected one that tells day and year"),
        ({"unit": "timestamp", "format": "%Y-%m-%d %Q"}, "which DuckDB's strptime does not know"),
    ],
)
def test_a_format_of_times_that_cannot_be_meant_is_refused(time: dict[str, str], message: str, tmp_path: Path) -> None:
    write(tmp_path, shop())
    with pytest.raises(UsageError, match=message):
        read_splits(tmp_path, time={"column": "at", **time})
