"""What bears on a result is in its key, and nothing else: settings, rows, code, libraries, held against a training."""

import ast
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from recsys.config import SimulatedData, config_document
from recsys.config.compose import CONF, compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.run import prepare, pretrain, result_keys
from recsys.run.result_keys import (
    CODE_WITHOUT_EFFECT,
    LIBRARIES_WITHOUT_EFFECT,
    SETTINGS_WITHOUT_EFFECT,
    settings_of,
)
from recsys.scheduling.code_version import PACKAGES, ROOT, reached_code
from recsys.study.plan import StudyGrid, StudyPlan
from tests.pipelines.golden_training import Golden, SmallTraining, recorded, small_training

# Another value for each setting that does not count; the number of threads moves the last digits, so it stays.
OTHER_VALUES = {
    "runtime.runs": "{root}/other_runs",
    "runtime.encoded": "{root}/other_encoded",
    "runtime.towers": "{root}/other_towers",
    "runtime.threads": "1",
    "runtime.memory_limit": "2GB",
    "runtime.exchange_seconds": "60",
    "tracking": "server",
    "sharding": "default",  # the one choice; its keys have other values by `OTHER_SHARDING`
    "cluster": "gpus_8x80gb",
    "training.table_kernels": "{{embedding_tower: uvm_caching}}",
    "training.table_cache_share": "0.5",
    "training.report_every": "7",
    "training.report_seconds": "0.01",
    "training.norms_every": "3",
    "training.segment_view_every": "0",
    "training.decode_threads": "3",
    "training.checkpoint_every": "4",
    "training.keep_checkpoints": "1",
    "training.tower_cache": "if_faster",
    "training_mode.cache_megabytes": "null",
}
OTHER_SHARDING = ("sharding.types.head=[row_wise]", "sharding.tables={network_item_id: {kernel: uvm}}")
FROZEN = "training_mode=frozen_tower"


class Executed:
    """Notes which definitions of ours each step of a training runs, in all of its threads."""

    def __init__(self) -> None:
        self.by_step: dict[str, set[str]] = {}

    def around(self, step: str, run: Callable[[], Any]) -> Any:
        noted: set[Any] = set()

        def note(frame: FrameType, event: str, argument: Any) -> None:
            noted.add(frame.f_code)

        threading.settrace(note)
        sys.settrace(note)
        try:
            return run()
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            self.by_step[step] = {place for code in noted if (place := self._place(code))}

    @staticmethod
    def _place(code: Any) -> str | None:
        path, name = Path(code.co_filename), code.co_qualname.partition(".")[0]
        if not any(path.is_relative_to(ROOT / package) for package in PACKAGES) or name.startswith("<"):
            return None
        return ".".join([*path.relative_to(ROOT).with_suffix("").parts, name]).replace(".__init__.", ".")


