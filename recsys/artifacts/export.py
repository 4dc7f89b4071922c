"""A served model: raw columns in, probabilities out, through `mlflow.pyfunc.load_model` in any fresh process.

An exported folder holds data and readable code, nothing pickled:

    MLmodel, input_example.json     signature, requirements, an example to try
    served_model.py                 what MLflow runs to load the model: three lines that name this package
    code/recsys/                    this package as it was, so that whoever loads the model need not have it installed
    artifacts/ranker/               weights.safetensors, the contract, the vocabularies, how to rebuild the ranker
"""

import importlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before mlflow is imported: no model that this process loads may run pickled code, call home or draw progress bars.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.errors import DataError, UsageError
from recsys.features.contract import FeatureContract
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.raw import raw_to_batch
from recsys.features.schema import FeatureKind
from recsys.features.vocabulary import Vocabulary
from recsys.files import canonical_json, published_directory, sha256_of_file

# That an example is being validated is no news to somebody who asked for an export.
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

PROBABILITY = "probability"
Rebuild = Callable[[Mapping[str, Any], FeatureContract], nn.Module]
"""Makes the untrained ranker from its description and contract."""

_WEIGHTS, _CONTRACT, _DESCRIPTION, _VOCABULARIES = "weights.safetensors", "contract.json", "ranker.json", "vocabulary"
_ROWS_PER_PASS = 8192
# What `recsys.build` and this file import, and MLflow to load the model with.
_REQUIREMENTS = ("torch", "torchrec", "mlflow", "pandas", "pyarrow", "safetensors", "PyYAML", "pydantic", "numpy")
_DOTTED_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*:[a-z_][a-z0-9_]*")
_PACKAGE = Path(__file__).resolve().parents[1]

_SERVED_MODEL = '''"""Made by `recsys export`: how MLflow loads the ranker that lies in `artifacts/ranker`."""

from mlflow.models import set_model
from recsys.artifacts.export import {served}

set_model({served}("{rebuild}"))
'''


class ServedRanker(PythonModel):
    """A ranker that scores raw rows.

    Args:
        rebuild: `module:function`, a `Rebuild`.
    """

    def __init__(self, rebuild: str) -> None:
        self._rebuild = rebuild

    def load_context(self, context: PythonModelContext) -> None:
        """Read the exported ranker.

        Raises:
            DataError: a file is missing or was changed since it was exported.
        """
        self._ranker, self._contract, self._vocabularies = _read_ranker(
            Path(context.artifacts["ranker"]), _function(self._rebuild)
        )

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return each row's probability of a positive label, in a frame with the index of the rows.

        Args:
            model_input: raw rows, as `recsys.features.raw.raw_to_batch` takes them.

        Raises:
            DataError: names the column, what it holds and what is expected.
        """
        rows = _table_of(model_input, self._contract)
        logits = [
            self._ranker(raw_to_batch(part, self._contract, self._vocabularies)).double()
            for part in (rows.slice(start, _ROWS_PER_PASS) for start in range(0, rows.num_rows, _ROWS_PER_PASS))
        ]
        scores = torch.cat(logits).sigmoid().numpy() if logits else np.empty(0)
        return pd.DataFrame({PROBABILITY: scores}, index=model_input.index)


def export_ranker(
    target: Path,
    *,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    rebuild: str,
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    example: pd.DataFrame,
) -> None:
    """Write the served model at `target`, whole or not at all.

    Args:
        weights: `state_dict()` of the plain (unwrapped) ranker.
        description: JSON-able; all that `rebuild` needs beside the contract.
        rebuild: `module:function` of this package, a `Rebuild`; a ranker that it makes takes `weights` exactly.
        example: a few raw rows, kept as the input example; they are scored once here.

    Raises:
        UsageError: `rebuild` names no function, or what it makes does not take the weights.
        DataError: the example breaks the schema.
        CannotWriteError: `target` cannot be written.
    """
    _require_fit(_function(rebuild)(description, contract), weights)
    with published_directory(target) as work, TemporaryDirectory() as scratch:
        _write_ranker(Path(scratch, "ranker"), weights, description, contract, vocabularies)
        code = Path(scratch, "served_model.py")
        code.write_text(_SERVED_MODEL.format(served=ServedRanker.__name__, rebuild=rebuild), encoding="utf-8")
        mlflow.pyfunc.save_model(
            work,
            python_model=str(code),
            artifacts={"ranker": str(Path(scratch, "ranker"))},
            signature=signature_of(contract),
            input_example=example,
            code_paths=[str(_PACKAGE)],
            metadata={"columns": _column_kinds(contract), "contract": contract.fingerprint, "rebuild": rebuild},
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )


def load_served(folder: Path | str) -> mlflow.pyfunc.PyFuncModel:
    """Load what `export_ranker` wrote, or a model of the tracking store such as `models:/ranker@champion`."""
    return mlflow.pyfunc.load_model(str(folder))


def load_scorer(folder: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return the `predict` of what `export_ranker` wrote, without MLflow's own check of the columns before it.

    That check knows columns by name only and tells of a missing one in MLflow's words.

    Raises:
        DataError: there is no served model at `folder`, or a file of it was changed. Calling what is returned raises
            it too, for rows that break the schema.
    """
    if not (folder / "MLmodel").is_file():
        raise DataError(f"There is no served model at {folder}. Expected the `model` folder of a run that finished.")
    served: ServedRanker = load_served(folder).unwrap_python_model()
    return lambda rows: served.predict(None, rows)


