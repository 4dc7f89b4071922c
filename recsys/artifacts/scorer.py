"""A finished ranker in a folder, and the probabilities that it gives to raw rows.

    weights.safetensors     of the plain ranker
    contract.json           schema, scaling, tables
    vocabulary/*.parquet    one per embedding table
    table.yaml              the schema file whose `table:` block says how a user's own columns are read; absent for
                            rows that come under the schema's own names
    ranker.json             how to rebuild the ranker, and the digest of every other file

Nothing in it is pickled.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.features.contract import FeatureContract
from recsys.features.raw import RAW_KINDS, raw_to_batch, require_raw_columns
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import column_of
from recsys.features.vocabulary import Vocabulary
from recsys.files import canonical_json, fingerprint_of, sha256_of_file

if TYPE_CHECKING:
    from recsys.datasets.event_rows import EventRowReader
    from recsys.datasets.table_rows import RowReader

Rebuild = Callable[[Mapping[str, Any], FeatureContract], nn.Module]
"""Makes the untrained ranker from its description and contract."""

_WEIGHTS, _CONTRACT, _DESCRIPTION, _VOCABULARIES = "weights.safetensors", "contract.json", "ranker.json", "vocabulary"
_TABLE = "table.yaml"
# So that the activations of a large table are never in memory all at once.
_ROWS_PER_PASS = 8192


@dataclass(frozen=True)
class Scorer:
    """A ranker with all that it takes to score raw rows.

    Attributes:
        reader: gives a user's own columns the schema's names and meanings; None where rows come under those names.
        rows_per_read: how many rows of a file are read at a time, whatever its size.
    """

    ranker: nn.Module
    contract: FeatureContract
    vocabularies: Mapping[str, Vocabulary]
    reader: "RowReader | EventRowReader | None" = None
    rows_per_read: int = 65_536

    @property
    def columns(self) -> dict[str, str]:
        """The raw columns that are read, and what each is."""
        return self.reader.columns if self.reader else _own_columns(self.contract.schema)

    @property
    def replaceable(self) -> frozenset[str]:
        """Those of the columns that may be absent where others say the same."""
        return self.reader.replaceable if self.reader else frozenset()

    def score(self, rows: pa.Table, first_row: int = 0) -> npt.NDArray[np.float64]:
        """Return each row's probability of a positive label; (rows,).

        Args:
            rows: `columns` and any others, which are left alone.
            first_row: which row of the user's these begin with, for messages.

        Raises:
            DataError: names the column, what it holds and what is expected.
        """
        for name in self.columns:
            if rows.column_names.count(name) > 1:
                raise DataError(f"Column `{name}` is in the rows twice; expected each name once.")
        plain = self.reader.read(rows) if self.reader else rows
        schema = self.contract.schema
        require_raw_columns(plain.column_names, [*(feature.name for feature in schema.features), schema.segment])
        origins = self.reader.origins if self.reader else None
        logits = [
            self.ranker(
                raw_to_batch(
                    plain.slice(start, _ROWS_PER_PASS), self.contract, self.vocabularies, origins, first_row + start
                )
            ).double()
            for start in range(0, plain.num_rows, _ROWS_PER_PASS)
        ]
        return torch.cat(logits).sigmoid().numpy() if logits else np.empty(0)


@dataclass(frozen=True)
class SavedRanker:
    """A ranker as it lies on disk.

    Attributes:
        description: from which, with the contract, it can be built again.
        weights: `state_dict()` of the plain ranker.
        table: the schema file with the `table:` block that rows are read by; None where there is none.
        digest: 16 hexadecimal digits that name all of it.
    """

    description: Mapping[str, Any]
    contract: FeatureContract
    vocabularies: Mapping[str, Vocabulary]
    weights: Mapping[str, Tensor]
    table: Path | None
    digest: str


def write_ranker(
    folder: Path,
    *,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    table: Path | None,
) -> None:
    """Write what `read_scorer` reads.

    Args:
        weights: `state_dict()` of the plain ranker, each tensor in its own shape.
        table: the schema file whose `table:` block rows are read by; None where there is none.
    """
    (folder / _VOCABULARIES).mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, folder / _WEIGHTS)
    (folder / _CONTRACT).write_text(contract.to_json(), encoding="utf-8")
    if table:
        shutil.copyfile(table, folder / _TABLE)
    for name in contract.table_rows:
        vocabularies[name].save(folder / _VOCABULARIES / f"{name}.parquet")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    (folder / _DESCRIPTION).write_text(
        canonical_json({"ranker": dict(description), "files": digests}), encoding="utf-8"
    )


def read_scorer(folder: Path, rebuild: Rebuild) -> Scorer:
    """Read a ranker that was written; it is set to score and nothing else.

    Raises:
        DataError: a file is missing, torn, or was changed since it was written.
    """
    saved = read_saved(folder)
    contract, tables = saved.contract, saved.vocabularies
    ranker = rebuild(saved.description, contract)
    ranker.load_state_dict(dict(saved.weights))
    # The whole forward pass is for scoring alone from here on: no dropout, no graph.
    ranker.eval().requires_grad_(False)
    return Scorer(ranker, contract, tables, _row_reader(saved.table, contract, tables) if saved.table else None)


def read_saved(folder: Path) -> SavedRanker:
    """Read what `write_ranker` wrote, and build nothing of it.

    Raises:
        DataError: a file is missing, torn, or was changed since it was written.
    """
    document = _description(folder / _DESCRIPTION)
    for name, digest in document["files"].items():
        if not (folder / name).is_file() or sha256_of_file(folder / name) != digest:
            raise DataError(f"{folder / name} is missing or was changed since it was exported. Export the model again.")
    contract = FeatureContract.from_json((folder / _CONTRACT).read_bytes())
    tables = {table: Vocabulary.load(folder / _VOCABULARIES / f"{table}.parquet") for table in contract.table_rows}
    # After the digests: safetensors would take changed weights for good ones.
    try:
        weights = load_file(folder / _WEIGHTS)
    except SafetensorError as error:
        raise DataError(f"{folder / _WEIGHTS} is no safetensors file ({error}). Export the model again.") from error
    # A file that the description does not name has not been checked.
    table = folder / _TABLE if _TABLE in document["files"] else None
    return SavedRanker(document["ranker"], contract, tables, weights, table, fingerprint_of(document))


def _row_reader(path: Path, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> "RowReader":
    """Return the reading that the `table:` block of a schema file declares.

    Raises:
        UsageError: the block cannot be meant.
    """
    # Late, so that DuckDB is loaded for the models of tables alone.
    from recsys.datasets.table_layout import load_table_layout
    from recsys.datasets.table_rows import RowReader

    layout = load_table_layout(path, contract.schema)
    return RowReader(layout, contract.schema, {name: each.ids.type for name, each in vocabularies.items()})


def _description(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document["ranker"], dict) or not isinstance(document["files"], dict):
            raise TypeError("`ranker` and `files` are no objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is missing or torn ({type(error).__name__}: {error}): the ranker cannot be rebuilt without it. "
            "Copy the run's `model` folder again, whole, or train again."
        ) from error
    return dict(document)


def _own_columns(schema: FeatureSchema) -> dict[str, str]:
    names = [feature.name for feature in schema.features]
    columns = {column_of(feature.name, names): feature for feature in schema.features}
    uses = {c: RAW_KINDS[f.kind] if c == f.name else "vector: a list of numbers" for c, f in columns.items()}
    return uses | {schema.segment: "string"}
