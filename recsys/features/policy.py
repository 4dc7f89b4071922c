"""What becomes of a value that its declaration rules out: one word per column, under a schema's `invalid:` key."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from recsys.errors import UsageError, did_you_mean


class Policy(StrEnum):
    """What is done about an invalid value; what a policy cannot mend stops.

    `clip` takes a number to the nearest end of its range and a list to its last `max_length` ids, `unknown` takes an id
    to the row of ids never seen, and `drop` leaves out the whole row, which is counted.
    """

    STOP = "stop"
    CLIP = "clip"
    UNKNOWN = "unknown"
    DROP = "drop"


FOR_NUMBERS = (Policy.STOP, Policy.CLIP, Policy.DROP)
FOR_IDS = (Policy.STOP, Policy.UNKNOWN, Policy.DROP)
FOR_LISTS = (Policy.STOP, Policy.CLIP, Policy.UNKNOWN, Policy.DROP)
FOR_ROLES = (Policy.STOP, Policy.DROP)
"""For the label, the segment, the weight and the time, which have no value to fall back on."""


def policies_from(declared: Any, allowed: Mapping[str, Iterable[Policy]], where: str) -> dict[str, Policy]:
    """Read the `invalid:` key.

    Args:
        allowed: the columns that may stand there, with the policies that can mend each.

    Raises:
        UsageError: names the column, what was found and what is allowed.
    """
    if not isinstance(declared, dict):
        raise UsageError(f"{where}: `invalid` is {declared!r}; expected columns with a policy each, as `price: clip`.")
    policies = {}
    for column, word in declared.items():
        if column not in allowed:
            raise UsageError(
                f"{where}: `invalid` names the column `{column}`{did_you_mean(column, allowed)}; expected some of "
                f"{', '.join(allowed)}."
            )
        words = [policy.value for policy in allowed[column]]
        if word not in words:
            raise UsageError(
                f"{where}: `invalid` of `{column}` is {word!r}{did_you_mean(word, words)}; expected one of "
                f"{', '.join(words)}."
            )
        policies[column] = Policy(word)
    return policies


def dropped_share_from(value: Any, policies: Mapping[str, Policy], where: str) -> float:
    """Read the `most_dropped` key: the share of the rows that policies may drop.

    Raises:
        UsageError: it is missing where a column drops rows, stands where none does, or is no share.
    """
    drops = [column for column, policy in policies.items() if policy is Policy.DROP]
    is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
    if drops and not is_share:
        raise UsageError(
            f"{where}: `{drops[0]}` may drop rows, and `most_dropped` is {value!r}; expected the share of the rows, "
            "above 0 and at most 1, beyond which the data count as broken."
        )
    if value and not drops:
        raise UsageError(
            f"{where}: `most_dropped` is {value!r}, but no column under `invalid` is set to `drop`; leave it out."
        )
    return float(value or 0)
