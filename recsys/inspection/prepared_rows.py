"""What came out of a preparation: each split's rows, labels, ids and segments, and what each feature says by itself.

Labels, segments, users and items are read of every row; all other columns of whole row groups that lie evenly over a
split, some 300,000 rows of it. Everything is told of encoded rows, so that it holds for every source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.row_encoder import TIME
from recsys.datasets.source import TRAIN, VALIDATION
from recsys.features.contract import FeatureContract
from recsys.features.encoding import LABEL, SEGMENT, WEIGHT
from recsys.features.scaling import scaled
from recsys.features.schema import Feature, FeatureKind
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.inspection.findings import DataFinding, findings_of
from recsys.inspection.single_feature import Ids, LabelledRows, id_auc, value_auc
from recsys.inspection.summaries import FeatureInSplit, FeatureSummary, SegmentRows, SplitSummary
from recsys.progress import Progress, silent
from recsys.streaming.parquet import encoded_columns, read_row_group, require_columns, row_groups_of_split
from recsys.streaming.row_groups import RowGroup
from recsys.streaming.storage import open_folder

MOST_ROWS = 300_000
"""Of a split whose features are looked at: the standard error of an AUC over so many is about 0.001."""


@dataclass(frozen=True)
class PreparedReport:
    """What `report_on` found, as JSON values go.

    Attributes:
        features: in the order of the schema, the user segment last.
        findings: what a user should look at, the gravest first.
    """

    splits: tuple[SplitSummary, ...]
    features: tuple[FeatureSummary, ...]
    findings: tuple[DataFinding, ...]

    def to_document(self) -> dict[str, Any]:
        """Return plain values that `from_document` reads back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "PreparedReport":
        """Read what `to_document` wrote; KeyError or TypeError where it is something else."""
        return cls(
            tuple(SplitSummary.from_document(each) for each in document["splits"]),
            tuple(FeatureSummary.from_document(each) for each in document["features"]),
            tuple(DataFinding(**each) for each in document["findings"]),
        )


def report_on(encoded: EncodedDataset, progress: Progress = silent) -> PreparedReport:
    """Read prepared rows, and tell what they hold.

    Raises:
        DataError: a file is damaged; names it.
    """
    order = [TRAIN, VALIDATION, *sorted(set(encoded.splits) - {TRAIN, VALIDATION})]
    read = [_read(encoded, split, progress) for split in order if encoded.rows(split)]
    samples = {each.summary.split: each.columns for each in read}
    features = tuple(_features(encoded, samples[TRAIN], samples.get(VALIDATION)))
    splits = tuple(each.summary for each in read)
    return PreparedReport(splits, features, findings_of(splits, features))


@dataclass(frozen=True)
class _Split:
    """A split's figures, and the columns of the rows of it whose features are looked at; none of later splits."""

    summary: SplitSummary
    columns: Mapping[str, pa.Array]


def _read(encoded: EncodedDataset, split: str, progress: Progress) -> _Split:
    columns = encoded_columns(encoded.contract, ()) | {TIME: pa.timestamp("us", tz="UTC")}
    groups = row_groups_of_split(
        open_folder(encoded.root),
        split,
        [str(path) for path in encoded.files(split)],
        (),
        lambda path, found: require_columns(path, found, columns),
    )
    is_sampled = evenly([group.rows for group in groups], MOST_ROWS) if split in (TRAIN, VALIDATION) else set[int]()
    tally, sample = _Tally(encoded.contract), list[Mapping[str, pa.Array]]()
    for place, group in enumerate(groups):
        rows = read_row_group(group, list(columns) if place in is_sampled else tally.columns)
        tally.add(rows)
        if place in is_sampled:
            sample.append(rows)
        progress(f"look at {split}", place + 1, len(groups))
    whole = {name: pa.concat_arrays([rows[name] for rows in sample]) for name in columns} if sample else {}
    return _Split(tally.summary(encoded, split, _rows_of(groups, is_sampled)), whole)


def _rows_of(groups: Sequence[RowGroup], places: set[int]) -> int:
    return sum(groups[place].rows for place in places)


def evenly(rows: Sequence[int], most: int) -> set[int]:
    """Return the places of row groups of so many rows that lie evenly over all and hold about `most` rows.

    >>> sorted(evenly([10, 10, 10, 10, 10, 10], most=20))
    [0, 3]
    """
    share = min(1.0, most / max(sum(rows), 1))
    places, passed, taken = set[int](), 0, 0
    for place, count in enumerate(rows):
        if taken <= share * passed:
            places.add(place)
            taken += count
        passed += count
    return places


