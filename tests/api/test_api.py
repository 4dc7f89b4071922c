"""The Python face: it takes what a user has at hand, and makes and finds what the command line makes and finds."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import yaml

import recsys
from pipelines.cli import main
from recsys.errors import DataError, UsageError
from recsys.run.folder import load_result
from tests.architecture.sources import REPOSITORY

ROWS, USERS, ITEMS = 2400, 80, 40
ONE_THREAD = {"runtime.threads": 1}
SHORT = {**ONE_THREAD, "training.epochs": 1}
GRID = {"training_mode": ["end_to_end", "frozen_tower"]}
SCHEMA: dict[str, Any] = {
    "name": "shop",
    "user": "user",
    "item": "item",
    "segment": "group",
    "segments": ["even", "odd"],
    "label": "bought",
    "time": "when",
    "features": [
        {"name": "user", "kind": "sparse", "used_by": ["user_tower", "interaction_network"]},
        {"name": "item", "kind": "sparse", "used_by": ["item_tower", "interaction_network"]},
        {"name": "price", "kind": "dense", "scale": "log", "minimum": 0, "used_by": ["interaction_network"]},
    ],
    "table": {
        "files": "rows.parquet",
        "label": "bought",
        "time": {"column": "when", "unit": "timestamp"},
        "segment": {"column": "group"},
        "splits": {"validation_start": "2026-03-01", "test_start": "2026-03-20"},
    },
}


def shop() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    seconds = np.sort(draw.integers(0, 100 * 86_400, ROWS))
    frame = pd.DataFrame({"user": draw.integers(0, USERS, ROWS), "item": draw.integers(0, ITEMS, ROWS)})
    frame["price"] = draw.lognormal(1, 1, ROWS)
    frame["when"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(seconds, unit="s")
    frame["bought"] = (draw.random(ROWS) < 1 / (1 + np.exp(3 - frame["item"] % 7))).astype(int)
    frame["group"] = np.where(frame["user"] % 2 == 0, "even", "odd")
    return frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return shop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("face")


@pytest.fixture(scope="module")
def prepare(folder: Path) -> Callable[..., recsys.Data]:
    """`recsys.prepare` into the folder that this file's tests share."""

    def prepared(rows: Any, schema: Any = None, **more: Any) -> recsys.Data:
        schema = schema or recsys.Schema(**SCHEMA)
        return recsys.prepare(rows, schema, folder=folder, settings=SHORT, **more)

    return prepared


@pytest.fixture(scope="module")
def data(frame: pd.DataFrame, prepare: Callable[..., recsys.Data]) -> recsys.Data:
    return prepare(frame)


@pytest.fixture(scope="module")
def tower(data: recsys.Data) -> recsys.Tower:
    return recsys.pretrain(data)


@pytest.fixture(scope="module")
def run(data: recsys.Data, tower: recsys.Tower) -> recsys.Run:
    return recsys.train(data, tower=tower, composition="conditional", mode="frozen_tower", epochs=1)


@pytest.fixture(scope="module")
def study(data: recsys.Data, tower: recsys.Tower) -> recsys.Study:
    return recsys.ablate(data, grid=GRID, seeds=1, tower=tower)


