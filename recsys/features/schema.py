"""What columns a row has, what each may hold, and which part of the model reads it.

A schema is declared in YAML (`data/schemas/`), one file per source. Everything fitted to data (vocabulary, scaling)
is kept apart, in `contract.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from recsys.all_segments import ALL
from recsys.errors import UsageError, did_you_mean
from recsys.features.column_names import ROLES, require_distinct_names
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Name, shown
from recsys.features.feature import (
    INTERACTION_NETWORK,
    ITEM_TOWER,
    LIST_KINDS,
    PARTS,
    USER_TOWER,
    Feature,
    FeatureKind,
    Holds,
    Part,
    Scale,
)
from recsys.features.graded import GRADE, Graded
from recsys.features.plain_yaml import lines_named, read_plain_yaml
from recsys.features.policy import (
    FOR_IDS,
    FOR_LISTS,
    FOR_NUMBERS,
    FOR_ROLES,
    Policy,
    dropped_share_from,
    policies_from,
)
from recsys.features.vectors import for_elements, vector_element, with_vectors_spread
from recsys.files import fingerprint_of

__all__ = [
    "EXTRA_TYPES",
    "INTERACTION_NETWORK",
    "ITEM_TOWER",
    "PARTS",
    "RESERVED_COLUMNS",
    "USER_TOWER",
    "Feature",
    "FeatureKind",
    "FeatureSchema",
    "Holds",
    "Part",
    "Scale",
    "load_schema",
]

EXTRA_TYPES = {
    "user_key": "int64",  # one number per user over all splits, unseen users included
    "query": "int64",  # the list of candidates that a row is ranked in
    "log_sampling_rate": "float32",  # log of the weight by which a row's item is drawn as a negative
    "is_new_to_user": "int8",  # 1 where the user never had the item before
    "true_probability": "float32",  # the simulated probability of a positive label
    GRADE: "float32",  # the number that a graded label follows from
}
"""Encoded columns beside the schema's own that a source may know; evaluation and losses alone read them. Each with its
type, by the name that Arrow and DuckDB both know."""

RESERVED_COLUMNS = (*ROLES, "split", "day", *EXTRA_TYPES)
"""Columns that encoded rows have beside the features, whatever the raw columns behind them are called."""


# YAML reads a bare `no` as a truth value and a bare 1 as a number: both would stand for other names.
_SEGMENTS = "a list of at least one name. Put quotation marks around a name that reads as a number or as yes or no"


@dataclass(frozen=True)
class FeatureSchema(Declaration):
    """The columns of one source's rows.

    Attributes:
        segment: the column of user segments; `segments` are its values, encoded as their position.
        weight: the column of row weights, or None where every row counts once.
        time: the column of event times (UTC).
        user, item: the sparse features that name the row's user and item.
        invalid: column -> what becomes of a value that is ruled out. A column that is not named stops at it, but for
            raw ids that are missing or cannot be ids, which get the unknown row.
        most_dropped: the share of the rows that `invalid` may drop before the data count as broken.
        graded: what is known behind the label; None where it is a label and no more.
    """

    name: Name
    features: Annotated[Listed[Feature], Field(min_length=1), Expected("a list with at least one feature")]
    segment: Name
    segments: Annotated[Listed[Annotated[str, Field(strict=True)]], Field(min_length=1), Expected(_SEGMENTS)]
    label: Name
    time: Name
    user: Name
    item: Name
    weight: Name | None = None
    invalid: Mapping[str, Policy] = field(default_factory=dict, hash=False)
    most_dropped: float = 0.0
    graded: Annotated[Graded | None, NOT_NULL] = None

    @cached_property
    def dense(self) -> tuple[Feature, ...]:
        """Dense features in the order of `Batch.dense`."""
        return tuple(feature for feature in self.features if feature.kind is FeatureKind.DENSE)

    @cached_property
    def sparse(self) -> tuple[Feature, ...]:
        """Sparse and sparse-list features in the order of `Batch.sparse`."""
        return tuple(feature for feature in self.features if feature.is_sparse)

    @cached_property
    def dense_lists(self) -> tuple[Feature, ...]:
        """Lists of numbers, as `Batch.lists` has them by name."""
        return tuple(feature for feature in self.features if feature.kind is FeatureKind.DENSE_LIST)

    def beside(self, name: str) -> tuple[Feature, ...]:
        """The lists that agree with a sparse list element by element, in declared order."""
        return tuple(feature for feature in self.features if feature.beside == name)

    @cached_property
    def grouped_lists(self) -> tuple[str, ...]:
        """Lists that agree with others element by element, so that none of their elements may be left out."""
        return tuple(feature.name for feature in self.features if feature.beside or self.beside(feature.name))

    @cached_property
    def tables(self) -> dict[str, tuple[Feature, ...]]:
        """Each embedding table with the features that look it up."""
        names = dict.fromkeys(feature.table for feature in self.sparse)
        return {name: tuple(feature for feature in self.sparse if feature.table == name) for name in names}

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; they change with any declared value."""
        return fingerprint_of(self.to_document())

    def used_by(self, part: str) -> tuple[Feature, ...]:
        """Features that one of `PARTS` reads, in declared order."""
        return tuple(feature for feature in self.features if part in feature.used_by)

    def dense_columns(self, features: Iterable[Feature]) -> list[int]:
        """The columns of `Batch.dense` that hold the dense ones among some features, in the features' order."""
        columns = {feature.name: column for column, feature in enumerate(self.dense)}
        return [columns[feature.name] for feature in features if feature.kind is FeatureKind.DENSE]

    def feature(self, name: str) -> Feature:
        """The feature of that name; KeyError where there is none."""
        return {feature.name: feature for feature in self.features}[name]

    def to_document(self) -> dict[str, Any]:
        """Return plain values that `from_document` reads back; infinite bounds are left out, as JSON has none."""
        document = asdict(self)
        document["segments"] = list(self.segments)
        # Left out where nothing is declared, so that a schema's fingerprint does not hang on what it does not use.
        undeclared = ("invalid", "most_dropped", "graded")
        document = {key: value for key, value in document.items() if value or key not in undeclared}
        if self.graded:
            document["graded"] = {key: list(v) if isinstance(v, tuple) else v for key, v in document["graded"].items()}
        document["features"] = [
            {
                key: list(value) if key == "used_by" else value
                for key, value in asdict(feature).items()
                if not (isinstance(value, float) and math.isinf(value)) and _is_declared(key, value)
            }
            for feature in self.features
        ]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: str = "the schema") -> "FeatureSchema":
        """Build and check a schema from plain values.

        Raises:
            UsageError: names `where`, the key or feature, what was found and what is allowed.
        """
        # The `table:` block of a schema file belongs to the reader of the source.
        declared = {key: value for key, value in document.items() if key != "table"}
        entries = declared.get("features")
        if isinstance(entries, list | tuple):
            entries = _with_lengths(with_vectors_spread(entries, where))
            declared["features"] = [_feature_from(entry, where) for entry in entries]
        # What may stand under `invalid` follows from all the others.
        plain = {key: value for key, value in declared.items() if key not in ("invalid", "most_dropped")}
        schema = cls.checked(plain, where)
        _check(schema, where)
        invalid = policies_from(document.get("invalid", {}), _allowed_policies(schema), where)
        most_dropped = dropped_share_from(document.get("most_dropped", 0), invalid, where)
        return replace(
            schema, invalid=for_elements(invalid, [feature.name for feature in schema.dense]), most_dropped=most_dropped
        )


