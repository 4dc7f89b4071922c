"""Imports go down only, and rooms on one floor do not import one another."""

import pytest

from tests.architecture.sources import Source, imports, lies_in, sources

GROUND_FLOOR = {
    "all_segments": (),
    "errors": (),
    "files": ("recsys.errors", "recsys.machine_faults"),
    "locks": ("recsys.errors", "recsys.files"),
    "machine_faults": ("recsys.errors",),
    "progress": (),
    "resources": (),
    "splitmix": (),
}
GROUND = tuple(f"recsys.{name}" for name in GROUND_FLOOR)

# Everything that the one place where model and run meet may know.
BELOW_BUILD = (
    "recsys.config",
    "recsys.metrics",
    "recsys.features",
    "recsys.sharding",
    "recsys.tracking",
    "recsys.monitoring",
    "recsys.datasets",
    "recsys.streaming",
    "recsys.towers",
    "recsys.interactions",
    "recsys.training",
    "recsys.evaluation",
    "recsys.ablation",
    "recsys.scheduling",
    "recsys.composition",
    "recsys.artifacts",
)
# Room -> what of ours it may import beside the ground floor and itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(GROUND_FLOOR, ()),
    # floor 1
    "features": (),
    "config": (),
    "sharding": (),
    "metrics": (),
    # Names of scores are made of metrics' names.
    "tracking": ("recsys.metrics",),
    # What a ranker holds and what stands in it, the gate at its tables, and which process this is.
    "monitoring": (
        "recsys.sharding.inventory",
        "recsys.sharding.state_digests",
        "recsys.sharding.gate",
        "recsys.sharding.processes",
    ),
    # floor 2
    "datasets": ("recsys.features",),
    "streaming": ("recsys.features",),
    "towers": ("recsys.features",),
    "interactions": ("recsys.features",),
    "training": ("recsys.features", "recsys.monitoring", "recsys.sharding"),
    "evaluation": ("recsys.features", "recsys.metrics"),
    "ablation": ("recsys.config.overrides", "recsys.metrics", "recsys.tracking"),
    "scheduling": ("recsys.tracking",),
    # floor 3
    "inspection": (
        "recsys.datasets.encoded",
        "recsys.datasets.manifest",
        "recsys.datasets.row_encoder",
        "recsys.datasets.source",
        "recsys.features",
        "recsys.metrics",
        "recsys.streaming",
    ),
    "composition": ("recsys.features", "recsys.towers", "recsys.interactions"),
    # floor 4
    "artifacts": (
        "recsys.features",
        "recsys.datasets.event_rows",
        "recsys.datasets.table_layout",
        "recsys.datasets.table_rows",
        "recsys.towers",
        "recsys.composition",
        "recsys.sharding",
        "recsys.training",
    ),
    # floor 5
    "build_composition": BELOW_BUILD,
    "build": (*BELOW_BUILD, "recsys.build_composition"),
    "build_objective": BELOW_BUILD,
    # floor 6a: one run
    "run": (*BELOW_BUILD, "recsys.build", "recsys.build_objective", "recsys.inspection"),
    # floor 6b: many runs, and runs that nobody starts
    "study": (*BELOW_BUILD, "recsys.build", "recsys.run"),
    "nightly": (*BELOW_BUILD, "recsys.build", "recsys.inspection", "recsys.run", "recsys.study"),
    # floor 7: two doors, and what the second one returns
    "results": (*BELOW_BUILD, "recsys.build", "recsys.inspection", "recsys.run", "recsys.study"),
    "api": (*BELOW_BUILD, "recsys.build", "recsys.run", "recsys.study", "recsys.results"),
    "pipelines": ("recsys",),
    # `python -m recsys`, which finds the command line wherever it lies.
    "__main__": (),
}


def strays(source: Source) -> list[str]:
    """Imports of ours that the table does not allow, as `file:line imports name`."""
    if source.module == "recsys":
        allowed: tuple[str, ...] = ("recsys.api", "recsys.results", "recsys.errors")
    elif source.room in GROUND_FLOOR:
        allowed = GROUND_FLOOR[source.room]
    else:
        own = "pipelines" if source.room == "pipelines" else f"recsys.{source.room}"
        allowed = (*GROUND, own, *MAY_IMPORT[source.room])
    return sorted(
        f"{source.path}:{line} imports {name}"
        for name, line in imports(source)
        if lies_in(name, "recsys") or lies_in(name, "pipelines")
        # `from recsys.sharding import inventory` names the room on its way to the file.
        if not any(lies_in(name, place) or lies_in(place, name) for place in allowed)
    )


def test_no_import_goes_up_or_sideways() -> None:
    assert [stray for source in sources() for stray in strays(source)] == []


def test_every_room_stands_in_the_table() -> None:
    assert {source.room for source in sources() if source.module != "recsys"} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("recsys/features/schema.py", "from recsys.datasets import encode"),
        ("recsys/datasets/encode.py", "import recsys.streaming.loader"),
        ("recsys/towers/embedding.py", "from recsys.interactions.crossing import Crossing"),
        ("recsys/composition/ranker.py", "from recsys.training.loop import train_steps"),
        ("recsys/training/loop.py", "from recsys.tracking.run import start_run"),
        ("recsys/monitoring/throughput.py", "from recsys.sharding.wrap import wrap_ranker"),
        ("recsys/evaluation/split_evaluation.py", "def f():\n    from recsys.tracking import run"),
        ("recsys/artifacts/export.py", "from ..build import build_ranker"),
        ("recsys/build.py", "import recsys.run.train"),
        ("recsys/errors.py", "from recsys.files import canonical_json"),
        ("recsys/tracking/run.py", "importlib.import_module('recsys.evaluation')"),
        ("recsys/__init__.py", "from recsys.features.schema import load_schema"),
    ],
)
def test_stray_import_is_found(path: str, line: str) -> None:
    assert strays(Source.of(path, line))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("recsys/monitoring/gradient_norms.py", "from recsys.sharding.inventory import inventory_of"),
        ("recsys/monitoring/gradient_norms.py", "from recsys.sharding import inventory"),
        ("recsys/training/loop.py", "from recsys.monitoring.gradient_norms import gradient_norms"),
        ("recsys/features/schema.py", "from .plain_yaml import read_plain_yaml"),
        ("recsys/files.py", "from recsys.errors import CannotWriteError"),
        ("pipelines/train.py", "from recsys.build import build_ranker"),
    ],
)
def test_import_downwards_is_let_through(path: str, line: str) -> None:
    assert strays(Source.of(path, line)) == []


def test_no_two_files_import_each_other_round_a_circle() -> None:
    modules = {source.module for source in sources()}
    graph = {
        source.module: {name for name, _ in imports(source) if name in modules and name != source.module}
        for source in sources()
    }

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    assert sorted(module for module in graph if module in reached(module)) == []
