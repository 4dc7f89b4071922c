"""What `init` makes of tables that nobody has declared."""

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from recsys.errors import DataError, UsageError
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import FeatureSchema, load_schema
from tests.datasets.schema_inference.shop_folders import inferred, reviews, ugly_shop, write_csv


@pytest.fixture(scope="module")
def ugly(tmp_path_factory: pytest.TempPathFactory):
    return inferred(ugly_shop(tmp_path_factory.mktemp("ugly")))


def feature(document, name: str):
    return next(entry for entry in document["features"] if entry["name"] == name)


def test_the_text_reads_back_as_the_document_that_was_checked(ugly, tmp_path: Path):
    path = tmp_path / "shop.yaml"
    path.write_text(ugly.text)

    assert read_plain_yaml(path, "Schema file") == ugly.document
    assert load_schema(path) == FeatureSchema.from_document(ugly.document)


def test_files_of_other_column_order_are_one_table_of_events(ugly):
    assert ugly.document["table"]["files"] == "sales/*.csv"
    assert (ugly.document["user"], ugly.document["item"]) == ("customer", "sku")
    assert ugly.document["table"]["time"] == {"column": "when", "unit": "timestamp"}


def test_ids_with_zeros_in_front_are_ids_and_no_numbers(ugly):
    assert [feature(ugly.document, name)["kind"] for name in ("customer", "sku")] == ["sparse", "sparse"]
    assert "customer" not in ugly.document["table"].get("derive", {})


def test_prices_with_commas_become_numbers_and_lists_and_titles_their_words(ugly):
    table = ugly.document["table"]

    assert table["derive"]["list_price_number"] == "cast(replace(list_price, ',', '') as double)"
    assert feature(ugly.document, "list_price_number")["kind"] == "dense"
    assert table["lists"] == {"tags_list": {"column": "tags", "separator": "|"}}
    assert table["words"] == {"Product_Name_words": "Product_Name"}


def test_side_tables_are_joined_by_their_keys_in_their_own_form(ugly):
    tables = ugly.document["table"]["tables"]

    assert {key: tables["products"][key] for key in ("files", "key", "column", "csv")} == {
        "files": "products.csv",
        "key": "sku",
        "column": "SKU",
        "csv": {"delimiter": ";"},
    }
    assert tables["users"] == {
        "files": "users.csv",
        "key": "customer",
        "columns": {"city": "city"},
        "duplicates": "last",
    }
    assert "of 5 keys with several rows the last one counts" in ugly.text


def test_events_without_a_judgement_are_positives_with_negatives_from_what_sold_lately(ugly):
    table = ugly.document["table"]

    assert "label" not in table
    assert table["query"] == {"next": "event"}
    assert table["candidates"] == {"within": "90d"}
    assert table["negatives"]["per_positive"] == 4
    assert "candidates" in ugly.asked
    assert {"qty", "paid"} <= set(ugly.aside)


def test_reviews_get_a_rule_for_their_stars_and_the_day_first_times_their_format(tmp_path: Path):
    found = inferred(reviews(tmp_path))
    table = found.document["table"]

    assert table["label"] == "stars > 3"
    assert "is `stars > 3` what counts as a positive?" in found.asked["label"]
    assert table["time"] == {"column": "time", "unit": "timestamp", "format": "%d/%m/%Y %H:%M"}
    assert not {"negatives", "query", "candidates"} & set(table)
    assert "stars" not in [entry["name"] for entry in found.document["features"]]
    assert table["history"]["features"]["item_stars"]["of"] == "stars"
    assert isinstance(table["splits"]["validation_start"], date)
    # Nobody is new by the time of validation.
    assert found.document["segments"] == ["light", "regular", "heavy"]
    assert table["segment"]["column"] == "user_events"