def read_ranker(folder: Path) -> tuple[nn.Module, FeatureContract]:
    """Read the ranker itself out of what `export_ranker` wrote, to score rows that are encoded already.

    Raises:
        DataError: there is no served model at `folder`, or a file of it was changed.
    """
    if not (folder / "MLmodel").is_file():
        raise DataError(f"There is no served model at {folder}. Expected the `model` folder of a run that finished.")
    # Not `Model.load`, which takes `#`, `?` and `%` in a path for those of an address.
    metadata = mlflow.models.Model.from_dict(read_plain_yaml(folder / "MLmodel", "Served model")).metadata or {}
    ranker, contract, _ = _read_ranker(folder / "artifacts" / "ranker", _function(metadata["rebuild"]))
    return ranker, contract


def signature_of(contract: FeatureContract) -> ModelSignature:
    """The raw columns that a served model takes, and the probability that it gives.

    Strings are declared as such, all else as `any`, and what that stands for is in the model's metadata: MLflow's own
    check refuses whole numbers for a `double` and a missing integer id, and turns a missing id in a list of strings
    into the id "n". `raw_to_batch` checks types and values instead.
    """
    columns = [
        ColSpec(DataType.string if kind == "string" else AnyType(), name)
        for name, kind in _column_kinds(contract).items()
    ]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.double, PROBABILITY)]))


def _column_kinds(contract: FeatureContract) -> dict[str, str]:
    schema = contract.schema
    kinds = {
        FeatureKind.DENSE: "number",
        FeatureKind.SPARSE: "id (integer or string, as in training; may be missing)",
        FeatureKind.SPARSE_LIST: "list of ids, oldest first (may be missing)",
    }
    return {feature.name: kinds[feature.kind] for feature in schema.features} | {schema.segment: "string"}


def _table_of(frame: pd.DataFrame, contract: FeatureContract) -> pa.Table:
    """The frame's columns that the contract knows, as Arrow columns; those that are missing are told of later."""
    columns = {}
    for name in _column_kinds(contract):
        if name in frame:
            try:
                columns[name] = pa.Array.from_pandas(frame[name])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"Column `{name}` mixes types ({error}); expected one type in all rows.") from error
    return pa.table(columns)


def _write_ranker(
    folder: Path,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
) -> None:
    (folder / _VOCABULARIES).mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, folder / _WEIGHTS)
    (folder / _CONTRACT).write_text(contract.to_json(), encoding="utf-8")
    for table in contract.table_rows:
        vocabularies[table].save(folder / _VOCABULARIES / f"{table}.parquet")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    (folder / _DESCRIPTION).write_text(
        canonical_json({"ranker": dict(description), "files": digests}), encoding="utf-8"
    )


def _read_ranker(folder: Path, rebuild: Rebuild) -> tuple[nn.Module, FeatureContract, dict[str, Vocabulary]]:
    document = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    for name, digest in document["files"].items():
        if not (folder / name).is_file() or sha256_of_file(folder / name) != digest:
            raise DataError(f"{folder / name} is missing or was changed since it was exported. Export the model again.")
    contract = FeatureContract.from_json((folder / _CONTRACT).read_text(encoding="utf-8"))
    ranker = rebuild(document["ranker"], contract)
    ranker.load_state_dict(load_file(folder / _WEIGHTS))
    # The whole forward pass is for scoring alone from here on: no dropout, no graph.
    ranker.eval().requires_grad_(False)
    tables = {table: Vocabulary.load(folder / _VOCABULARIES / f"{table}.parquet") for table in contract.table_rows}
    return ranker, contract, tables


def _function(dotted_name: str) -> Rebuild:
    # It ends up in a file of code, so it must be a name and nothing else.
    if not _DOTTED_NAME.fullmatch(dotted_name):
        raise UsageError(
            f"{dotted_name!r} names no function; expected `module:function`, such as `recsys.build:rebuild`."
        )
    module, _, function = dotted_name.partition(":")
    found: Rebuild = getattr(importlib.import_module(module), function)
    return found


def _require_fit(ranker: nn.Module, weights: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in ranker.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if different := sorted(expected.items() ^ found.items()):
        name = different[0][0]
        raise UsageError(
            f"The weight `{name}` has shape {found.get(name, '(absent)')}, but the described ranker has "
            f"{expected.get(name, '(absent)')} there. Export a checkpoint with the configuration of its own run."
        )
