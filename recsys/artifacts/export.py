"""A served model: raw columns in, probabilities out, through `mlflow.pyfunc.load_model` in any fresh process.

An exported folder holds data and readable code, nothing pickled:

    MLmodel, input_example.json     signature, requirements, an example to try
    served_model.py                 what MLflow runs to load the model: three lines that name this package
    code/recsys/                    this package as it was, so that whoever loads the model need not have it installed
    artifacts/ranker/               the ranker and all that it takes to score raw rows; see `scorer.py`
"""

import importlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before mlflow is imported: no model that this process loads may run pickled code, call home or draw progress bars.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from torch import Tensor, nn

from recsys.artifacts.scorer import Rebuild, SavedRanker, Scorer, read_saved, read_scorer, write_ranker
from recsys.errors import DataError, UsageError
from recsys.features.contract import FeatureContract
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.vocabulary import Vocabulary
from recsys.files import published_directory

# That an example is being validated is no news to somebody who asked for an export.
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

PROBABILITY = "probability"
_RANKER = Path("artifacts", "ranker")

# What `recsys.build` and this file import, and MLflow to load the model with.
_REQUIREMENTS = ("torch", "torchrec", "mlflow", "pandas", "pyarrow", "safetensors", "PyYAML", "pydantic", "numpy")
# What a user's own columns are read with.
_TABLE_REQUIREMENTS = ("duckdb", "ibis-framework")
_DOTTED_NAME = re.compile(r"recsys(\.[a-z_][a-z0-9_]*)*:[a-z_][a-z0-9_]*")
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
        self._scorer = read_scorer(Path(context.artifacts["ranker"]), _function(self._rebuild))

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return each row's probability of a positive label, in a frame with the index of the rows.

        Args:
            model_input: raw rows, with the columns of the model's signature.

        Raises:
            DataError: names the column, what it holds and what is expected.
        """
        scores = self._scorer.score(_table_of(model_input, self._scorer.columns))
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
    table: Path | None = None,
) -> None:
    """Write the served model at `target`, whole or not at all.

    Args:
        weights: `state_dict()` of the plain (unwrapped) ranker, each tensor in its own shape.
        description: JSON-able; all that `rebuild` needs beside the contract.
        rebuild: `module:function` of this package, a `Rebuild`; a ranker that it makes takes `weights` exactly.
        example: a few raw rows, kept as the input example; they are scored once here.
        table: the schema file whose `table:` block says how a user's own columns are read; None where raw rows come
            under the schema's own names.

    Raises:
        UsageError: `rebuild` names no function, or what it makes does not take the weights.
        DataError: the example breaks the schema.
        CannotWriteError: `target` cannot be written.
    """
    _require_fit(_function(rebuild)(description, contract), weights)
    with published_directory(target) as work, TemporaryDirectory() as scratch:
        folder, code = Path(scratch, "ranker"), Path(scratch, "served_model.py")
        write_ranker(
            folder,
            weights=weights,
            description=description,
            contract=contract,
            vocabularies=vocabularies,
            table=table,
        )
        code.write_text(_SERVED_MODEL.format(served=ServedRanker.__name__, rebuild=rebuild), encoding="utf-8")
        scorer = read_scorer(folder, _function(rebuild))
        columns = scorer.columns
        requirements = (*_REQUIREMENTS, *(_TABLE_REQUIREMENTS if table else ()))
        mlflow.pyfunc.save_model(
            work,
            python_model=str(code),
            artifacts={"ranker": str(folder)},
            signature=signature_of(columns, scorer.replaceable),
            input_example=example,
            code_paths=[str(_PACKAGE)],
            metadata={"columns": columns, "contract": contract.fingerprint, "rebuild": rebuild},
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in requirements],
        )


def load_scorer(folder: Path) -> Scorer:
    """Read the ranker out of what `export_ranker` wrote, without MLflow's own check of the columns before it.

    That check knows columns by name only and reports a missing one in MLflow's words.

    Raises:
        DataError: there is no served model at `folder`, or a file of it is missing, torn or changed.
    """
    _require_model(folder)
    try:
        # Not MLflow's own reading, which takes `#`, `?` and `%` in a path for those of an address.
        rebuild = _function(str(read_plain_yaml(folder / "MLmodel", "Served model")["metadata"]["rebuild"]))
    except Exception as error:
        # Whatever a torn file leads to, the import of what it names included.
        raise DataError(
            f"{folder / 'MLmodel'} is torn or is no model of ours ({type(error).__name__}: {error}). Copy the run's "
            "`model` folder again, whole, or train again."
        ) from error
    return read_scorer(folder / _RANKER, rebuild)


def load_saved(folder: Path) -> SavedRanker:
    """Read the weights out of what `export_ranker` wrote, and all that says what they stand for.

    Raises:
        DataError: as `load_scorer`.
    """
    _require_model(folder)
    return read_saved(folder / _RANKER)


def _require_model(folder: Path) -> None:
    if not (folder / "MLmodel").is_file():
        raise DataError(f"There is no served model at {folder}. Expected the `model` folder of a run that finished.")


def signature_of(columns: Mapping[str, str], replaceable: Collection[str]) -> ModelSignature:
    """The raw columns that a served model takes, `replaceable` ones optional, and the probability that it gives.

    Strings are declared as such, all else as `any`, and what each of them is, is in the model's metadata: MLflow's own
    check refuses whole numbers for a `double` and a missing integer id, and turns a missing id in a list of strings
    into the id "n". The scorer checks types and values instead.
    """
    inputs = [
        ColSpec(DataType.string if use == "string" else AnyType(), name, required=name not in replaceable)
        for name, use in columns.items()
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.double, PROBABILITY)]))


def _table_of(frame: pd.DataFrame, columns: Iterable[str]) -> pa.Table:
    """The frame's columns of those names as Arrow columns; those that are missing are reported later.

    Raises:
        DataError: a column mixes types, or holds what no type can.
    """
    table = {}
    for name in columns:
        if name not in frame:
            continue
        if isinstance(frame[name], pd.DataFrame):
            raise DataError(f"Column `{name}` is in the frame twice; expected each name once.")
        try:
            values = pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"Column `{name}` mixes types, or holds whole numbers of more than 64 bits ({error}); expected one "
                "type in all rows, with a dtype that says it (such as Int64, UInt64 or string)."
            ) from error
        # What a frame makes of a column without any value, whatever the column is of.
        is_empty = pa.types.is_floating(values.type) and values.null_count == len(values)
        table[name] = pa.nulls(len(values)) if is_empty else values
    return pa.table(table)


def _function(dotted_name: str) -> Rebuild:
    # It ends up in a file of code, so it must be a name and nothing else; and it comes out of a model's folder, which
    # may be anybody's, so it must be ours.
    if not _DOTTED_NAME.fullmatch(dotted_name):
        raise UsageError(
            f"{dotted_name!r} names no function of ours; expected `module:function`, as `recsys.build:rebuild_ranker`."
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
