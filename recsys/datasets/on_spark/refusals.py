"""Which declared features Spark cannot count, said before anything is read."""

from recsys.datasets.declared_history import HistoryEntry
from recsys.datasets.past import PastKind
from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError


def require_countable(layout: TableLayout, where: str) -> None:
    """Refuse a table some of whose features are not counted on Spark.

    Args:
        where: the schema file, for messages.

    Raises:
        UsageError: names all of them, each with its reason.
    """
    refused = {name: reason for name, one in layout.history.features.items() if (reason := _reason(one))}
    if refused:
        shown = "; ".join(f"`{name}` {reason}" for name, reason in refused.items())
        raise UsageError(
            f"{where}: data.engine=spark cannot count {len(refused)} of the {len(layout.history.features)} features "
            f"under `table.history`: {shown}. Set data.engine=duckdb, or leave them out."
        )


def _reason(one: HistoryEntry) -> str:
    if one.kind is PastKind.CO_OCCURRENCE:
        return "(kind co_occurrence) keeps the counts of all pairs in the memory of one process"
    if one.kind is PastKind.RECENT and one.distinct:
        return "(kind recent, `distinct: true`) passes through all events in one order"
    if one.kind is PastKind.RECENT and one.leave_one_out:
        return "(kind recent, `leave_one_out: true`) cuts each row out of its own list, which DuckDB does as it reads"
    return ""