def test_times_that_read_in_two_ways_are_asked_for(tmp_path: Path):
    rows = [{"user": n % 9, "item": n % 7, "at": f"0{n % 9 + 1}/0{n % 8 + 1}/2024"} for n in range(200)]
    write_csv(tmp_path / "rows.csv", rows)

    found = inferred(tmp_path)

    assert found.document["table"]["time"]["format"] == "%d/%m/%Y"
    assert "%d/%m/%Y, or as %m/%d/%Y" in found.asked["time"]


def test_an_order_without_times_leaves_the_last_event_of_each_user_out(tmp_path: Path):
    rows = [
        {"user_id": user, "item_id": (user * place) % 11, "position": place} for user in range(30) for place in range(6)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "events.parquet")
    items = pd.DataFrame({"item_id": range(11), "attributes": [[each % 3, 7] for each in range(11)]})
    items.to_parquet(tmp_path / "items.parquet")

    table = inferred(tmp_path).document["table"]

    assert table["position"] == "position"
    assert table["splits"] == {"leave_last": 1}
    assert table["candidates"] == {}
    assert table["tables"]["items"]["columns"] == {"attributes": "attributes"}
    assert all(entry["by"][0] == "user_id" for entry in table["history"]["features"].values())


def test_rows_without_any_order_are_divided_by_chance_and_told_out_of_fold(tmp_path: Path):
    rows = pd.DataFrame(
        {
            "user": [n % 20 for n in range(400)],
            "item": [n % 13 for n in range(400)],
            "clicked": [n % 2 for n in range(400)],
        }
    )
    rows.to_parquet(tmp_path / "clicks.parquet")

    found = inferred(tmp_path)
    table = found.document["table"]

    assert table["label"] == "clicked"
    assert table["splits"]["by"] == "row"
    assert table["history"]["scope"] == "train_only"
    assert {entry["folds"] for entry in table["history"]["features"].values()} == {10}
    assert {"time", "segments"} <= set(found.asked)
    assert found.document["segments"] == ["everyone"]


def test_baskets_are_queries_and_what_stands_in_all_their_rows_is_their_context(tmp_path: Path):
    rows = [
        {
            "invoice": f"I{basket}",
            "customer_id": None if basket % 10 == 0 else basket % 25,
            "stock_code": f"{(basket * 7 + line) % 40:03d}",
            "description": f"lamp number {(basket * 7 + line) % 40}",
            "quantity": -1 if basket % 30 == 1 else 2,
            "country": ["UK", "France", "Spain"][basket % 25 % 3],
            "invoice_date": pd.Timestamp("2024-01-01") + pd.Timedelta(days=basket),
        }
        for basket in range(300)
        for line in range(4)
    ]
    pd.DataFrame(rows).astype({"customer_id": "Int64"}).to_parquet(tmp_path / "transactions.parquet")

    table = inferred(tmp_path).document["table"]

    assert table["query"] == {"column": "invoice", "keep": {"country": "max"}}
    assert table["where"] == ["customer_id is not null", "quantity > 0"]
    assert table["tables"] == {"item_columns": {"key": "stock_code", "columns": {"item_description": "description"}}}
    assert table["history"]["features"]["user_events"] == {"kind": "distinct", "of": "invoice", "by": ["customer_id"]}


def test_files_named_after_splits_tell_them(tmp_path: Path):
    for name, start in (("train", 0), ("valid", 400), ("test", 450)):
        count = 400 if name == "train" else 50
        numbers = [start + each for each in range(count)]
        frame = {
            "user": [n % 19 for n in numbers],
            "movie": [n % 17 for n in numbers],
            "rating": [n % 5 + 1 for n in numbers],
        }
        pd.DataFrame({**frame, "timestamp": [1_700_000_000 + 3600 * n for n in numbers]}).to_parquet(
            tmp_path / f"{name}.parquet"
        )

    table = inferred(tmp_path).document["table"]

    assert table["files"] == {"train": "train.parquet", "validation": "valid.parquet", "test": "test.parquet"}
    assert "splits" not in table
    assert table["time"] == {"column": "timestamp", "unit": "seconds"}
    assert table["history"]["scope"] == "live"