def load_schema(path: Path) -> FeatureSchema:
    """Read a schema from YAML.

    The file's `table:` block, where it has one, belongs to the reader of the source and is left to it.

    Raises:
        UsageError: the file is missing or no YAML, or a key, kind or part in it is unknown.
    """
    document, where = read_plain_yaml(path, "Schema file"), f"Schema file {path}"
    with lines_named(path, where):
        return FeatureSchema.from_document(document, where)


def _allowed_policies(schema: FeatureSchema) -> dict[str, tuple[Policy, ...]]:
    """Every column that may stand under `invalid`: a vector by its own name or by its elements'."""
    kinds = {
        FeatureKind.DENSE: FOR_NUMBERS,
        FeatureKind.SPARSE: FOR_IDS,
        FeatureKind.SPARSE_LIST: FOR_LISTS,
        FeatureKind.DENSE_LIST: FOR_NUMBERS,
    }
    allowed = {feature.name: kinds[feature.kind] for feature in schema.features}
    vectors = filter(None, (vector_element(feature.name) for feature in schema.dense))
    roles = filter(None, (schema.segment, schema.label, schema.weight, schema.time))
    return {**dict.fromkeys(roles, FOR_ROLES), **allowed, **{column: FOR_NUMBERS for column, _ in vectors}}


def _with_lengths(entries: Sequence[Any]) -> list[Any]:
    """The features' declarations, a list beside another one with that one's length where it names none."""
    lengths = {str(entry.get("name")): entry.get("max_length") for entry in entries if isinstance(entry, Mapping)}

    def completed(entry: Any) -> Any:
        if not isinstance(entry, Mapping) or entry.get("kind") not in LIST_KINDS or "max_length" in entry:
            return entry
        length = lengths.get(str(entry.get("beside")))
        return entry if length is None else {**entry, "max_length": length}

    return [completed(entry) for entry in entries]


