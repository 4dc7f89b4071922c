"""Each big dependency has its rooms, so replacing one touches those and nothing else."""

import ast

import pytest

from tests.architecture.sources import Source, imports, lies_in, sources

# Dependency -> where it may be imported. The longest name that fits an import decides.
ROOMS: dict[str, tuple[str, ...]] = {
    "mlflow": ("recsys.tracking", "recsys.artifacts.export"),
    "hydra": ("recsys.config.compose",),
    "omegaconf": ("recsys.config.compose",),
    "dagster": ("pipelines.schedule",),
    "ibis": ("recsys.datasets",),
    "duckdb": ("recsys.datasets",),
    "openpyxl": ("recsys.datasets",),
    "pyspark": ("recsys.datasets.on_spark",),
    "py4j": ("recsys.datasets.on_spark",),
    "pyarrow": (
        "recsys.datasets",
        "recsys.streaming",
        "recsys.inspection",
        "recsys.evaluation",
        "recsys.features.vocabulary",
        "recsys.features.known_fit",
        "recsys.features.raw",
        "recsys.features.scaling",
        "recsys.features.encoding",
        "recsys.features.plain_arrays",
        "recsys.towers.imported",
        "recsys.towers.vector_files",
        "recsys.artifacts.export",
        "recsys.artifacts.scorer",
        "recsys.artifacts.scoring",
        "recsys.nightly.golden_rows",
        "recsys.run.frames",
        "recsys.run.recommend",
        "recsys.run.score",
    ),
    "filelock": ("recsys.locks",),
    "fsspec": ("recsys.streaming.storage",),
    "pandas": (
        "recsys.datasets",
        "recsys.ablation",
        "recsys.features.raw",
        "recsys.artifacts.export",
        "recsys.run.frames",
        "recsys.api",
        "recsys.results",
    ),
    "torchrec": (
        "recsys.features.batch",
        "recsys.features.events",
        "recsys.features.raw",
        "recsys.features.regrouped",
        "recsys.features.tables",
        "recsys.streaming.packed",
        "recsys.towers",
        "recsys.interactions.fields",
        "recsys.interactions.first_order",
        "recsys.sharding",
    ),
    # The distributed half: what a batch's way through the model must not know.
    "torchrec.distributed": ("recsys.sharding",),
    "torchrec.optim": ("recsys.sharding",),
    "fbgemm_gpu": ("recsys.sharding",),
    "matplotlib": ("recsys.tracking", "recsys.ablation"),
    "psutil": ("recsys.tracking",),
    "rich": ("pipelines",),
    "argparse": ("pipelines",),
    "pydantic": (
        "recsys.config",
        "recsys.features.declaration",
        "recsys.features.feature",
        "recsys.features.graded",
        "recsys.features.schema",
        "recsys.datasets.declared_durations",
        "recsys.datasets.declared_examples",
        "recsys.datasets.declared_history",
        "recsys.datasets.declared_roles",
        "recsys.datasets.declared_tables",
        "recsys.datasets.table_forms",
        "recsys.datasets.table_layout",
    ),
    # What stands in an expression is held against a list in one place.
    "sqlglot": ("recsys.datasets.expressions", "recsys.datasets.expression_values"),
    "optuna": ("recsys.ablation.trial_sampling",),
    # What a user hands over is read in one file, without tags and aliases; `tracking` edits MLflow's own descriptions.
    "yaml": ("recsys.features.plain_yaml", "recsys.tracking"),
}


def strays(source: Source) -> list[str]:
    """Imports of a big dependency outside its rooms, as `file:line imports name`."""
    found = []
    for name, line in imports(source):
        fitting = [dependency for dependency in ROOMS if lies_in(name, dependency)]
        rooms = ROOMS[max(fitting, key=len)] if fitting else ()
        if fitting and not any(lies_in(source.module, room) for room in rooms):
            found.append(f"{source.path}:{line} imports {name}")
    return sorted(set(found))


def test_no_big_dependency_is_imported_outside_its_rooms() -> None:
    assert [stray for source in sources() for stray in strays(source)] == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("recsys/training/loop.py", "import mlflow"),
        ("recsys/config/run_config.py", "from omegaconf import OmegaConf"),
        ("recsys/towers/embedding.py", "from torchrec.distributed.model_parallel import DistributedModelParallel"),
        ("recsys/towers/embedding.py", "from torchrec import distributed"),
        ("recsys/composition/ranker.py", "import torchrec"),
        ("recsys/evaluation/metrics.py", "def f():\n    import pandas as pd"),
        ("pipelines/daily.py", "import dagster"),
        ("recsys/datasets/table.py", "import yaml"),
    ],
)
def test_dependency_outside_its_rooms_is_found(path: str, line: str) -> None:
    assert strays(Source.of(path, line))


def test_the_library_prints_nothing() -> None:
    printing = [
        f"{source.path}:{node.lineno}"
        for source in sources()
        if source.room != "pipelines"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert printing == []


def test_dependency_in_its_room_is_let_through() -> None:
    assert strays(Source.of("recsys/sharding/wrap.py", "import torchrec.distributed, fbgemm_gpu")) == []
    assert strays(Source.of("recsys/towers/embedding.py", "from torchrec.modules.embedding_modules import X")) == []