class _Tally:
    """Counts a split's labels, segments, users and items, row group after row group."""

    def __init__(self, contract: FeatureContract) -> None:
        self._contract = contract
        self._ids = (contract.schema.user, contract.schema.item)
        self.columns = list(dict.fromkeys([LABEL, SEGMENT, *self._ids]))
        sizes = [contract.table_rows[contract.schema.feature(name).table] for name in self._ids]
        self._is_met = {name: np.zeros(size, dtype=bool) for name, size in zip(self._ids, sizes, strict=True)}
        self._unseen = dict.fromkeys(self._ids, 0)
        self._by_segment = np.zeros((2, len(contract.schema.segments)), dtype=np.int64)

    def add(self, rows: Mapping[str, pa.Array]) -> None:
        label, segment = rows[LABEL].to_numpy(), rows[SEGMENT].to_numpy().astype(np.int64)
        for of_class, is_class in enumerate((label <= 0, label > 0)):
            self._by_segment[of_class] += np.bincount(segment[is_class], minlength=self._by_segment.shape[1])
        for name in self._ids:
            ids = rows[name].to_numpy()
            self._is_met[name][ids] = True
            self._unseen[name] += int(np.count_nonzero(ids == UNKNOWN_ROW))

    def summary(self, encoded: EncodedDataset, split: str, looked_at: int) -> SplitSummary:
        negatives, positives = self._by_segment
        rows, days = int(self._by_segment.sum()), list(encoded.days(split))
        known = {name: int(np.count_nonzero(met[UNKNOWN_ROW + 1 :])) for name, met in self._is_met.items()}
        user, item = self._ids
        names = self._contract.schema.segments
        return SplitSummary(
            split=split,
            rows=rows,
            first_day=days[0],
            last_day=days[-1],
            positives=int(positives.sum()),
            known_users=known[user],
            known_items=known[item],
            unseen_user_share=self._unseen[user] / rows,
            unseen_item_share=self._unseen[item] / rows,
            segments=tuple(map(SegmentRows, names, (negatives + positives).tolist(), positives.tolist())),
            rows_looked_at=looked_at,
        )


def _features(
    encoded: EncodedDataset, train: Mapping[str, pa.Array], later: Mapping[str, pa.Array] | None
) -> Iterator[FeatureSummary]:
    contract = encoded.contract
    train_rows, later_rows = _labelled(contract, train), None if later is None else _labelled(contract, later)
    # A dense list says nothing without the list that it stands beside, which is looked at.
    alone = [feature for feature in contract.schema.features if feature.kind is not FeatureKind.DENSE_LIST]
    kinds = {feature.name: str(feature.kind) for feature in alone}
    for name, kind in [*kinds.items(), (SEGMENT, SEGMENT)]:
        column, later_column = train[name], None if later is None else later[name]
        if kind == FeatureKind.DENSE:
            later_values = None if later_column is None else later_column.to_numpy()
            found = value_auc(column.to_numpy(), train_rows, later_values, later_rows)
        else:
            later_ids = None if later_column is None else _ids(contract, name, later_column)
            found = id_auc(_ids(contract, name, column), train_rows, later_ids, later_rows)
        there = partial(_there, contract, encoded.manifest.counts, name)
        yield FeatureSummary(
            contract.schema.segment if kind == SEGMENT else name,
            kind,
            len(column.unique()) < 2 if kind != FeatureKind.SPARSE_LIST else not len(column.flatten()),
            FeatureInSplit(*there(column), found.training),
            None if later_column is None else FeatureInSplit(*there(later_column), found.later),
            found.known_later,
        )


def _labelled(contract: FeatureContract, rows: Mapping[str, pa.Array]) -> LabelledRows:
    user, item = (rows[name].to_numpy() for name in (contract.schema.user, contract.schema.item))
    # The candidates of one query are of one user and one moment.
    query = (user, rows[TIME].cast(pa.int64()).to_numpy())
    is_known = (user != UNKNOWN_ROW) & (item != UNKNOWN_ROW)
    weight = rows[WEIGHT].to_numpy() if WEIGHT in rows else None
    return LabelledRows.of(rows[LABEL].to_numpy(), weight, query, is_known)


def _ids(contract: FeatureContract, name: str, column: pa.Array) -> Ids:
    if name == SEGMENT:
        return Ids.single(column.to_numpy(), len(contract.schema.segments))
    feature = contract.schema.feature(name)
    size = contract.table_rows[feature.table]
    if feature.kind is FeatureKind.SPARSE:
        return Ids.single(column.to_numpy(), size)
    return Ids.lists(column.flatten().to_numpy(), column.value_lengths().to_numpy(), size)


def _there(
    contract: FeatureContract, counts: Mapping[str, int], name: str, column: pa.Array
) -> tuple[float, float | None]:
    """The share of rows in which a feature has a value, and of lists their mean length."""
    if name == SEGMENT:
        return 1.0, None
    feature = contract.schema.feature(name)
    if feature.kind is FeatureKind.DENSE:
        return _share_not_filled(feature, contract, counts, column.to_numpy()), None
    if feature.kind is FeatureKind.SPARSE:
        return float(np.mean(column.to_numpy() != UNKNOWN_ROW)), None
    lengths = column.value_lengths().to_numpy()
    return float(np.mean(lengths > 0)), float(np.mean(lengths))


def _share_not_filled(
    feature: Feature, contract: FeatureContract, counts: Mapping[str, int], values: npt.NDArray[np.float32]
) -> float:
    # Encoded rows do not tell a filled value from one that is the fill by itself. Where the preparation counted none,
    # there is none; else the share is a least one.
    if not counts.get(f"values filled: {feature.name}"):
        return 1.0
    fill = scaled(pa.array([None], pa.float64()), feature, contract.scaling.get(feature.name))
    return float(np.mean(values != fill[0]))
