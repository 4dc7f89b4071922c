"""The columns of rows that were not prepared, encoded as they are read; see `RawRows`."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np
import pyarrow as pa

from recsys.errors import DataError, UsageError
from recsys.features.account import Account
from recsys.features.contract import FeatureContract
from recsys.features.encoding import (
    LABEL,
    SEGMENT,
    WEIGHT,
    encode_features,
    encode_label,
    encode_segment,
    encode_weight,
)
from recsys.features.plain_arrays import element, plain_ids, plain_numbers
from recsys.features.raw import require_raw_columns
from recsys.features.schema import EXTRA_TYPES, Feature, FeatureKind
from recsys.features.vectors import vector_element
from recsys.features.vocabulary import Vocabulary
from recsys.streaming.storage import Folder


class RawColumns:
    """Raw columns under the schema's own names, from the files or from the names of their folders."""

    def __init__(
        self,
        contract: FeatureContract,
        vocabularies: Mapping[str, Vocabulary],
        extras: Sequence[str],
        folder: Folder,
    ) -> None:
        for table, rows in contract.table_rows.items():
            _require_vocabulary(table, rows, vocabularies.get(table), contract)
        if unknown := sorted(set(extras) - set(EXTRA_TYPES)):
            raise UsageError(f"The extra column `{unknown[0]}` has no meaning; expected some of {[*EXTRA_TYPES]}.")
        schema = contract.schema
        roles = [schema.segment, schema.label, *([schema.weight] if schema.weight else [])]
        self._contract, self._vocabularies, self._extras, self._folder = contract, vocabularies, tuple(extras), folder
        self._wanted = [*(feature.name for feature in schema.features), *roles, *extras]
        self._texts = [
            feature.name
            for feature in schema.sparse
            if feature.kind is FeatureKind.SPARSE and pa.types.is_string(vocabularies[feature.table].ids.type)
        ]
        self.invalid = schema.invalid
        """The schema's policies by the names that these rows give the columns."""

    def paths(self, folder: Folder, split: str) -> Sequence[str]:
        """The files in folders that name the split, or none."""
        paths = folder.files("", ".parquet")
        return [path for path in paths if folder.partitions(path).get("split", split) == split]

    def check(self, path: PurePath, found: pa.Schema) -> None:
        """Raise DataError where a column is missing or cannot be read: no rows, but of these types, are encoded."""
        named = self._folder.partitions(path)
        own = {name.casefold(): name for name in found.names}
        if twice := [name for name in named if name.casefold() in own]:
            folder = f"{twice[0]}={named[twice[0]]}"
            raise DataError(
                f"{path} has a column `{own[twice[0].casefold()]}`, and its folder `{folder}` names it too; expected "
                "it in one of the two places. Rename the folder or the column."
            )
        try:
            require_raw_columns([*found.names, *named], self._wanted)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        empty = {name: pa.array([], found.field(name).type) for name in self.names(path)}
        self.encoded(path, empty, Account(f"{path}, ", {}, rows=0))

    def names(self, path: PurePath) -> Sequence[str]:
        """The columns to decode: a vector once for its elements, and none that the file's folders name."""
        columns = dict.fromkeys(vector[0] if (vector := vector_element(name)) else name for name in self._wanted)
        return [name for name in columns if name not in self._folder.partitions(path)]

    def as_dictionaries(self, path: PurePath) -> Sequence[str]:
        """Ids that are text: mostly they lie in the file as a dictionary, whose entries are then looked up once."""
        return [name for name in self._texts if name not in self._folder.partitions(path)]

    def encoded(self, path: PurePath, columns: dict[str, pa.Array], account: Account) -> dict[str, pa.Array]:
        """The columns of a batch, without nulls and checked."""
        schema = self._contract.schema
        named = self._folder.partitions(path)

        def raw(name: str, is_number: bool) -> pa.Array:
            if name in named:
                return _constant(named[name], account.rows, is_number, f"{path}: the folder `{name}=`")
            vector = vector_element(name)
            if vector is None:
                return columns[name]
            return element(columns[vector[0]], vector[1], f"{account.where}column `{vector[0]}`")

        def feature(one: Feature) -> pa.Array:
            return raw(one.name, one.kind is FeatureKind.DENSE)

        encoded = encode_features(feature, self._contract, self._vocabularies, account)
        encoded[SEGMENT] = encode_segment(raw(schema.segment, False), schema.segment, schema.segments, account)
        encoded[LABEL] = encode_label(raw(schema.label, True), schema.label, account)
        if schema.weight:
            encoded[WEIGHT] = encode_weight(raw(schema.weight, True), schema.weight, account)
        return {**encoded, **{name: _extra(raw(name, True), name, account) for name in self._extras}}


def _require_vocabulary(table: str, rows: int, vocabulary: Vocabulary | None, contract: FeatureContract) -> None:
    if vocabulary is None:
        raise UsageError(f"Raw rows need a vocabulary for table `{table}`, and none was given for it.")
    expected = contract.vocabulary_fingerprints.get(table, vocabulary.fingerprint)
    if len(vocabulary) != rows or vocabulary.fingerprint != expected:
        raise DataError(
            f"The vocabulary for table `{table}` has {len(vocabulary)} rows and fingerprint {vocabulary.fingerprint}; "
            f"the contract has {rows} and {expected}. Take both from the same prepared data."
        )


def _constant(value: str | None, rows: int, is_number: bool, where: str) -> pa.Array:
    """A column with the value that a folder's name gives all its rows."""
    if value is None:
        return pa.nulls(rows)
    try:
        entry = pa.array([value]).cast(pa.float64() if is_number else pa.string())
    except pa.ArrowInvalid as error:
        raise DataError(f"{where} has the value {value!r}; expected a number, as the schema declares.") from error
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), entry)


def _extra(values: pa.Array, name: str, account: Account) -> pa.Array:
    where, target = f"{account.where}column `{name}`", pa.type_for_alias(EXTRA_TYPES[name])
    numbers = plain_numbers(values, where) if pa.types.is_floating(target) else plain_ids(values, pa.int64(), where)
    if pa.types.is_dictionary(numbers.type):
        numbers = numbers.dictionary_decode()
    if numbers.null_count:
        raise DataError(f"{where} lacks a number in {numbers.null_count} of {account.rows} rows; expected one in each.")
    return numbers.cast(target)