@pytest.fixture(scope="module")
def executed() -> Executed:
    return Executed()


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> SmallTraining:
    return small_training(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden(training: SmallTraining, executed: Executed) -> Golden:
    """The training's losses of today, every step of it watched."""
    return training.golden(executed.around)


@pytest.fixture(scope="module")
def encoded(training: SmallTraining, golden: Golden) -> EncodedDataset:
    return training.encoded


class Keys:
    """The keys of every kind of result, from the code in `root`."""

    def __init__(self, training: SmallTraining, monkeypatch: pytest.MonkeyPatch, root: Path = ROOT) -> None:
        self._training = training
        self.entries: dict[tuple[str, ...], set[str]] = {}

        def reached(entries: tuple[str, ...], without: Any) -> Any:
            found = reached_code(entries, without, root)
            self.entries[entries] = set(found.definitions)
            return found

        monkeypatch.setattr(result_keys, "reached_code", reached)

    def now(self, *more: str) -> dict[str, str]:
        """Kind of result -> its key, with these overrides on top."""
        result_keys._code_of.cache_clear()
        grid = grid_of((*self._training.overrides, "ablation.seeds=[0]", "ablation.tune.trials=2", *more))
        config, encoded = grid.composed["end-to-end/s0"], self._training.encoded
        plan = StudyPlan(grid, encoded)
        assert isinstance(config.data, SimulatedData)
        return {
            "world": prepare._world(config.data)[0].key,
            "rows": prepare.stage_of(config, self._training.root / "world").key,
            "tower": pretrain.stage_of(config, encoded).key,
            "trial": plan.searches()["end-to-end"].folder.name,
            "arm": plan._arm_key(config),
        }


@cache
def grid_of(words: tuple[str, ...]) -> StudyGrid:
    """The grid, composed once: its arms' configurations stay the same while the code changes."""
    return StudyGrid(words)


@pytest.fixture(autouse=True)
def _forget_versions() -> Iterator[None]:
    yield
    result_keys._code_of.cache_clear()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our packages, to be edited."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


# Results.


def test_a_training_has_the_losses_that_were_recorded_or_another_key(golden: Golden) -> None:
    assert not recorded().fault(golden)


def test_losses_that_change_are_told_apart_by_whether_the_key_changed_with_them() -> None:
    then = Golden("0a", {"arm, test": 0.61, "trial, validation": 0.5})
    assert then.fault(Golden("0b", {"arm, test": 0.61001, "trial, validation": 0.5})) == ""
    moved = {"arm, test": 0.612, "trial, validation": 0.5}
    assert "Results changed, and the key did not (0a): arm, test: 0.61 then, 0.612 now" in then.fault(
        Golden("0a", moved)
    )
    assert "record them" in then.fault(Golden("0b", moved))
    assert "arm, test: 0.61 then, None now" in then.fault(Golden("0a", {"trial, validation": 0.5}))
    assert then.fault(Golden("0a", {**moved, "arm, test": float("nan")}))


# Settings.


def test_settings_that_do_not_count_leave_every_bit_of_a_result_as_it_is(
    golden: Golden, encoded: EncodedDataset, training: SmallTraining
) -> None:
    assert set(OTHER_VALUES) == set(SETTINGS_WITHOUT_EFFECT)
    others = [f"{key}={value.format(root=training.root)}" for key, value in OTHER_VALUES.items()]
    others += OTHER_SHARDING
    plain = replace(training, overrides=(*training.overrides, FROZEN, "training.epochs=1"))
    other = replace(plain, overrides=(*plain.overrides, *others, "tracking.uri=null", "tracking.experiment=other"))
    towers = [each.pretrain() for each in (plain, other)]
    assert all((towers[0].weights[name] == towers[1].weights[name]).all() for name in towers[0].weights)
    first, second = (each.train(towers[0], name) for each, name in ((plain, "plain"), (other, "other")))
    assert first.scores == second.scores
    assert first.record == second.record
    predictions = [path.read_bytes() for path in sorted(training.root.glob("*/predictions/*"))]
    assert predictions[-1] == predictions[-2]


def leaves(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")


@pytest.mark.parametrize("data", ["simulated", "online_retail", "ml_100k", "movielens"])
def test_every_setting_counts_that_is_not_named_and_every_name_is_a_setting(data: str) -> None:
    config = compose_config([f"data={data}"])
    every, counting = set(leaves(config_document(config))), set(leaves(settings_of(config)))
    assert set(SETTINGS_WITHOUT_EFFECT) <= every
    missing = {
        key for key in every - counting if not any(key.startswith(f"{each}.") for each in SETTINGS_WITHOUT_EFFECT)
    }
    assert missing - {"runtime"} == set(SETTINGS_WITHOUT_EFFECT)
    assert all(SETTINGS_WITHOUT_EFFECT.values())


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("training.weight_decay=0.1", {"tower", "trial", "arm"}),
        ("training.tower_day_share=0.2", {"tower", "trial", "arm"}),
        ("evaluation.batch_size=512", {"tower", "trial", "arm"}),  # a tower is judged by softmax over a batch
        ("evaluation.ranking=false", {"arm"}),
        ("training.learning_rate=0.002", {"trial", "arm"}),
        ("network.dropout=0.3", {"trial", "arm"}),
        ("tower.temperature=0.3", {"tower", "trial", "arm"}),
        ("data.seed=3", {"world", "rows"}),  # the arm's rows are those that were prepared before
        ("data.raw=elsewhere", set()),
        ("runtime.threads=2", set()),
        ("tracking.experiment=elsewhere", set()),
        ("ablation.margin=0.1", set()),
        ("daily.train_days=3", set()),
    ],
)
def test_a_setting_changes_the_keys_of_what_it_bears_on_and_no_other(
    override: str, changed: set[str], encoded: EncodedDataset, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(training, monkeypatch)
    before, after = keys.now(), keys.now(override)
    assert {kind for kind in before if before[kind] != after[kind]} == changed


# Rows.


def test_a_comment_in_a_schema_changes_no_key_and_what_it_declares_does(tmp_path: Path) -> None:
    schema, raw = tmp_path / "schema.yaml", tmp_path / "raw.csv"
    raw.write_text("user_id\n1\n")
    text = (CONF.parent / "data/schemas/ml_100k.yaml").read_text()
    keys = []
    for each in (text, f"# Ours.\n{text}", text.replace("ml_100k", "ml_of_ours")):
        schema.write_text(each)
        config = compose_config(["data=table", f"data.schema_path={schema}", f"data.raw={raw}"])
        keys.append(prepare.stage_of(config, raw).key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_tower_follows_from_its_rows_also_where_ids_and_scales_stay(
    split: str, encoded: EncodedDataset, training: SmallTraining
) -> None:
    name, entry = next(each for each in encoded.manifest.files.items() if each[0].startswith(f"split={split}/"))
    files = {**encoded.manifest.files, name: replace(entry, sha256="sha256:of other labels")}
    other = replace(encoded, manifest=replace(encoded.manifest, files=files))
    assert pretrain.stage_of(training.config, other).key != pretrain.stage_of(training.config, encoded).key


def test_rows_that_are_the_same_keep_their_arms_wherever_they_lie(
    encoded: EncodedDataset, training: SmallTraining, tmp_path: Path
) -> None:
    moved = replace(encoded, root=tmp_path / "elsewhere" / "rows")
    grid = StudyGrid(training.overrides)
    assert StudyPlan(grid, moved).id == StudyPlan(grid, encoded).id


# Code.


def test_every_definition_that_a_step_runs_counts_in_its_key_or_is_declared_not_to(
    golden: Golden, executed: Executed, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(training, monkeypatch)
    keys.now()
    counting = {entries[0].rpartition(".")[2]: found for entries, found in keys.entries.items()}
    entry_of = {
        "simulate": "simulate",
        "encode": "load_schema",
        "pretrain": "_pretrain",
        "try_values": "try_values",
        "train": "fit_and_measure",
    }
    # What a definition leads to that is declared not to count does not count either.
    declared = set(reached_code([*CODE_WITHOUT_EFFECT, "recsys.config.compose"]).definitions)
    own = {f"{each}." for each in (__name__, *CODE_WITHOUT_EFFECT)}
    for step, entry in entry_of.items():
        ran = executed.by_step[step]
        assert len(ran & counting[entry]) > 10, step
        assert {place for place in ran - counting[entry] - declared if not place.startswith(tuple(own))} == set(), step


def test_every_exception_is_met_and_has_its_reason(training: SmallTraining, encoded: EncodedDataset) -> None:
    entries = ["recsys.run.train.run", "recsys.run.prepare.run", "recsys.study.tuning.tune", "recsys.nightly.day.run"]
    reached = reached_code(entries, CODE_WITHOUT_EFFECT)
    assert reached.left_out == set(CODE_WITHOUT_EFFECT)
    assert set(LIBRARIES_WITHOUT_EFFECT) - reached.libraries == set()
    assert all([*CODE_WITHOUT_EFFECT.values(), *LIBRARIES_WITHOUT_EFFECT.values()])


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("recsys/run/streams.py", "passed >= share", "passed > share", {"tower", "trial", "arm"}),
        ("recsys/run/assemble.py", "batches_per_epoch * training.epochs", "training.epochs", {"tower", "trial", "arm"}),
        (
            "recsys/run/session.py",
            "with_table_l2(self._objective.loss,",
            "with_table_l2(None or self._objective.loss,",
            {"arm"},
        ),
        ("recsys/run/train.py", "Session(identity, encoded", "Session(identity, None or encoded", {"arm"}),
        ("recsys/monitoring/gradient_norms.py", "def norms_of_squares(", "def norms_of_squares(*, ", None),
        ("recsys/monitoring/frozen_proof.py", "digests_of(tensors)", "digests_of({**tensors})", None),
        ("recsys/streaming/shuffle.py", "_ROW_DRAW = ", "_ROW_DRAW = 1 + ", {"tower", "trial", "arm"}),
        ("recsys/datasets/partitions.py", "_ROW_HASH = ", "_ROW_HASH = 1 and ", {"rows"}),
        ("recsys/datasets/archives/movielens_release.py", "_MOST_UNPACKED_BYTES", "_MOST_BYTES", set()),
        ("recsys/datasets/table.py", '"""', '"""Of ours. ', set()),
        ("recsys/inspection/advice.py", '"""', '"""Better advice. ', set()),
        ("recsys/inspection/advice.py", "\ndef ", "\ndef _more() -> None:\n    pass\n\n\ndef ", set()),
        ("pipelines/console.py", "\ndef ", "\ndef _more() -> None:\n    pass\n\n\ndef ", set()),
        ("pipelines/train.py", "Next: recsys ui", "Now: recsys ui", set()),
        ("recsys/tracking/figures.py", "COLOURS", "COLOURS_OF_OURS", set()),
    ],
)
def test_changed_code_changes_the_keys_of_what_it_bears_on_and_no_other(
    name: str,
    old: str,
    new: str,
    changed: set[str] | None,
    tree: Path,
    encoded: EncodedDataset,
    training: SmallTraining,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys(training, monkeypatch, tree)
    before, text = keys.now(), (tree / name).read_text()
    assert old in text
    try:
        (tree / name).write_text(text.replace(old, new, 1))
        after = keys.now()
    finally:
        (tree / name).write_text(text)
    found = {kind for kind in before if before[kind] != after[kind]}
    assert found == changed if changed is not None else "arm" in found


def test_code_that_runs_changes_its_key_wherever_it_stands_and_words_never_do(
    golden: Golden, executed: Executed, tree: Path, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(training, monkeypatch, tree)
    keys.now()
    (entries,) = (each for each in keys.entries if each[0].endswith("fit_and_measure"))
    version = partial(reached_code, entries, CODE_WITHOUT_EFFECT, tree)
    before = version().definitions
    ran_in: dict[Path, set[str]] = {}
    for place in executed.by_step["train"] & set(before):
        file, _, name = place.rpartition(".")
        ran_in.setdefault(tree.joinpath(*file.split(".")).with_suffix(".py"), set()).add(name)
    assert len(ran_in) > 60
    texts = {path: path.read_text() for path in ran_in}
    changed: set[str] = set()
    try:
        for path, text in texts.items():
            path.write_text(_with_other_words(text))
        assert version().definitions == before
        for path, text in texts.items():
            name, more = _with_one_line_more(text, ran_in[path])
            path.write_text(more)
            changed.add(".".join([*path.relative_to(tree).with_suffix("").parts, name]))
        after = version().definitions
        assert {place for place in {*before, *after} if before.get(place) != after.get(place)} == changed
    finally:
        for path, text in texts.items():
            path.write_text(text)


def _with_other_words(text: str) -> str:
    """Other docstrings and comments, every statement on other lines."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Other words."))
    return "# A comment.\n\n" + ast.unparse(tree) + "\n"


def _with_one_line_more(text: str, ran: set[str]) -> tuple[str, str]:
    """The first definition that runs, and the file with a statement more at the end of that one."""
    tree = ast.parse(text)
    first = next(node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in ran)
    first.body.append(ast.parse("one_more = 1").body[0])
    return first.name, ast.unparse(ast.fix_missing_locations(tree))


# Libraries.


def test_another_version_of_a_library_that_computes_changes_the_keys_and_of_one_that_carries_does_not(
    encoded: EncodedDataset, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(training, monkeypatch)
    real = result_keys.version

    def changed(*names: str) -> set[str]:
        monkeypatch.setattr(result_keys, "version", lambda name: "9.9" if name in names else real(name))
        after = keys.now()
        return {kind for kind in before if before[kind] != after[kind]}

    before = keys.now()
    assert changed("torch") == {"tower", "trial", "arm"}
    assert changed("fbgemm-gpu") == {"tower", "trial", "arm"}
    # An arm leaves a served model, which reads its rows as the preparation does.
    assert changed("duckdb", "ibis-framework") == {"rows", "arm"}
    assert changed("optuna") == {"trial"}
    assert changed("mlflow", "rich", "hydra-core", "matplotlib", "fsspec") == set()


def test_the_same_version_built_for_another_machine_is_the_same(
    encoded: EncodedDataset, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, real = Keys(training, monkeypatch), result_keys.version
    before = keys.now()
    monkeypatch.setattr(result_keys, "version", lambda name: real(name).partition("+")[0] + "+cu130")
    assert keys.now() == before


def test_a_gpu_trains_arms_and_towers_of_its_own(
    encoded: EncodedDataset, training: SmallTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(training, monkeypatch)
    before = keys.now()
    monkeypatch.setattr(result_keys, "device_kind", lambda wished: "cuda")
    after = keys.now()
    assert {kind for kind in before if before[kind] != after[kind]} == {"tower", "trial", "arm"}


def test_the_recorded_losses_are_kept_as_json_by_name(golden: Golden) -> None:
    document = json.loads(Path(__file__).with_name("golden_training.json").read_text())
    assert set(document["losses"]) == set(golden.losses)
