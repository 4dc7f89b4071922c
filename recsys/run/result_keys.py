"""What a result follows from: its settings, its rows, its code and the libraries that computed it.

Results on disk are used again under a key of all of these. Whatever is not named here counts, a setting, a
file or a library that is new as well; what is named here has no part in any result, each for its reason.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from recsys.config import KINDS, RunConfig, config_document
from recsys.config.kinds import MODULE
from recsys.datasets.encoded import EncodedDataset
from recsys.files import fingerprint_of
from recsys.monitoring.device_memory import memory_bytes
from recsys.scheduling.code_version import reached_code
from recsys.sharding.processes import device_kind

SETTINGS_WITHOUT_EFFECT: Mapping[str, str] = {
    "runtime.runs": "where runs are kept",
    "runtime.encoded": "where prepared rows are kept",
    "runtime.towers": "where towers are kept",
    "runtime.threads": "the last digits alone; a study may move to another machine",
    "runtime.memory_limit": "rows are prepared the same in any memory",
    "runtime.exchange_seconds": "how long processes wait for one another",
    "tracking": "where a run is recorded, and how its machine fared",
    "sharding": "which process has which rows, not what is in them; the last digits alone",
    "cluster": "what tables are planned for",
    "training.table_kernels": "in which memory rows lie, not what is in them",
    "training.table_cache_share": "how fast rows are reached",
    "training.report_every": "how often a run is looked at",
    "training.report_seconds": "how often a run is looked at",
    "training.norms_every": "how often its gradients are read",
    "training.segment_view_every": "how often they are read by segment",
    "training.decode_threads": "rows come in the same order from any number of them",
    "training.checkpoint_every": "a run that goes on ends as an unbroken one",
    "training.keep_checkpoints": "older ones are not read",
    "training.tower_cache": "a frozen tower's vectors are the same, kept or computed again",
    "training_mode.cache_megabytes": "a frozen tower's vectors are the same, kept or computed again",
}
"""Keys of the configuration, or groups, and why none of them counts."""

CODE_WITHOUT_EFFECT: Mapping[str, str] = {
    "recsys.config": "settings count by their values",
    "recsys.run.result_keys": "when work is done, not what",
    "recsys.run.together": "which process does the work",
    "recsys.scheduling.stage": "when work is done, not what",
    "recsys.sharding.first_process": "which process does the work",
    "recsys.sharding.plan_document": "recorded for people",
    "recsys.sharding.meeting_point": "how processes find one another",
    "recsys.progress": "printed, not kept",
    "recsys.errors": "said where there is no result",
    "recsys.run.raw_archive": "the files that it leaves count by their bytes",
    "recsys.run.folder.RunIdentity": "what a run is called",
    "recsys.run.evidence.StageContracts": "recorded for people",
    "recsys.run.stopping": "when a run pauses; it goes on as if it had not",
    "recsys.run.streams.dataset_uses": "recorded for people",
    "recsys.run.record.attach_calibration": "recorded for people",
    "recsys.run.record.attach_gradient_norms": "recorded for people",
    "recsys.run.record.attach_learning_curves": "recorded for people",
    "recsys.run.record.attach_plan": "recorded for people",
    "recsys.run.record.cost_metrics": "recorded for people",
    "recsys.run.record.open_store": "recorded for people",
    "recsys.run.record.recorded_by_first": "recorded for people",
    "recsys.run.record.run_params": "recorded for people",
    "recsys.run.record.step_metrics": "recorded for people",
    "recsys.tracking.drift_figure": "recorded for people",
    "recsys.tracking.figures": "recorded for people",
    "recsys.tracking.run": "recorded for people",
    "recsys.tracking.store": "recorded for people",
    "recsys.files.ensure_writable": "that files are whole, not what is in them",
    "recsys.files.published_directory": "that files are whole, not what is in them",
    "recsys.files.write_text_atomically": "that files are whole, not what is in them",
}
"""Definitions, modules or packages of ours, and why none of them counts."""

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "fbgemm_gpu": ("fbgemm-gpu",),
    "ibis": ("ibis-framework",),
    "sklearn": ("scikit-learn",),
    "torchrec": ("torchrec", "fbgemm-gpu"),
}
"""Libraries that are distributed under another name than they are imported by, or bring one that computes for them."""

LIBRARIES_WITHOUT_EFFECT: Mapping[str, str] = {
    "fsspec": "carries bytes",
    "mlflow": "holds what is served",
    "py4j": "how Python speaks to Spark",
    "pynvml": "reads the counters of a GPU",
    "pydantic": "checks settings",
    "pyspark": "counts and orders exactly, as DuckDB does; mostly not installed",
    "pydantic_core": "checks settings",
    "safetensors": "carries bytes",
    "threadpoolctl": "the last digits alone",
    "yaml": "carries settings",
}
"""Libraries that some code which counts uses, and why their versions do not."""


def settings_of(config: RunConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings that count.

    Args:
        without: further keys or groups that have no part in this kind of result.
    """
    document = config_document(config)
    # `auto` counts as what it comes to: for one seed a GPU draws other numbers, and its kernels round differently.
    document["runtime"]["device"] = device_kind(config.runtime.device)
    if config.training.batch_size is None and config.training.largest_batch is None:
        # By memory: it counts as how much there is, for a batch of another size has other results.
        document["training"]["largest_batch"] = f"in {memory_bytes(config.runtime.device)} bytes"
    for kinds in KINDS:
        # What a user's own module says counts, and not what it is called.
        if MODULE in (kind := document[kinds.group]):
            kind[MODULE] = kinds.source_of(kind["name"])
    for key in (*SETTINGS_WITHOUT_EFFECT, *without):
        *path, last = key.split(".")
        group = document
        for step in path:
            group = group.get(step, {})
        group.pop(last, None)
    return {group: values for group, values in document.items() if values != {}}


def rows_of(encoded: EncodedDataset, splits: Sequence[str]) -> dict[str, str]:
    """Return what names the rows of these splits, and all that was fitted to encode them, whatever their folder."""
    return {"contract": encoded.contract.fingerprint} | {
        split: encoded.digest(split) for split in splits if encoded.rows(split)
    }


def code_of(*entries: Callable[..., Any]) -> str:
    """Return 16 hexadecimal digits that change with the code of ours that these functions or classes reach.

    The versions of the libraries that it computes with are part of them.
    """
    return _code_of(tuple(f"{entry.__module__}.{entry.__qualname__}" for entry in entries))


@cache
def _code_of(entries: tuple[str, ...]) -> str:
    reached = reached_code(entries, CODE_WITHOUT_EFFECT)
    return fingerprint_of([reached.definitions, _versions(reached.libraries)])


def _versions(libraries: Collection[str]) -> dict[str, str]:
    counting = [each for each in libraries if each not in LIBRARIES_WITHOUT_EFFECT]
    names = {name for each in counting for name in LIBRARIES.get(each, (each,))}
    # Builds of one version for several kinds of machines differ behind the plus sign.
    return {name: version(name).partition("+")[0] for name in names}
