"""The schema file that the README shows is one that the declarations accept."""

import re
from pathlib import Path

import yaml

from recsys.datasets.table_layout import TableLayout
from recsys.features.schema import FeatureSchema

_ROOT = Path(__file__).resolve().parents[2]


def test_the_readmes_schema_file_can_be_read() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    document = yaml.safe_load(next(block for block in blocks if block.startswith("name: shop")))
    layout = TableLayout.from_document(document, FeatureSchema.from_document(document))
    assert layout.label is None
    assert layout.history.features["orders"].of == "order_id"


def test_every_word_of_the_data_page_is_one_that_is_read() -> None:
    text = (_ROOT / "data" / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(table:.*?)```", text, re.DOTALL)]
    assert len(blocks) >= 4
    for block in blocks:
        words = {"files": "*.csv", "segment": {"column": "user_id"}} | block["table"]
        TableLayout.checked(words, "data/README.md")
    said = {key for block in blocks for key in block["table"]}
    named = set(re.findall(r"^\| ([a-z, ]+) \|", text, re.MULTILINE))
    named = {word for each in named for word in each.split(", ")}
    known, _ = TableLayout.keys({})
    assert set(known) - said - named <= {"archive"}