def arms(folder: Path) -> dict[Path, int]:
    """When each arm's result was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("runs/shop/*/*/result.json")}


@pytest.mark.parametrize(
    "other",
    [
        pl.from_pandas,
        lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
        lambda frame: pl.from_pandas(frame).lazy(),
        lambda frame: frame.set_index(["user", "when"]),
        lambda frame: frame.astype({"user": "Int64", "bought": "Int64", "group": "category"}),
        lambda frame: frame.assign(group=frame["group"].astype("string[pyarrow]"), bought=frame["bought"].astype(bool)),
        lambda frame: frame.assign(when=frame["when"].dt.tz_localize("UTC")),
    ],
    ids=["polars", "arrow", "lazy", "index", "nullable", "strings", "time zone"],
)
def test_a_frame_of_any_library_and_dtype_is_the_same_data(
    frame: pd.DataFrame,
    data: recsys.Data,
    prepare: Callable[..., recsys.Data],
    other: Callable[[pd.DataFrame], Any],
) -> None:
    prepared = prepare(other(frame))
    assert prepared.rows == data.rows
    assert sum(data.rows.values()) == ROWS
    assert prepared.encoded.contract.fingerprint == data.encoded.contract.fingerprint
    assert digests(prepared) == digests(data)


def digests(data: recsys.Data) -> list[str]:
    return [data.encoded.digest(split) for split in data.rows]


def test_a_folder_and_a_schema_file_are_the_same_data_as_a_frame_and_a_schema(
    frame: pd.DataFrame, data: recsys.Data, prepare: Callable[..., recsys.Data], tmp_path: Path
) -> None:
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    for rows, schema in ((tmp_path, recsys.Schema(**SCHEMA)), (str(tmp_path), tmp_path / "shop.yaml")):
        assert digests(prepare(rows, schema)) == digests(data)
    # The same frame with the file: nothing is prepared again.
    assert prepare(frame, tmp_path / "shop.yaml").encoded.root == data.encoded.root


def test_a_frame_for_each_split_is_that_split(frame: pd.DataFrame, prepare: Callable[..., recsys.Data]) -> None:
    table = {key: value for key, value in SCHEMA["table"].items() if key not in ("files", "splits")}
    parts = {"train": frame[:1800], "validation": frame[1800:2100], "test": frame[2100:]}
    data = prepare(parts, recsys.Schema(**{**SCHEMA, "table": table}))
    assert data.rows == {"test": 300, "train": 1800, "validation": 300}


def test_schemas_made_in_python_and_in_a_file_are_refused_alike(
    frame: pd.DataFrame, prepare: Callable[..., recsys.Data], tmp_path: Path
) -> None:
    broken = {**SCHEMA, "segmnts": ["even"]}
    with pytest.raises(UsageError, match=r"segmnts.*did you mean `segments`") as in_python:
        recsys.Schema(**broken)
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(UsageError) as in_file:
        prepare(frame, tmp_path / "shop.yaml")
    assert str(in_python.value).partition("segmnts")[2] == str(in_file.value).partition("segmnts")[2]


def test_prepared_data_tell_what_came_out(
    frame: pd.DataFrame, data: recsys.Data, prepare: Callable[..., recsys.Data]
) -> None:
    report = data.report()
    assert list(report.index) == ["user", "item", "price", "group"]
    assert list(report["kind"]) == ["sparse", "sparse", "dense", "segment"]
    assert report.loc["item", "validation auc"] > 0.6
    assert (report["finding"] == "").all()
    assert data.findings.empty
    rows = frame[frame["when"] < "2026-03-01"]
    assert data.splits.loc[("train", "all"), "rows"] == len(rows)
    assert data.splits.loc[("train", "all"), "known_users"] == rows["user"].nunique()
    odd = data.splits.loc[("train", "odd")]
    assert (odd["rows"], odd["label_rate"]) == (
        len(rows[rows["user"] % 2 == 1]),
        rows[rows["user"] % 2 == 1]["bought"].mean(),
    )

    leaking = prepare(frame.assign(price=1.0 + frame["bought"]))
    assert list(leaking.findings["subject"]) == ["price"]
    assert "AUC of 1.000 in training" in leaking.report().loc["price", "finding"]


def test_vectors_in_a_frame_are_the_tower_of_vectors_in_a_file(data: recsys.Data, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 8)).astype("float32")
    frame = pd.DataFrame({"item": range(ITEMS), "vector": list(vectors)})
    frame.to_parquet(tmp_path / "vectors.parquet", index=False)
    towers = [
        recsys.pretrain(data, vectors=each, id_column="item", settings={"tower.width": 8})
        for each in (frame, tmp_path / "vectors.parquet")
    ]
    first, second = (each.artifact.weights for each in towers)
    assert all((first[name] == second[name]).all() for name in first)


def test_a_run_tells_its_scores_and_its_norms(run: recsys.Run, frame: pd.DataFrame) -> None:
    assert 0 < run.metrics["auc/all"] < 1
    norms = run.gradient_norms
    assert list(norms.columns) == ["step", "part", "norm"]
    by_part = norms.groupby("part")["norm"]
    assert (by_part.get_group("embedding_tower") == 0).all()
    assert (by_part.get_group("interaction_network") > 0).all()
    scores = run.score(frame.head(5))
    assert scores.shape == (5,)
    assert ((scores > 0) & (scores < 1)).all()
    assert f"{run.metrics['auc/all']:.4f}" in run._repr_html_()


def test_a_study_is_a_table_and_a_verdict(study: recsys.Study) -> None:
    assert list(study.table.index[:2]) == ["end-to-end", "frozen"]
    assert study.table.loc["frozen", "seeds"] == 1
    assert set(study.differences["segment"]) == {"all", "even", "odd"}
    shown = study._repr_html_()
    assert "Verdict" in shown
    assert f"{study.table.loc['frozen', 'auc']:.4f}" in shown
    assert study.report.is_file()


def test_a_study_becomes_one_model_and_says_what_each_segment_may_change(study: recsys.Study) -> None:
    mixed = study.mixed_model()
    # One seed is no evidence: every segment takes the choice for all rows, which is an arm of the study.
    assert list(mixed.choices.index) == ["all", "even", "odd"]
    assert mixed.rungs.keys() == {"even", "odd"}
    assert set(mixed.rungs.values()) <= {"frozen", "all"}
    assert len(set(mixed.rungs.values())) == 1
    assert (mixed.folders, len(mixed.differences)) == ([], 0)
    assert f"even {mixed.rungs['even']}" in repr(mixed)


def test_the_command_line_finds_what_python_made_and_scores_the_same(
    data: recsys.Data, run: recsys.Run, study: recsys.Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded, before = sorted((folder / "encoded").rglob("*.parquet")), arms(folder)
    words = list(data.overrides)

    assert main(["ablate", *words, "ablation.name=study", "ablation.grid={training_mode:[end_to_end,frozen_tower]}",
                 "ablation.seeds=[0]", "ablation.contrast=training_mode"]) == 0  # fmt: skip
    assert arms(folder) == before
    assert len(before) == 2
    assert study.study.id in capsys.readouterr().out

    known = set(folder.rglob("result.json"))
    assert main(["train", *words, "composition=conditional", "training_mode=frozen_tower", "network=cross"]) == 0
    (made,) = set(folder.rglob("result.json")) - known
    result = load_result(made.parent)
    assert result is not None
    assert result.scores == run.metrics
    assert sorted((folder / "encoded").rglob("*.parquet")) == encoded


def test_a_run_in_another_thread_and_a_second_one_in_a_process_score_the_same(
    data: recsys.Data, run: recsys.Run
) -> None:
    calls: list[tuple[str, int, int]] = []
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(
            recsys.train,
            data,
            composition="conditional",
            mode="frozen_tower",
            progress=lambda *told: calls.append(told),
        ).result()
    assert again.metrics == run.metrics
    assert all(0 <= done <= total or total == 0 for _, done, total in calls)
    assert calls


def test_importing_is_light_and_changes_nothing() -> None:
    code = """