def test_two_shops_in_a_folder_are_asked_for_and_chosen_with_their_own_items(tmp_path: Path):
    for shop in ("beauty", "toys"):
        events = [{"user_id": n % 12, "item_id": n % 9, "position": n} for n in range(120)]
        pd.DataFrame(events).to_parquet(tmp_path / f"{shop}_events.parquet")
        pd.DataFrame({"item_id": range(9), "brand": [f"b{n % 3}" for n in range(9)]}).to_parquet(
            tmp_path / f"{shop}_items.parquet"
        )

    with pytest.raises(UsageError, match=r"2 tables have a user and an item.*--events beauty_events.parquet"):
        inferred(tmp_path)

    found = inferred(tmp_path, events="toys_events.parquet")
    assert found.document["table"]["files"] == "toys_events.parquet"
    assert found.document["table"]["tables"]["toys_items"]["files"] == "toys_items.parquet"
    assert {"beauty_events", "beauty_items"} <= set(found.aside)


def test_prices_that_hold_from_a_day_on_are_joined_as_of_the_event(tmp_path: Path):
    reviews(tmp_path)
    days = ("2024-01-01", "2024-04-01")
    prices = [{"product": f"P{n}", "valid_from": day, "price": n + 0.5} for n in range(1, 31) for day in days]
    write_csv(tmp_path / "prices.csv", prices)

    tables = inferred(tmp_path).document["table"]["tables"]

    assert tables["prices"]["time"] == {"column": "valid_from", "unit": "timestamp"}
    assert "duplicates" not in tables["prices"]


def test_columns_that_nobody_can_recognise_are_listed_with_the_options_that_tell(tmp_path: Path):
    write_csv(tmp_path / "rows.csv", [{"a": n % 5, "b": n % 7, "c": n} for n in range(50)])

    with pytest.raises(UsageError, match=r"columns are rows .rows.csv.: a, b, c.*--user <column> --item <column>"):
        inferred(tmp_path)
    with pytest.raises(UsageError, match=r"`--user aa`: no table has this column"):
        inferred(tmp_path, user="aa", item="b")

    assert inferred(tmp_path, user="a", item="b").document["user"] == "a"


def test_a_folder_without_rows_says_what_lies_there(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")

    with pytest.raises(DataError, match=r"no rows to look at .it holds: notes.txt."):
        inferred(tmp_path)


def test_a_flag_settles_what_would_be_guessed(tmp_path: Path):
    path = reviews(tmp_path)

    assert inferred(path, label="stars > 4").document["table"]["label"] == "stars > 4"
    assert "negatives" in inferred(path, label="none").document["table"]
    assert "time" not in inferred(path, time="none").document["table"]
    with pytest.raises(UsageError, match=r"no column `star` .did you mean `stars`"):
        inferred(path, label="star > 4")


def test_ids_that_pandas_made_floats_of_become_whole_again(tmp_path: Path):
    rows = [
        {"Customer ID": None if n % 9 == 0 else float(n % 8 + 100), "item": n % 7, "clicked": n % 2} for n in range(200)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "clicks.parquet")

    document = inferred(tmp_path).document

    assert document["table"]["derive"] == {document["user"]: 'cast("Customer ID" as bigint)'}
    assert document["table"]["where"] == ['"Customer ID" is not null']


def test_a_side_table_whose_ids_lost_their_zeros_is_named(tmp_path: Path):
    ugly_shop(tmp_path)
    (tmp_path / "products.csv").unlink()
    write_csv(tmp_path / "stock.csv", [{"sku": number, "shelf": number % 4} for number in range(1, 41)])

    found = inferred(tmp_path)

    assert "stock" not in found.document["table"]["tables"]
    assert "`sku` would fit `sku` but for the zeros in front" in found.aside["stock"]
