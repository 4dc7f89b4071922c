"""Which names a schema may give to columns: none that would be another column's on the way of the rows."""

from collections.abc import Mapping, Sequence

from recsys.errors import UsageError

ROLES = ("segment", "label", "weight", "time")
"""What rows have beside features; a schema says which raw column each of them is."""

OWN_PREFIX = "recsys."
"""What the names of columns begin with that are ours and pass by on the way; no declared name does."""

SEGMENT_KEY = "user segment"
"""Key of the segment among the ids that a ranker looks up; no feature has this name."""


def require_distinct_names(names: list[str], roles: Mapping[str, str], reserved: Sequence[str], where: str) -> None:
    """Refuse names that prepared rows could not tell from one another or from columns of our own.

    Args:
        names: of the features.
        roles: segment, label, time and weight, each with its name.
        reserved: names of columns that rows have beside the features.

    Raises:
        UsageError: names `where`, the name and what to do.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where}: the feature `{repeated[0]}` is declared twice; each name stands once.")
    if taken := [name for name in names if name.lower() in (*reserved, SEGMENT_KEY)]:
        raise UsageError(
            f"{where}: a feature is named `{taken[0]}`, which encoded rows use for a column of their own. Rename it; "
            f"the reserved names are {', '.join((*reserved, SEGMENT_KEY))}, in small letters and large ones."
        )
    of_every_source = [name for name in reserved if name not in ROLES]
    for role, name in roles.items():
        if name.lower() in of_every_source:
            raise UsageError(
                f"{where}: `{role}` is named `{name}`, which prepared rows use for a column of their own. Name it "
                f"otherwise, and say in the `table:` block which column of the files it is; the names in use are "
                f"{', '.join(of_every_source)}, in small letters and large ones."
            )
    all_names = [*names, *roles.values()]
    if ours := [name for name in all_names if name.lower().startswith(OWN_PREFIX)]:
        raise UsageError(f"{where}: `{ours[0]}` begins with `{OWN_PREFIX}`, as columns of our own do. Rename it.")
    # DuckDB, which prepares the rows, holds `Price` and `price` for one column.
    seen: dict[str, str] = {}
    for name in all_names:
        if seen.setdefault(name.lower(), name) != name:
            raise UsageError(
                f"{where}: `{seen[name.lower()]}` and `{name}` differ in small and large letters alone, by which "
                "columns are not told apart. Rename one of them; `table.columns` says which column of the files it is."
            )
