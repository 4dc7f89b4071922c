"""Staged rows -> encoded rows: ids to table rows, dense values to unit spread, in batches of Arrow columns."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.account import Account
from recsys.features.contract import FeatureContract
from recsys.features.encoding import (
    LABEL,
    SEGMENT,
    WEIGHT,
    encode_feature,
    encoded_types,
    lengths_of_kept,
    lists_of,
    look_up,
)
from recsys.features.graded import GRADE, Graded
from recsys.features.scaling import scaled
from recsys.features.schema import EXTRA_TYPES, Feature, FeatureKind
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

TIME = "time"
"""The encoded column of times, which no batch carries, whatever the schema calls its source."""
POSITIVES, OF_SEGMENT, IDS, LISTS_EMPTY, ELEMENTS = "positives", "segment: ", "ids: ", "lists empty: ", "elements: "
"""In a profile: rows with a positive label; before a segment's name its rows; before a feature's the ids that could be
looked up, its lists without one, and of lists of numbers how many there are in all of them."""
ABOVE = "grade: "
"""In a profile, before the name of one of a graded label's outputs: the rows whose grade is above its threshold."""


def encoded_schema(contract: FeatureContract) -> pa.Schema:
    """The Arrow schema of encoded rows: features in schema order, then the other columns; nothing is null."""
    columns = encoded_types(contract.schema)
    # Files say that no list holds a null either.
    lists = {name: form.value_type for name, form in columns.items() if pa.types.is_list(form)}
    columns |= {name: pa.list_(pa.field("element", form, nullable=False)) for name, form in lists.items()}
    columns[TIME] = pa.timestamp("us", tz="UTC")
    columns |= {name: pa.type_for_alias(EXTRA_TYPES[name]) for name in contract.extras}
    fields = [pa.field(name, form, nullable=False) for name, form in columns.items()]
    return pa.schema(fields, metadata={"recsys.contract": contract.fingerprint})


class RowEncoder:
    """Encodes batches of staged rows and counts what it had to mend.

    `counts` grows with every batch; its keys read like "ids unknown: item_id".
    """

    def __init__(self, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> None:
        self.contract = contract
        self.arrow_schema = encoded_schema(contract)
        self._account = Account("", contract.schema.invalid, rows=0)
        self.counts = self._account.counts
        self._seen: Counter[str] = Counter()
        self._vocabularies = vocabularies
        self._segments = pa.array(contract.schema.segments, type=pa.string())

    @property
    def profile(self) -> dict[str, int]:
        """What the rows hold, for a look at days side by side: `counts`, labels, segments and ids; zeros left out."""
        return {what: number for what, number in sorted((self.counts + self._seen).items()) if number}

    def encode(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows under `encoded_schema`, in the same order."""
        schema = self.contract.schema
        columns = {feature.name: self._encode_feature(rows[feature.name], feature) for feature in schema.features}
        columns[SEGMENT] = pc.index_in(rows[schema.segment], value_set=self._segments)
        columns[LABEL] = rows[schema.label]
        if schema.weight:
            columns[WEIGHT] = rows[schema.weight]
        columns[TIME] = rows[schema.time].cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
        columns |= {name: rows[name] for name in self.contract.extras}
        self._count_roles(columns[LABEL], columns[SEGMENT])
        if schema.graded and GRADE in columns:
            self._count_grades(columns[GRADE], schema.graded)
        arrays = [columns[field.name].cast(field.type) for field in self.arrow_schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema)

    def _encode_feature(self, values: pa.Array, feature: Feature) -> pa.Array:
        if feature.kind is FeatureKind.DENSE:
            self._count("values filled", feature, values.null_count)
            return pa.array(scaled(values, feature, self.contract.scaling.get(feature.name)))
        if feature.kind is FeatureKind.SPARSE:
            self._count("ids missing", feature, values.null_count)
            return pa.array(self._rows_of(values, feature).astype(np.int32))
        if feature.kind is FeatureKind.DENSE_LIST:
            return self._encode_numbers(values, feature)
        return self._encode_lists(values, feature)

    def _encode_numbers(self, lists: pa.Array, feature: Feature) -> pa.Array:
        # What is left to settle is to clip: that the elements keep to what is declared, the staging saw to.
        account = Account("", self.contract.schema.invalid, rows=len(lists))
        encoded = encode_feature(lists, feature, self.contract, self._vocabularies, account)
        self.counts.update(account.counts)
        self._seen[ELEMENTS + feature.name] += int(pc.sum(pc.list_value_length(lists)).as_py() or 0)
        return encoded

    def _encode_lists(self, lists: pa.Array, feature: Feature) -> pa.Array:
        self._count("lists missing", feature, lists.null_count)
        ids, lengths = lists.flatten(), _lengths(lists)
        self._count("ids missing in lists", feature, ids.null_count)
        if ids.null_count and feature.name not in self.contract.schema.grouped_lists:
            kept = pc.is_valid(ids).to_numpy(zero_copy_only=False)
            lengths = lengths_of_kept(kept, lengths)
            ids = ids.drop_null()
        self._seen[LISTS_EMPTY + feature.name] += int(np.count_nonzero(lengths == 0))
        return lists_of(self._rows_of(ids, feature), lengths, feature, self._account)

    def _rows_of(self, ids: pa.Array, feature: Feature) -> npt.NDArray[np.int64]:
        rows, broken = look_up(ids, self._vocabularies[feature.table])
        number = int(np.count_nonzero(broken))
        self._seen[IDS + feature.name] += len(ids) - number
        self._count("ids invalid", feature, number - ids.null_count)
        self._count("ids unknown", feature, int(np.count_nonzero(rows == UNKNOWN_ROW)) - number)
        return rows

    def _count_roles(self, label: pa.Array, segment: pa.Array) -> None:
        self._seen[POSITIVES] += int(pc.sum(pc.greater(label, 0)).as_py() or 0)
        rows = np.bincount(segment.to_numpy(zero_copy_only=False), minlength=len(self._segments))
        for name, number in zip(self.contract.schema.segments, rows.tolist(), strict=True):
            self._seen[OF_SEGMENT + name] += number

    def _count_grades(self, grade: pa.Array, graded: Graded) -> None:
        for name, threshold in zip(graded.names, graded.thresholds, strict=True):
            above = pc.greater(grade, pa.scalar(threshold, grade.type))
            self._seen[ABOVE + name] += int(pc.sum(above).as_py() or 0)

    def _count(self, what: str, feature: Feature, number: int) -> None:
        self._account.count(what, feature.name, number)


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    """(rows,) of lists, 0 where one is missing."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