import os, sys, time
before, start = dict(os.environ), time.process_time()
import recsys
seconds = time.process_time() - start
assert dict(os.environ) == before
heavy = {"torch", "pandas", "numpy", "pyarrow", "pydantic", "hydra", "mlflow"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.5, seconds
assert dir(recsys) == sorted(recsys.__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def test_an_unknown_name_is_told_from_those_that_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'tran'.*did you mean `train`"):
        _ = recsys.tran  # type: ignore[attr-defined]
    assert all(getattr(recsys, name).__doc__ for name in recsys.__all__)


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (lambda frame: frame["user"], UsageError, "Found Series where rows are expected"),
        (lambda frame: [1, 2], UsageError, "Found list where rows are expected"),
        (lambda frame: pd.concat([frame, frame[["price"]]], axis=1), DataError, "a name of its own"),
        (lambda frame: frame.assign(price=[1.0, "a"] * (ROWS // 2)), DataError, "column price"),
        (lambda frame: frame.head(0), DataError, "0 rows"),
        (lambda frame: frame.assign(when=frame["when"].where(frame.index > 9)), DataError, "`when` holds no value"),
        (lambda frame: frame.drop(columns="price"), DataError, "column `price` is missing"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(
    frame: pd.DataFrame, prepare: Callable[..., recsys.Data], rows: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        prepare(rows(frame))
