"""Keys and values of a declaration, checked one by one: what is none of those allowed is refused in words."""

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from recsys.errors import UsageError, did_you_mean


def require_keys(document: Mapping[str, Any], form: type, where: str) -> None:
    """Refuse keys that a declared form has no field for, and the lack of one that has no default."""
    known = [field.name for field in fields(form)]
    if unknown := sorted(map(str, set(document) - set(known))):
        raise UsageError(
            f"{where}: unknown key `{unknown[0]}`{did_you_mean(unknown[0], known)}; expected some of "
            f"{', '.join(known)}."
        )
    required = [field.name for field in fields(form) if field.default is MISSING and field.default_factory is MISSING]
    if missing := sorted(set(required) - set(document)):
        raise UsageError(f"{where}: the key `{missing[0]}` is missing; it has no default.")


def require_text(value: Any, key: str, where: str) -> None:
    """Refuse anything but a name."""
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"{where}: `{key}` is {shown(value)}; expected a name, in quotation marks if YAML misreads it."
        )


def require_word(value: Any, key: str, words: type[StrEnum], where: str) -> None:
    """Refuse anything but one of the words."""
    if value not in [word.value for word in words]:
        hint = did_you_mean(value, words)
        raise UsageError(f"{where}: {key} is {shown(value)}{hint}; expected one of {', '.join(words)}.")


def finite_number(value: Any, key: str, absent: float, where: str) -> float:
    """Return a finite number as float, `absent` for None."""
    if value is None:
        return absent
    # Comparing keeps whole numbers too large for a float from overflowing in the check itself.
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e308 < value < 1e308:
        raise UsageError(f"{where}: {key} is {shown(value)}; expected a finite number, or no such key.")
    return float(value)


def shown(value: Any) -> str:
    """What was found, in a line."""
    # Cut to a line: what was found may be a whole document.
    return reprlib.repr(value)
