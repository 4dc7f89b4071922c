"""The code that a function reaches: what is in its version, and what is not."""

from pathlib import Path

import pytest

from recsys.scheduling.code_version import reached_code

FILES = {
    "recsys/__init__.py": "",
    "recsys/room/__init__.py": "from recsys.room.inner import shown_here\nimport os\nos.environ['SPEED'] = '1'\n",
    "recsys/room/inner.py": "def shown_here():\n    return 1\n\ndef beside():\n    return 2\n",
    "recsys/room/model.py": "import torch\nRATE = 0.1\n\nclass Base:\n    def step(self):\n        return RATE\n\n"
    "class Model(Base):\n    def __init__(self):\n        self.weight = torch.zeros(1)\n",
    "recsys/words.py": 'def said(value):\n    """Say it."""\n    if value > 3:\n'
    '        raise ValueError(f"{value} is too large")\n    return value\n',
    "pipelines/__init__.py": "",
    "pipelines/train.py": "from recsys.room import model\nfrom recsys.words import said\n\ndef run():\n"
    "    from recsys.room.inner import shown_here as there\n    return model.Model().step() + there() + said(2)\n\n"
    "def main():\n    print(run())\n",
}
REACHED = {
    "pipelines.train.run",
    "recsys.room.<import>",
    "recsys.room.inner.shown_here",
    "recsys.room.model.Base",
    "recsys.room.model.Model",
    "recsys.room.model.RATE",
    "recsys.words.said",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def definitions(root: Path, *entries: str, without: tuple[str, ...] = ()) -> dict[str, str]:
    return reached_code(entries or ["pipelines.train.run"], without, root).definitions


def test_what_is_used_is_followed_through_modules_classes_constants_and_inner_imports(root: Path):
    assert set(definitions(root)) == REACHED


def test_a_name_that_a_package_passes_on_is_followed_to_where_it_is_defined(root: Path):
    assert set(definitions(root, "recsys.room.shown_here")) == {"recsys.room.<import>", "recsys.room.inner.shown_here"}


def test_a_module_that_is_handed_on_as_a_whole_counts_as_a_whole(root: Path):
    (root / "pipelines/whole.py").write_text("from recsys.room import inner\n\ndef run():\n    return help(inner)\n")
    assert {"recsys.room.inner.shown_here", "recsys.room.inner.beside"} < set(definitions(root, "pipelines.whole.run"))


def test_an_import_that_is_tried_is_followed(root: Path):
    (root / "pipelines/tried.py").write_text(
        "try:\n    from recsys.room.inner import beside as one\nexcept ImportError:\n    one = None\n\n"
        "def run():\n    return one()\n"
    )
    assert set(definitions(root, "pipelines.tried.run")) >= {"pipelines.tried.<import>", "recsys.room.inner.beside"}


def test_a_definition_that_is_named_in_a_text_counts(root: Path):
    (root / "pipelines/named.py").write_text("def run():\n    return 'recsys.room.inner:beside', 'recsys.of'\n")
    assert "recsys.room.inner.beside" in definitions(root, "pipelines.named.run")


def test_libraries_of_others_are_named_and_the_standard_one_is_not(root: Path):
    assert reached_code(["pipelines.train.run"], (), root).libraries == {"torch"}


def test_what_is_left_out_is_not_followed_and_is_named(root: Path):
    found = reached_code(["pipelines.train.run"], ["recsys.room.model", "recsys.never"], root)
    assert set(found.definitions) == REACHED - {name for name in REACHED if "model" in name}
    assert found.left_out == {"recsys.room.model"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("recsys/words.py", '"""Say it."""', '"""Say something else."""'),
        ("recsys/words.py", '    """Say it."""\n', ""),
        ("recsys/words.py", "    return value", "    # As it is.\n    return value"),
        ("recsys/words.py", "value > 3", "(value\n        > 3)"),
        ("recsys/words.py", "is too large", "is larger than 3"),
        ("recsys/words.py", 'f"{value} is too large"', '"too large"'),
        ("recsys/room/model.py", "RATE = 0.1", '"""How fast."""\n\nRATE = 0.1\n"""A share."""'),
        ("recsys/room/inner.py", "return 2", "return 3"),
        ("pipelines/train.py", "print(run())", "print(run(), flush=True)"),
    ],
)
def test_comments_docstrings_formatting_an_errors_words_and_what_is_not_used_change_nothing(
    name: str, old: str, new: str, root: Path
):
    before = definitions(root)
    change(root / name, old, new)
    assert definitions(root) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("recsys/words.py", "value > 3", "value > 4", "recsys.words.said"),
        ("recsys/words.py", "ValueError", "TypeError", "recsys.words.said"),
        ("recsys/words.py", "return value", "return str('value')", "recsys.words.said"),
        ("recsys/room/model.py", "0.1", "0.2", "recsys.room.model.RATE"),
        ("recsys/room/model.py", "return RATE", "return -RATE", "recsys.room.model.Base"),
        ("recsys/room/__init__.py", "= '1'", "= '2'", "recsys.room.<import>"),
        ("pipelines/train.py", "said(2)", "said(1)", "pipelines.train.run"),
    ],
)
def test_what_is_computed_changes_the_definition_that_computes_it(
    name: str, old: str, new: str, changed: str, root: Path
):
    before = definitions(root)
    change(root / name, old, new)
    after = definitions(root)
    assert {place for place in REACHED if after[place] != before[place]} == {changed}


def test_an_entry_that_is_not_there_is_refused(root: Path):
    with pytest.raises(LookupError, match=r"no definition pipelines\.train\.walk"):
        definitions(root, "pipelines.train.walk")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
