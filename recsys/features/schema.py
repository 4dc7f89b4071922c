"""What columns a row has, what each may hold, and which part of the model reads it.

A schema is declared in YAML (`data/schemas/`), one file per source. Everything fitted to data (vocabulary, scaling)
is kept apart, in `contract.py`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from recsys.all_segments import ALL
from recsys.errors import UsageError, did_you_mean
from recsys.features.column_names import ROLES, require_distinct_names
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Name, shown
from recsys.features.graded import GRADE, Graded
from recsys.features.plain_yaml import lines_named, read_plain_yaml
from recsys.features.policy import (
    FOR_IDS,
    FOR_LISTS,
    FOR_NUMBER_LISTS,
    FOR_NUMBERS,
    FOR_ROLES,
    Policy,
    dropped_share_from,
    policies_from,
)
from recsys.features.vectors import for_elements, vector_element, with_vectors_spread
from recsys.files import fingerprint_of

Part = Literal["user_tower", "item_tower", "interaction_network"]
PARTS: tuple[Part, ...] = get_args(Part)
USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK = PARTS

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


class FeatureKind(StrEnum):
    """How a column becomes a field of the model."""

    DENSE = "dense"
    SPARSE = "sparse"
    SPARSE_LIST = "sparse_list"
    DENSE_LIST = "dense_list"


class Holds(StrEnum):
    """What the numbers of a dense list are: how an event went, or how many days before the row it was."""

    VALUE = "value"
    AGE_DAYS = "age_days"


class Scale(StrEnum):
    """How a dense value is brought to unit spread; `log` takes sign(x) log(1 + |x|) first."""

    STANDARD = "standard"
    LOG = "log"
    NONE = "none"


_Bound = Annotated[float, Field(strict=True, allow_inf_nan=False), Expected("a finite number, or no such key")]
_OF_LISTS = "a whole number from 1 for a list, and no such key for other kinds"
_NUMBERS = (FeatureKind.DENSE, FeatureKind.DENSE_LIST)
_LISTS = (FeatureKind.SPARSE_LIST, FeatureKind.DENSE_LIST)


@dataclass(frozen=True)
class Feature(Declaration):
    """One column.

    Attributes:
        used_by: the parts that read it, of `PARTS`.
        table: sparse kinds: the embedding table and vocabulary; two features may share one. Empty for dense kinds.
        max_length: lists: a longer list keeps its last `max_length` values. 0 for other kinds.
        minimum, maximum: dense kinds: the allowed raw range; a value outside it stops the preparation.
        fill: dense kinds: what stands in for null and NaN; None stops the preparation.
        scale: dense kinds: one of `Scale`; of a dense list never `standard`.
        beside: lists: the sparse list that it agrees with element by element: in every row they are equally long.
        holds: dense lists: one of `Holds`.
    """

    name: Name
    kind: Annotated[FeatureKind, Expected("one of", FeatureKind)]
    used_by: Annotated[Listed[Part], Field(min_length=1), Expected("a list of some of", PARTS)]
    table: Annotated[str, Field(strict=True), Expected("the name of an embedding table")] = ""
    max_length: Annotated[int, Field(strict=True, ge=0), Expected(_OF_LISTS)] = 0
    minimum: _Bound = -math.inf
    maximum: _Bound = math.inf
    fill: _Bound | None = None
    scale: Annotated[Scale, Expected("one of", Scale)] = Scale.STANDARD
    beside: Annotated[str, Field(strict=True)] = ""
    holds: Annotated[Holds, Expected("one of", Holds)] = Holds.VALUE

    @property
    def is_list(self) -> bool:
        """Whether a row has several values of it, or none."""
        return self.kind in _LISTS

    def __post_init__(self) -> None:
        """Refuse what another kind of feature has, and a range that no value could be in."""
        if (self.max_length > 0) != self.is_list:
            raise ValueError(f"`max_length` is {self.max_length}; expected {_OF_LISTS}.")
        if self.beside and not self.is_list:
            raise ValueError(f"`beside` belongs to lists, and this one is {self.kind}.")
        if self.holds is not Holds.VALUE and self.kind is not FeatureKind.DENSE_LIST:
            raise ValueError(f"`holds` belongs to a dense_list, and this one is {self.kind}.")
        if self.kind in _NUMBERS:
            self._require_range()
            return
        defaults = {"minimum": -math.inf, "maximum": math.inf, "fill": None, "scale": Scale.STANDARD}
        if unread := [key for key, default in defaults.items() if getattr(self, key) != default]:
            raise ValueError(f"`{unread[0]}` belongs to dense features, and this one is {self.kind}.")
        # The table's name becomes a file's name and a module's.
        if not re.fullmatch(r"[\w-]+", self.table):
            raise ValueError(
                f"its embedding table is named {shown(self.table)}; expected letters, digits, `_` and `-` alone. Give "
                "the feature such a name under `table:`."
            )

    def _require_beside(self) -> None:
        if not self.beside:
            raise ValueError("has no `beside`; expected the sparse_list whose elements its numbers are of.")
        if self.scale is Scale.STANDARD:
            raise ValueError("has `scale: standard`; expected log or none, for a dense_list is not fitted to data.")
        if strange := [part for part in self.used_by if part == INTERACTION_NETWORK]:
            raise ValueError(f"is used by {strange[0]}; expected {USER_TOWER} or {ITEM_TOWER}, which read events.")

    def _require_range(self) -> None:
        if self.table:
            raise ValueError(f"`table` belongs to sparse features, and this one is {self.kind}.")
        if self.kind is FeatureKind.DENSE_LIST:
            self._require_beside()
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}; no value could be allowed.")
        if self.fill is not None and not self.minimum <= self.fill <= self.maximum:
            raise ValueError(
                f"`fill` is {self.fill:g}; expected a value from {self.minimum:g} to {self.maximum:g}, as declared."
            )


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
        return tuple(feature for feature in self.features if feature.kind not in _NUMBERS)

    @cached_property
    def dense_lists(self) -> tuple[Feature, ...]:
        """Lists of numbers, as `Batch.lists` has them by name."""
        return tuple(feature for feature in self.features if feature.kind is FeatureKind.DENSE_LIST)

    def beside(self, name: str) -> tuple[Feature, ...]:
        """The lists that agree with a sparse list element by element, in declared order."""
        return tuple(feature for feature in self.features if feature.beside == name)

    def is_in_group(self, feature: Feature) -> bool:
        """Whether a list agrees with others element by element, so that none of its elements may be left out."""
        return bool(feature.beside or self.beside(feature.name))

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
        FeatureKind.DENSE_LIST: FOR_NUMBER_LISTS,
    }
    allowed = {feature.name: kinds[feature.kind] for feature in schema.features}
    vectors = filter(None, (vector_element(feature.name) for feature in schema.dense))
    roles = filter(None, (schema.segment, schema.label, schema.weight, schema.time))
    return {**dict.fromkeys(roles, FOR_ROLES), **allowed, **{column: FOR_NUMBERS for column, _ in vectors}}


def _with_lengths(entries: Sequence[Any]) -> list[Any]:
    """The features' declarations, a list beside another one with that one's length where it names none."""
    lengths = {str(entry.get("name")): entry.get("max_length") for entry in entries if isinstance(entry, Mapping)}

    def completed(entry: Any) -> Any:
        if not isinstance(entry, Mapping) or "max_length" in entry:
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
