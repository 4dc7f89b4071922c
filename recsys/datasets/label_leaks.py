"""Whether features of the past, counted of one another, would tell a row its own label.

A row and the events that it sees share the columns `by`. What was counted for an event over all others, whatever their
time (`folds`, `leave_one_out`), was counted over the row as well, if the two share the columns by which that was done.
A film's mean is told of every event; to a row that sees the user's events it says nothing of itself, as those are of
other films; to one that sees the film's events it would.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from recsys.datasets.declared_history import HistoryEntry, HistoryRule
from recsys.errors import UsageError


def check_own_labels(
    rule: HistoryRule, user: str, labels: Sequence[str], reads: Mapping[str, Collection[str]], where: str
) -> None:
    """Refuse features by way of which a row would learn its own label.

    What several events of the same user and item tell of each other is not looked at: there the inner feature needs
    `folds`, which leave out all events of a user.

    Args:
        labels: the names of the label and of what it is made of.
        reads: what each derived column reads, itself or through other derived ones.

    Raises:
        UsageError: names both features, and what to declare instead.
    """
    for name, entry in rule.features.items():
        for part, keys in _told_of_events(entry, frozenset(entry.keyed_by), rule, reads, ()):
            inner = rule.features[part]
            is_out_of_fold = inner.leave_one_out or (inner.folds and user not in keys)
            # A prior is the mean of all rows.
            is_shared = inner.prior_rows > 0 or {*inner.by} <= keys
            if is_out_of_fold and is_shared and _reads_labels(part, rule, labels, reads, ()):
                raise UsageError(
                    f"{where}.features.{name}: is made of `{part}`, which is counted for each event over all others "
                    f"{'(`prior_rows`)' if inner.prior_rows else 'of its ' + ', '.join(inner.by)} whatever their time. "
                    "The row itself is among them, so that its own label would be in its own feature. Declare "
                    f"`{part}` without `prior_rows` and by other columns, or with `folds` where `{user}` is in `by` "
                    "here."
                )


def _told_of_events(
    entry: HistoryEntry,
    keys: frozenset[str],
    rule: HistoryRule,
    reads: Mapping[str, Collection[str]],
    above: tuple[HistoryEntry, ...],
) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the features that the events have when `entry` is counted, and the columns that such an event shares."""
    for column in entry.columns:
        for name in (column, *reads.get(column, ())):
            inner = rule.features.get(name)
            if inner is not None and inner not in above:
                yield name, keys
                yield from _told_of_events(inner, keys & {*inner.keyed_by}, rule, reads, (*above, inner))


def _reads_labels(
    name: str,
    rule: HistoryRule,
    labels: Sequence[str],
    reads: Mapping[str, Collection[str]],
    above: tuple[str, ...],
) -> bool:
    """Whether a column's values depend on labels."""
    if name in labels:
        return True
    if name in above:
        return False
    parts = [rule.features[name].of] if name in rule.features else reads.get(name, ())
    return any(_reads_labels(part, rule, labels, reads, (*above, name)) for part in parts)
