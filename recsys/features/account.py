"""What policies did to some rows: which values they mended, which rows they dropped, and what stopped.

One account is opened for the rows that are read together (a row group, a request), every column is settled on it, and
the rows that were dropped are taken out at the end, all columns at once.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.features.policy import Policy

ROWS_DROPPED = "rows dropped"

_COUNTED_AS = {Policy.CLIP: "values clipped", Policy.UNKNOWN: "ids invalid", Policy.DROP: ROWS_DROPPED}


class Account:
    """Settles invalid values of `rows` rows under a schema's policies.

    Args:
        where: what the rows are, for messages ("clicks.parquet, row group 3, ").
        origins: a column's name in the user's own files, where it is another one; messages name both.
        first_row: which row of all of them, counted from 0, these rows begin with.

    >>> account = Account("", {"price": Policy.DROP}, rows=3)
    >>> broken = np.array([False, True, False])
    >>> account.settle("price", broken, lambda row: -1.0, "a price of 0 or more")
    <Policy.DROP: 'drop'>
    >>> account.dropped.tolist(), dict(account.counts)
    ([False, True, False], {'rows dropped: price': 1})
    """

    def __init__(
        self,
        where: str,
        invalid: Mapping[str, Policy],
        rows: int,
        origins: Mapping[str, str] | None = None,
        first_row: int = 0,
    ) -> None:
        self.where = where
        self.rows = rows
        self.counts: Counter[str] = Counter()
        self.dropped: npt.NDArray[np.bool_] | None = None
        """(rows,) True for rows to be left out; None where there are none."""
        self._invalid = invalid
        self._origins = origins or {}
        self._first_row = first_row

    def place(self, column: str) -> str:
        """Where a column stands, for messages."""
        own = f" (`{self._origins[column]}` in the files)" if column in self._origins else ""
        return f"{self.where}column `{column}`{own}"

    def settle(
        self,
        column: str,
        broken: npt.NDArray[np.bool_],
        value: Callable[[int], object],
        expected: str,
        *,
        mends: Policy | None = None,
        undeclared: Policy = Policy.STOP,
    ) -> Policy:
        """Say what becomes of invalid values, and count it; the caller carries it out.

        Args:
            broken: (rows,) which rows hold one; at least one does.
            value: the value in a row, for the message.
            mends: the policy beside `drop` that can mend these values; None where there is none.
            undeclared: the policy of a column for which the schema declares none.

        Returns:
            `mends`, or DROP: what stands in a dropped row's place does not matter, but it must be valid.

        Raises:
            DataError: the policy is to stop, or cannot mend these values.
        """
        policy = self._invalid.get(column, undeclared)
        number = int(np.count_nonzero(broken))
        if policy is Policy.DROP:
            self.dropped = broken.copy() if self.dropped is None else self.dropped | broken
        elif policy is not mends or policy is Policy.STOP:
            row = int(np.argmax(broken))
            raise DataError(
                f"{self.place(column)} holds {value(row)} in {number} of {self.rows} rows; expected "
                f"{expected} (first in row {self._first_row + row}). Mend the data, or say under `invalid:` of the "
                "schema what becomes of such values."
            )
        self.counts[f"{_COUNTED_AS[policy]}: {column}"] += number
        return policy

    def of_elements(self, lengths: npt.NDArray[Any]) -> "ElementAccount":
        """Return the account of the elements of these rows' lists, (rows,) long each, end to end."""
        return ElementAccount(self, lengths)

    def count(self, what: str, column: str, number: int) -> None:
        """Count values that the schema has an answer for, such as "values filled"."""
        if number:
            self.counts[f"{what}: {column}"] += number


class ElementAccount(Account):
    """Settles elements of lists on the account of their rows: a policy is of a row, as a list is a row's value.

    Args:
        lengths: (rows,) elements of each row.
    """

    def __init__(self, of_rows: Account, lengths: npt.NDArray[Any]) -> None:
        super().__init__(of_rows.where, {}, int(lengths.sum()))
        self.counts, self._of_rows, self._lengths = of_rows.counts, of_rows, lengths

    def place(self, column: str) -> str:
        """Where a column stands, for messages."""
        return self._of_rows.place(column)

    def settle(
        self,
        column: str,
        broken: npt.NDArray[np.bool_],
        value: Callable[[int], object],
        expected: str,
        *,
        mends: Policy | None = None,
        undeclared: Policy = Policy.STOP,
    ) -> Policy:
        """As `Account.settle`, of elements: (elements,) `broken`, and the value of an element."""
        # Only now, as in most columns nothing is broken and their elements need no owner.
        owners = np.repeat(np.arange(self._of_rows.rows), self._lengths)
        rows = np.zeros(self._of_rows.rows, dtype=bool)
        rows[owners[broken]] = True

        def first_in(row: int) -> object:
            return value(int(np.flatnonzero(broken & (owners == row))[0]))

        return self._of_rows.settle(column, rows, first_in, f"{expected}, in lists", mends=mends, undeclared=undeclared)
