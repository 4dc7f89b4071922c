"""Text that repeats, kept as numbers of a dictionary: a list of twenty ids in millions of rows takes forty bytes."""

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name


def with_enums(connection: Backend, name: str, rows: ir.Table) -> ir.Table:
    """Keep `rows`, a stored table, as the table `name`, with columns and lists of text as DuckDB's ENUM.

    Ibis goes on taking them for text, and so does every cast to it.
    """
    types: dict[str, str] = {}
    texts = [column for column, form in rows.schema().items() if form.is_string()]
    lists = [column for column, form in rows.schema().items() if form.is_array() and form.value_type.is_string()]
    source = quoted_name(rows.get_name())
    for place, column in enumerate([*texts, *lists]):
        values = f"unnest({quoted_name(column)})" if column in lists else quoted_name(column)
        types[column] = f"{name}_{place}"
        connection.raw_sql(
            f"CREATE TYPE {quoted_name(types[column])} AS ENUM (SELECT value FROM (SELECT DISTINCT {values} AS value "
            f"FROM {source}) WHERE value IS NOT NULL ORDER BY value)"
        )
    selected = [_cast(column, types, column in lists) for column in rows.columns]
    connection.raw_sql(f"CREATE TABLE {quoted_name(name)} AS SELECT {', '.join(selected)} FROM {source}")
    return connection.table(name)


def _cast(column: str, types: dict[str, str], is_list: bool) -> str:
    own = quoted_name(column)
    return f"CAST({own} AS {quoted_name(types[column])}{'[]' if is_list else ''}) AS {own}" if column in types else own
