"""One block of keys and values out of a schema file."""

import datetime
from collections.abc import Sequence
from typing import Any

from recsys.datasets.declared_values import Declared
from recsys.errors import UsageError, did_you_mean


class Block:
    """A mapping out of the schema file that knows where it stands, and refuses what it does not hold."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{where}: is {values!r}; expected keys with values.")
        self.values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self.keys = {str(key): key for key in values}
        self.where = where

    def require(self, known: tuple[str, ...], required: tuple[str, ...]) -> None:
        """Refuse keys that are not known, and the lack of one that is required."""
        if unknown := [key for key in self.values if key not in known]:
            raise UsageError(
                f"{self.where}: unknown key `{unknown[0]}`{did_you_mean(unknown[0], known)}; expected some of "
                f"{', '.join(known)}."
            )
        if missing := [key for key in required if key not in self.values]:
            raise UsageError(f"{self.where}: the key `{missing[0]}` is missing; it has no default.")

    def require_names(self, known: Sequence[str], what: str) -> None:
        """Refuse keys that are none of the names, each of which is `what`."""
        if unknown := [key for key in self.values if key not in known]:
            raise UsageError(
                f"{self.where}: `{unknown[0]}`{did_you_mean(unknown[0], known)} is not {what}; expected some of "
                f"{', '.join(known) or 'nothing, as there is none'}."
            )

    def declared(self, key: str, value: Any) -> Declared:
        """A value that is to be met in a column."""
        if not isinstance(value, Declared):
            raise UsageError(
                f"{self.where}.{key}: is {value!r}; expected a value of the column. An empty place in the files needs "
                "no declaration."
            )
        return value

    def inner(self, key: str) -> "Block":
        """The block under a key; an empty one where there is none."""
        return Block(self.values.get(key, {}), f"{self.where}.{key}")

    def text(self, key: str) -> str:
        """The text under a key that is there."""
        value = self.values[key]
        if not isinstance(value, str) or not value:
            raise UsageError(f"{self.where}.{key}: is {value!r}; expected text.")
        return value

    def texts(self) -> dict[str, str]:
        """Every key with its text."""
        return {key: self.text(key) for key in self.values}

    def number(self, key: str) -> float:
        """A number from 0 up; 0 where the key is absent, which `require` allows only where it means nothing."""
        value = self.values.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UsageError(f"{self.where}.{key}: is {value!r}; expected a number from 0 up.")
        return float(value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of the allowed words."""
        value = self.values.get(key)
        if value not in allowed:
            hint = did_you_mean(value, allowed)
            raise UsageError(f"{self.where}.{key}: is {value!r}{hint}; expected one of {', '.join(allowed)}.")
        return str(value)

    def moment(self, key: str) -> datetime.datetime:
        """A UTC date or time, without zone."""
        try:
            moment = datetime.datetime.fromisoformat(str(self.values[key]))
        except ValueError as error:
            raise UsageError(
                f"{self.where}.{key}: is {self.values[key]!r}; expected a UTC date or time such as 2011-07-01."
            ) from error
        return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment
