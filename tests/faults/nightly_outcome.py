"""What nights leave behind that must not depend on how often they were killed: weights, order, metrics, registry."""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from recsys.files import canonical_json, fingerprint_of, sha256_of_file

Outcome = dict[str, Any]

# Written with the moment, the place on the disk, or a random name in them, or a line for every start; what counts of
# them stands in other files.
_OF_A_MOMENT = re.compile(
    r"(^|/)(\..*|.*\.(log|lock)|log\.jsonl|index\.json|receipt\.json|manifest\.json|MLmodel|run\.json)$"
)
# What a JSON file says of its moment, its process, its costs, the run's random name, and Python's own generator, which
# begins anywhere and draws nothing of a run.
_MOMENT_KEYS = {
    *("since", "when", "started", "finished", "created", "pid", "host", "cost", "spool", "spool_id", "run_id"),
    "python_random",
}
_MOMENT_METRICS = ("perf/", "cost/", "system/")
_LEFTOVER = re.compile(r"\.(partial|replaced|unfinished|tmp|wal)$|(^|/)tmp\w{8}(/|$)")
_RUN_TAGS = ("kind", "arm", "contract")


def outcome_of(root: Path) -> Outcome:
    """Everything that two roots must have in common after the same nights, by what it is.

    The newest checkpoint holds the final weights, the optimizers' state and the digests of the batches in their order;
    a step's loss is a metric, so batches of another order would show in it too.
    """
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    kept = {
        name: _content(path)
        for name, path in files.items()
        if re.match(r"runs/[^/]+/daily/|encoded/|towers/", name)
        and "/model/code/" not in name
        and not _OF_A_MOMENT.search(name)
    }
    return kept | _recorded(root / "runs" / "mlflow.db")


def leftovers_in(root: Path) -> list[str]:
    """Unfinished files and folders of processes that died."""
    names = (str(path.relative_to(root)) for path in root.rglob("*"))
    return sorted(name for name in names if _LEFTOVER.search(name))


def runs_left_running(root: Path) -> list[str]:
    """The names of runs that the store takes to be alive."""
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as database:
        return [name for (name,) in database.execute("SELECT name FROM runs WHERE status = 'RUNNING' ORDER BY name")]


def _content(path: Path) -> str:
    if path.suffix == ".json":
        return canonical_json(_without_moments(json.loads(path.read_text())))
    if path.suffix == ".jsonl":
        lines = [_without_moments(json.loads(line)) for line in path.read_text().splitlines()]
        return canonical_json(lines)
    return _tensors(path) if path.suffix == ".safetensors" else sha256_of_file(path)


def _tensors(path: Path) -> str:
    """The digest of a file's tensors and their header, whose facts safetensors writes in an order of chance."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return fingerprint_of([json.loads(content[8:end]), hashlib.sha256(content[end:]).hexdigest()])


def _without_moments(document: Any) -> Any:
    if isinstance(document, dict):
        kept = {key: value for key, value in document.items() if key not in _MOMENT_KEYS}
        return {key: _without_moments(value) for key, value in kept.items() if not key.startswith(_MOMENT_METRICS)}
    return [_without_moments(each) for each in document] if isinstance(document, list) else document


def _recorded(path: Path) -> Outcome:
    """The store's runs and registry; of runs of one name, the one that got furthest, as the others died early."""
    with closing(sqlite3.connect(path)) as database:
        select = database.execute
        points: dict[str, dict[str, list[float]]] = {}
        for run, key, step, value in select("SELECT run_uuid, key, step, value FROM metrics ORDER BY value"):
            if not key.startswith(_MOMENT_METRICS):
                points.setdefault(run, {}).setdefault(f"{key} at {step}", []).append(value)
        best: dict[str, str] = {}
        for run, name in select("SELECT run_uuid, name FROM runs WHERE lifecycle_stage = 'active'"):
            if len(points.get(run, {})) >= len(points.get(best.get(name, ""), {})):
                best[name] = run
        names = {run: name for name, run in best.items()}
        found: Outcome = {
            f"metric {key} of {name}": values
            for run, name in names.items()
            for key, values in points.get(run, {}).items()
        }
        for run, key, value in select("SELECT run_uuid, key, value FROM params"):
            if run in names:
                found[f"param {key} of {names[run]}"] = value
        for run, key, value in select("SELECT run_uuid, key, value FROM tags"):
            if run in names and key in _RUN_TAGS:
                found[f"tag {key} of {names[run]}"] = value
        return found | _registry(database, names)


def _registry(database: sqlite3.Connection, names: dict[str, str]) -> Outcome:
    """The versions by the run that they are of, with their tags; each alias and the run that it points at."""
    select = database.execute
    run_of = {
        (model, version): names.get(run, f"an unknown run {run}")
        for model, version, run in select("SELECT name, version, run_id FROM model_versions")
    }
    found: Outcome = {f"versions of {name}": count for name, count in Counter(run_of.values()).items()}
    for model, version, key, value in select("SELECT name, version, key, value FROM model_version_tags"):
        if key not in _MOMENT_KEYS:
            found[f"tag {key} of the version of {run_of[model, version]}"] = value
    for model, alias, version in select("SELECT name, alias, version FROM registered_model_aliases"):
        found[f"alias {alias} of {model}"] = run_of[model, version]
    return found