def _feature_from(entry: Any, where: str) -> Feature:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not name:
        return Feature.checked(entry, f"{where}, a feature")
    where = f"{where}, feature `{name}`"
    bounds = ("minimum", "maximum", "fill")
    # A bound of null is none.
    declared = {key: value for key, value in entry.items() if key not in bounds or value is not None}
    if declared.get("kind") in (FeatureKind.SPARSE, FeatureKind.SPARSE_LIST) and not declared.get("table"):
        declared["table"] = name
    if declared.get("kind") == FeatureKind.DENSE_LIST:
        declared.setdefault("scale", Scale.NONE.value)
    return Feature.checked(declared, where)


def _is_declared(key: str, value: Any) -> bool:
    # Keys that most features do not have; left out as `invalid` is.
    return not (key == "beside" and not value) and not (key == "holds" and value is Holds.VALUE)


def _check_lists(schema: FeatureSchema, where: str) -> None:
    """Refuse lists that stand beside none, or that are cut at another length."""
    lists = {feature.name: feature for feature in schema.features if feature.is_list}
    for feature in filter(lambda each: each.beside, lists.values()):
        leader, place = lists.get(feature.beside), f"{where}, feature `{feature.name}`"
        if leader is None or leader.kind is not FeatureKind.SPARSE_LIST or leader.beside:
            sparse = [each for each in lists.values() if each.kind is FeatureKind.SPARSE_LIST]
            leaders = [each.name for each in sparse if not each.beside]
            raise UsageError(
                f"{place}: `beside` is {shown(feature.beside)}; expected a sparse_list that is itself beside none"
                f"{did_you_mean(feature.beside, leaders)}."
            )
        if feature.max_length != leader.max_length:
            raise UsageError(
                f"{place}: `max_length` is {feature.max_length}, and that of `{leader.name}`, which it is beside, is "
                f"{leader.max_length}; expected the same, or no such key."
            )
        if alone := [part for part in feature.used_by if part not in leader.used_by]:
            raise UsageError(
                f"{place}: is used by {alone[0]}, which does not use `{leader.name}`, beside which it stands and "
                f"without which it says nothing; add `{alone[0]}` to the `used_by` of `{leader.name}`."
            )


def _check(schema: FeatureSchema, where: str) -> None:
    names = [feature.name for feature in schema.features]
    _check_lists(schema, where)
    roles = {role: name for role in ROLES if (name := getattr(schema, role)) is not None}
    require_distinct_names(names, roles, RESERVED_COLUMNS, where)
    if schema.label in names:
        raise UsageError(f"{where}: the label `{schema.label}` is declared as a feature, which would leak the answer.")
    if schema.time in names:
        raise UsageError(
            f"{where}: the time `{schema.time}` is declared as a feature as well, and would be two columns of one "
            f"name. Name the feature otherwise, such as `{schema.time}_seconds`, and say under `table.columns` which "
            "column of the files it is."
        )
    for role, kind in (("segment", FeatureKind.SPARSE), ("weight", FeatureKind.DENSE)):
        if roles.get(role) in names and schema.feature(roles[role]).kind is not kind:
            raise UsageError(
                f"{where}: `{roles[role]}` is the {role} and a feature of kind {schema.feature(roles[role]).kind}; one "
                f"column can be both where the feature is {kind}. Name the {role} otherwise, such as "
                f"`{roles[role]}_{role}`, and say in the `table:` block which column of the files it is."
            )
    if len(set(roles.values())) < len(roles):
        raise UsageError(
            f"{where}: `segment`, `label`, `time` and `weight` must be different columns, and they are "
            f"{', '.join(roles.values())}."
        )
    if repeated := sorted({name for name in schema.segments if schema.segments.count(name) > 1}):
        raise UsageError(f"{where}: the segment `{repeated[0]}` stands twice in `segments`; each name stands once.")
    if ALL in schema.segments:
        raise UsageError(
            f"{where}: a segment is named `{ALL}`, which in scores and charts stands for the rows of all "
            "segments together. Give it another name, such as everybody."
        )
    sparse = [feature.name for feature in schema.sparse if feature.kind is FeatureKind.SPARSE]
    for role in ("user", "item"):
        name = getattr(schema, role)
        if name not in sparse:
            raise UsageError(
                f"{where}: `{role}: {name}` must name a feature of kind sparse{did_you_mean(name, sparse)}."
            )
    if schema.user == schema.item:
        raise UsageError(f"{where}: `user` and `item` are both `{schema.user}`; expected two features.")
