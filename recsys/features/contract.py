"""What was fitted on the training split, in the form that travels with data, tower, checkpoint and export.

Two things made under different contracts do not fit together even where their tensor shapes do: the rows of a table
would stand for other ids, and a scaled feature for another quantity. Each of them compares the fingerprint.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recsys.errors import DataError, UsageError
from recsys.features.schema import EXTRA_TYPES, FeatureSchema
from recsys.files import canonical_json, fingerprint_of


@dataclass(frozen=True)
class Scaling:
    """A dense feature's centre and spread on the training split: encoded = (value - centre) / spread."""

    centre: float
    spread: float


@dataclass(frozen=True)
class FeatureContract:
    """The schema and everything that was fitted for it on the training split.

    Attributes:
        table_rows: rows of each embedding table, the unknown row 0 included.
        vocabulary_fingerprints: the fingerprint of each table's vocabulary.
        scaling: of each dense feature that is scaled.
        extras: which of `recsys.features.schema.EXTRA_TYPES` the encoded rows carry.
    """

    schema: FeatureSchema
    table_rows: Mapping[str, int]
    vocabulary_fingerprints: Mapping[str, str]
    scaling: Mapping[str, Scaling]
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.extras) - set(EXTRA_TYPES)):
            raise DataError(
                f"The extra column `{unknown[0]}` has no meaning; expected some of {', '.join(EXTRA_TYPES)}."
            )

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal contracts, and only they, share them."""
        return fingerprint_of(self._document())

    def to_json(self) -> str:
        """Return the text that `from_json` reads back."""
        return canonical_json(self._document())

    @classmethod
    def from_json(cls, text: str | bytes) -> "FeatureContract":
        """Read `to_json`'s text, or a file that should hold it.

        Raises:
            DataError: the text is torn or holds something else.
        """
        try:
            document = json.loads(text)
            return cls(
                schema=FeatureSchema.from_document(document["schema"]),
                table_rows=document["table_rows"],
                vocabulary_fingerprints=document["vocabulary_fingerprints"],
                scaling={name: Scaling(**scaling) for name, scaling in document["scaling"].items()},
                extras=tuple(document["extras"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            raise DataError(
                f"This is no feature contract ({type(error).__name__}: {error}). Expected the `contract.json` that "
                "`recsys prepare` writes; prepare the data again."
            ) from error

    def _document(self) -> dict[str, Any]:
        return {
            "schema": self.schema.to_document(),
            "table_rows": dict(self.table_rows),
            "vocabulary_fingerprints": dict(self.vocabulary_fingerprints),
            "scaling": {name: asdict(scaling) for name, scaling in self.scaling.items()},
            "extras": list(self.extras),
        }


def require_same_contract(expected: FeatureContract, found: Mapping[str, str], what: str) -> None:
    """Refuse a thing that was made under another contract.

    Args:
        expected: the contract of the data in use.
        found: what the thing carries, as `contract_tags` made it.
        what: the thing and its path, for the message ("Checkpoint runs/3").

    Raises:
        DataError: names the first part that differs: the schema, a table's vocabulary, or the scaling.
    """
    for part, value in contract_tags(expected).items():
        if found.get(part) != value:
            raise DataError(
                f"{what} was made with {part} {found.get(part, '(none)')}, but this data has {part} {value}: its "
                "numbers would stand for other ids or quantities. Make it again from this data, or use the data that "
                "it was made with."
            )


def contract_tags(contract: FeatureContract) -> dict[str, str]:
    """Return one fingerprint per part of the contract, so that a mismatch can be named."""
    return {
        "schema": contract.schema.fingerprint,
        **{vocabulary_tag(name): value for name, value in contract.vocabulary_fingerprints.items()},
        "scaling": fingerprint_of({name: asdict(scaling) for name, scaling in contract.scaling.items()}),
    }


def vocabulary_tag(table: str) -> str:
    """Return the name of the tag of a table's vocabulary."""
    return f"vocabulary of table `{table}`"
