"""Expressions over columns mean what they say for every value, and nothing else can be said in them."""

import datetime
import math
import pickle
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.datasets.database import fetch
from recsys.datasets.expressions import parse_expression, require_columns
from recsys.errors import UsageError

DATABASE = ibis.duckdb.connect(threads=1)
DATABASE.raw_sql("SET TimeZone = 'UTC'")
AT = datetime.datetime
ROWS = pa.table(
    {
        "x": pa.array([0, 3, -5, None, 2**62], pa.int64()),
        "f": [0.0, 2.5, -1.0, math.nan, None],
        "small": pa.array([100, 2, -3, None, 4], pa.int8()),
        "big": pa.array([1, 2**64 - 1, None, 3, 4], pa.uint64()),
        "s": ["a,b", "7", " Toy (1995)", None, "é"],
        "list": [["b", "a", "b"], [], None, ["c", None], ["z"]],
        "t": pa.array([AT(2011, 1, 1), AT(2011, 12, 31, 23, 59), None, AT(2024, 2, 29, 12), AT(1969, 1, 1)]),
        "b": [True, False, None, True, False],
        "nothing": pa.nulls(5),
        "Two Words": [1, 2, 3, 4, 5],
        "order": [1, 2, 3, 4, 5],
    }
)


def values(text: str, rows: pa.Table = ROWS) -> list[Any]:
    return all_values([text], rows)[text]


def all_values(texts: list[str], rows: pa.Table) -> dict[str, list[Any]]:
    """The values of each expression, from one query."""
    DATABASE.con.register("rows", rows)
    try:
        table = DATABASE.table("rows")
        found = table.select(**{text: parse_expression(text, "derive.z").to_ibis(table) for text in texts})
        return dict(fetch(DATABASE, found).to_pydict())
    finally:
        DATABASE.con.unregister("rows")


def refusal(text: Any) -> str:
    with pytest.raises(UsageError) as caught:
        values(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("derive.z")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x * x * x", [0, 27, -125, None, None]),
        ("2000000000 * 2 + x", [4000000000, 4000000003, 3999999995, None, 2**62 + 4000000000]),
        ("small * small", [10000, 4, 9, None, 16]),
        ("-x", [0, -3, 5, None, -(2**62)]),
        ("abs(x)", [0, 3, 5, None, 2**62]),
        ("x / f", [None, 1.2, 5.0, None, None]),
        ("1 / (x / 0)", [None] * 5),
        ("x % 2", [0, 1, -1, None, 0]),
        ("x % 0", [None] * 5),
        ("f % 0", [None] * 5),
        ("ln(x)", [None, math.log(3), None, None, math.log(2**62)]),
        ("log2(x)", [None, math.log2(3), None, None, 62.0]),
        ("log10(f)", [None, math.log10(2.5), None, None, None]),
        ("exp(x)", [1.0, math.exp(3), math.exp(-5), None, None]),
        ("1 / (1 + exp(-x * 1000))", [0.5, 1.0, 0.0, None, None]),
        ("sqrt(f)", [0.0, math.sqrt(2.5), None, None, None]),
        ("pow(f, 0.5)", [0.0, math.sqrt(2.5), None, None, None]),
        ("pow(f, -1)", [None, 0.4, -1.0, None, None]),
        ("round(f)", [0.0, 3.0, -1.0, None, None]),
        ("round(f / 3, 2)", [0.0, 0.83, -0.33, None, None]),
        ("floor(f / 2)", [0.0, 1.0, -1.0, None, None]),
        ("ceil(f / 2)", [0.0, 2.0, 0.0, None, None]),
        ("sign(f)", [0, 1, -1, None, None]),
        ("coalesce(ln(f), 0)", [0.0, math.log(2.5), 0.0, 0.0, 0.0]),
        ("coalesce(x, f, 9)", [0.0, 3.0, -5.0, 9.0, float(2**62)]),
        ("nullif(x, 0)", [None, 3, -5, None, 2**62]),
        ("greatest(x, f)", [0.0, 3.0, -1.0, None, float(2**62)]),
        ("least(x, 3)", [0, 3, -5, 3, 3]),
        ("bin(f, 1, 2)", [0, 2, 0, None, None]),
        ("bin(x, 0, 1.5, 100)", [1, 2, 0, None, 3]),
        ("ln(f) is null", [True, False, True, True, True]),
        ("x is not null", [True, True, True, False, True]),
        ("0 / f > 5 or f is null", [None, False, False, True, True]),
        ("not b", [False, True, None, False, True]),
        ("b and f > 0", [False, False, False, None, False]),
        ("x > 0 or b", [True, True, None, True, True]),
        ("x <> 3", [True, False, True, None, True]),
        ("x in (0, -5)", [True, False, True, None, False]),
        ("x not in (0)", [False, True, True, None, True]),
        ("s in ('7', 'it''s')", [False, True, False, None, False]),
        ("f between -1 and 2.4", [True, False, True, None, None]),
        ("case when x > 0 then 1 when x < 0 then 0.5 end", [None, 1.0, 0.5, None, 1.0]),
        ("case when b then 'yes' else s end", ["yes", "7", " Toy (1995)", "yes", "é"]),
        ("cast(s as int)", [None, 7, None, None, None]),
        ("s::double", [None, 7.0, None, None, None]),
        ("cast(f as bigint)", [0, 2, -1, None, None]),
        ("cast(f * 1e300 as bigint)", [0, None, None, None, None]),
        ("cast(b as int)", [1, 0, None, 1, 0]),
        ("big", [1, 2**64 - 1, None, 3, 4]),
        ("big * 2", [2, None, None, 6, 8]),
        ("big = 3", [False, False, None, True, False]),
        ("s || '_' || x", ["a,b_0", "7_3", " Toy (1995)_-5", None, f"é_{2**62}"]),
        ("concat(s, x)", ["a,b0", "73", " Toy (1995)-5", "", f"é{2**62}"]),
        ("lower(trim(s))", ["a,b", "7", "toy (1995)", None, "é"]),
        ("upper(s)", ["A,B", "7", " TOY (1995)", None, "É"]),
        ("length(s)", [3, 1, 11, None, 1]),
        ("substr(s, 2, 3)", [",b", "", "Toy", None, ""]),
        ("substr(s, -2)", [",b", "7", "5)", None, "é"]),
        ("replace(s, 'a', 'bb')", ["bb,b", "7", " Toy (1995)", None, "é"]),
        ("starts_with(s, 'a')", [True, False, False, None, False]),
        ("ends_with(s, ')')", [False, False, True, None, False]),
        ("contains(s, 'o')", [False, False, True, None, False]),
        ("regexp_matches(s, '\\d')", [False, True, True, None, False]),
        ("cast(regexp_extract(s, '\\((\\d{4})\\)', 1) as int)", [None, None, 1995, None, None]),
        ("regexp_extract_all(s, '[a-z]')", [["a", "b"], [], ["o", "y"], None, []]),
        ("regexp_replace(s, '[0-9]', '#')", ["a,b", "#", " Toy (####)", None, "é"]),
        ("string_split(s, ',')", [["a", "b"], ["7"], [" Toy (1995)"], None, ["é"]]),
        ("len(list)", [3, 0, None, 2, 1]),
        ("list_sort(list)", [["a", "b", "b"], [], None, ["c", None], ["z"]]),
        ("list_distinct(list)", [["a", "b"], [], None, ["c", None], ["z"]]),
        ("list_contains(list, 'a')", [True, False, None, False, False]),
        ("list_extract(list, 1)", ["b", None, None, "c", "z"]),
        ("list_extract(list, -1)", ["b", None, None, None, "z"]),
        ("list_slice(list, 1, 2)", [["b", "a"], [], None, ["c", None], ["z"]]),
        ("year(t)", [2011, 2011, None, 2024, 1969]),
        ("month(t) * 100 + day(t)", [101, 1231, None, 229, 101]),
        ("hour(t)", [0, 23, None, 12, 0]),
        ("dayofweek(t)", [6, 6, None, 4, 3]),
        ("dayofyear(t)", [1, 365, None, 60, 1]),
        ("days_between('2011-01-02', t)", [-1.0, 363 + 1439 / 1440, None, 4806.5, -15341.0]),
        ("seconds_between(t, timestamp '2011-01-01 00:01')", [60.0, -31535880.0, None, -415367940.0, 1325376060.0]),
        ("t >= '2011-12-31T01:00+02:00'", [False, True, None, True, False]),
        ("t in (date '2011-01-01')", None),
        ("cast(t as date) = t", [True, False, None, False, True]),
        ("nothing + 1", [None] * 5),
        ("coalesce(nothing, 'none')", ["none"] * 5),
        ("coalesce(nothing, null)", [None] * 5),
        ('"Two Words" + order', [2, 4, 6, 8, 10]),
        ("X_is_a_comment /* here */", None),
    ],
)
def test_value_is_right_in_every_row_and_null_where_it_is_not_defined(text: str, expected: list[Any] | None) -> None:
    if expected is None:
        refusal(text)
    else:
        assert values(text) == pytest.approx(expected, nan_ok=False) if isinstance(expected[0], float) else expected


HOSTILE = r"""
select 1 @@ (select 1) @@ x = (select max(x) from rows) @@ exists (select 1) @@ x in (select x from rows)
x = any (select 1) @@ x; drop table rows @@ x; x @@ drop table rows @@ attach 'evil.db' @@ copy rows to 'out.csv'
pragma version @@ set threads = 1 @@ install httpfs @@ load httpfs @@ call pragma_version() @@ export database 'out'
create table y (z int) @@ insert into rows values (1) @@ read_csv('/etc/passwd') @@ read_text('/etc/passwd')
read_parquet('s3://bucket/x') @@ read_blob('x') @@ glob('*') @@ getenv('HOME') @@ getvariable('x')
current_setting('threads') @@ query('select 1') @@ query_table('rows') @@ parquet_scan('x') @@ sniff_csv('x')
now() @@ current_date @@ current_timestamp @@ current_user @@ localtime @@ today() @@ random() @@ uuid()
gen_random_uuid() @@ setseed(0.5) @@ txid_current() @@ nextval('s') @@ version() @@ current_database()
current_schema() @@ hash(x) @@ error('x') @@ sleep_ms(1000) @@ sum(x) @@ count(*) @@ count(x) @@ max(x) @@ list(x)
avg(x) over () @@ abs(x) over () @@ row_number() over (order by x) @@ lag(x) @@ abs(x) filter (where b)
abs(distinct x) @@ greatest(x, x order by x) @@ string_agg(s, ',') @@ unnest(list) @@ generate_series(1, 10)
range(1000000000) @@ repeat(s, 1000000000) @@ rpad(s, 1000000000, 'x') @@ list_transform(list, e -> e)
list_filter(list, lambda e: e) @@ [e for e in list] @@ [1, 2] @@ {'a': 1} @@ map {1: 2} @@ row(1, 2)
struct_pack(a := 1) @@ list[1] @@ list[1:2] @@ x.y @@ rows.x @@ a.b.c.d @@ x.abs() @@ * @@ rows.* @@ columns(*)
columns('x') @@ * exclude (x) @@ ? @@ $1 @@ $name @@ :name @@ #1 @@ @x @@ x as y @@ x y @@ x, @@ x, f
x order by 1 @@ x limit 1 @@ x from rows @@ interval 1 day @@ t + interval 1 day @@ t at time zone 'UTC'
s collate nocase @@ s like 'a%' @@ s similar to 'a' @@ s ~ 'a' @@ s glob 'a*' @@ try(x) @@ if(b, 1, 2) @@ x ** 2
x ^ 2 @@ x // 2 @@ x & 1 @@ x << 1 @@ ~x @@ x! @@ x is true @@ x is distinct from 1 @@ x in list @@ x in ()
x in (null) @@ x in (f) @@ case x when 1 then 2 end @@ cast(x as blob) @@ cast(s as json) @@ cast(x as int[])
cast(x as decimal(3, 1)) @@ cast(s as mood) @@ cast(s as struct(a int)) @@ cast(x as hugeint)
extract(year from t) @@ position('a' in s) @@ trim(both 'a' from s) @@ strptime(s, '%Y') @@ "abs"(x) @@ main.abs(x)
system.main.abs(x) @@ abs (x @@ abs() @@ abs(x, x) @@ pow(x) @@ bin(x) @@ bin(x, 2, 1) @@ bin(x, 1, 1) @@ bin(x, f)
round(x, f) @@ coalesce(x) @@ substr(s, x) @@ substr(s, 99999999999) @@ round(x, 1.5) @@ regexp_matches(s, s)
regexp_matches(s, '(') @@ regexp_matches(s, 'a' || 'b') @@ regexp_extract(s, 'a', 3)
regexp_extract_all(s, '(a)', 2) @@ regexp_extract(s, 'a', -1) @@ regexp_matches(s, '(a{1000}){1000}')
regexp_replace(s, 'a', '\3') @@ replace(s, s, s) @@ starts_with(s, s) @@ regexp_replace(s, 'a', 'b', 'g') @@ 1e400
99999999999999999999 @@ 0x10 @@ 'unfinished @@ "unfinished @@ ((x) @@ x) @@ + @@ and @@ not @@ case when b then 1
E'\x41' @@ x'41' @@ $$a$$ @@ 'a' 'b' @@ -- @@ /* x */ @@ /* x @@ abs(x) /* sqlglot.anonymous */ () @@ x\x00
x -> 1 @@ s -> '$.a' @@ list:1 @@ x := 1 @@ {{ x }} @@ macro(x) @@ pg_sleep(1) @@ lower(s) within group (order by s)
x ignore nulls @@ values (1) @@ table rows @@ from rows @@ describe rows @@ summarize rows
"""


@pytest.mark.parametrize("text", [text for line in HOSTILE.strip().splitlines() for text in line.split(" @@ ")])
def test_whatever_is_not_a_function_of_the_row_is_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "x" + ")" * 500,
        "+".join(["x"] * 1900),
        " and ".join(["b"] * 600),
        "not " * 900 + "b",
        "sqrt(" * 20 + "x" + ")" * 20,
        "1 / (" * 20 + "x" + ")" * 20,
        "case when b then " * 100 + "1" + " end" * 100,
        "replace(" * 12 + "s" + ", 'a', 'aaaaaaaaaa')" * 12,
        "x + " * 2000 + "x",
    ],
)
def test_expression_that_would_grow_without_bounds_is_refused(text: str) -> None:
    assert "at most" in refusal(text)


@pytest.mark.parametrize("found", [None, "", "  ", 3, True, ["x"], {"x": 1}])
def test_what_is_no_text_is_refused(found: Any) -> None:
    assert f"derive.z is {found!r}; expected an expression" in refusal(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x + logarithm(f)",
            "at character 5: `LOGARITHM(f)` calls `logarithm`, which is not allowed; expected one of abs",
        ),
        ("x + regexp_match(s, 'a')", "calls `regexp_match` (did you mean `regexp_matches`?), which is not allowed"),
        ("x + rows.x", "at character 5: `rows.x` is a name with a dot; expected a column's own name"),
        ("x +", "'x +' cannot be read, at character 3 (something is missing there); expected one"),
        ("x x", "at character 3 ("),
        ("s + 1", "at character 1: `s` is text (cast(... as double) makes it a number); expected a number"),
        ("s = 7", "at character 5: `7` is a number (cast(... as varchar) makes it text); expected text as beside it"),
        ("case when x then 1 end", "at character 11: `x` is a number; expected true or false"),
        ("t > 'monday'", "stands beside a time; expected one such as '2011-07-01 08:00'"),
        ("lower(list)", "`list` is a list; expected text"),
        (
            "cast(list as int)",
            "`list` is a list, which is not cast to int64; expected a number or text or true or false",
        ),
        ("round(f, x)", "at character 10: `x` stands in `round` where a whole number, written out is expected"),
        ("bin(f, 3, 1)", "gives `bin` the edges [3, 1]; expected numbers that rise"),
        ("pow(f)", "gives `pow` 1 arguments; expected a number, a number"),
        ("X + 1", "reads the column `X` (did you mean `x`?), which is not there; known are x, f,"),
        ("two_words", "(did you mean `Two Words`?)"),
    ],
)
def test_message_says_what_stands_where_and_what_is_expected(text: str, message: str) -> None:
    assert message in refusal(text)


def test_columns_come_in_the_order_of_the_text_each_once_in_their_own_case() -> None:
    expression = parse_expression('coalesce("Two Words", Price) / (1 + x) - price + x', "derive.z")
    assert expression.columns == ("Two Words", "Price", "x", "price")
    assert parse_expression("1 + 1", "derive.z").columns == ()
    with pytest.raises(UsageError, match="reads the column `Price`"):
        require_columns(expression, ["Two Words", "x", "price"])


def test_expression_is_equal_by_its_text_and_survives_being_pickled() -> None:
    expression = parse_expression("x + 1", "derive.z")
    assert expression == parse_expression("x + 1", "elsewhere")
    again = pickle.loads(pickle.dumps(expression))
    assert again == expression
    assert again.columns == ("x",)


def test_derived_column_may_read_the_one_before_it_and_a_condition_leaves_out_nulls() -> None:
    DATABASE.con.register("rows", ROWS)
    table = DATABASE.table("rows").select("x", "f")
    made = table.mutate(half=parse_expression("x / 2", "derive.half").to_ibis(table))
    made = made.mutate(x=parse_expression("half + 1", "derive.x").to_ibis(made))
    positive = parse_expression("x > 0.9", "where").condition(made)
    assert fetch(DATABASE, made.filter(positive).select("half", "x")).to_pylist() == [
        {"half": 0.0, "x": 1.0},
        {"half": 1.5, "x": 2.5},
        {"half": 2.0**61, "x": 2.0**61 + 1},
    ]
    with pytest.raises(UsageError, match="`x` is of type int64; expected a condition such as `price > 0`"):
        parse_expression("x", "where").condition(table)
    DATABASE.con.unregister("rows")


def test_zones_and_nanoseconds_are_read_as_utc() -> None:
    moment = pa.array([AT(2011, 7, 1, 23, 30)], pa.timestamp("us", "Europe/Berlin"))
    assert values("hour(t)", pa.table({"t": moment})) == [23]
    assert values("day(t)", pa.table({"t": pa.array([1 << 60], pa.timestamp("ns"))})) == [14]
    assert values("dayofweek(t)", pa.table({"t": pa.array([datetime.date(2026, 11, 29)])})) == [0]


_NUMBERS = st.none() | st.floats() | st.sampled_from([0.0, 1.0, -1.0])


def _defined(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=1, max_size=20))
def test_arithmetic_equals_that_of_python_and_is_null_where_python_raises(rows: list[tuple[float, float]]) -> None:
    table = pa.table(
        {"a": pa.array([a for a, _ in rows], pa.float64()), "b": pa.array([b for _, b in rows], pa.float64())}
    )
    known = [tuple(None if each is None or math.isnan(each) else each for each in row) for row in rows]

    def expected(compute: Any) -> list[Any]:
        found = []
        for a, b in known:
            try:
                found.append(None if a is None or b is None else _defined(compute(a, b)))
            except (ZeroDivisionError, ValueError, OverflowError):
                found.append(None)
        return found

    found = all_values(
        [
            "a / b",
            "a - b * 2",
            "coalesce(a - b, 7)",
            "coalesce(ln(a * b), 0)",
            "a < b",
            "a is null",
            "bin(a, -1, 0, 2.5)",
        ],
        table,
    )
    assert found["a / b"] == expected(lambda a, b: a / b)
    assert found["a - b * 2"] == expected(lambda a, b: a - b * 2)
    assert found["coalesce(a - b, 7)"] == [7.0 if each is None else each for each in expected(lambda a, b: a - b)]
    logarithms = [0.0 if each is None else each for each in expected(lambda a, b: math.log(a * b))]
    assert found["coalesce(ln(a * b), 0)"] == pytest.approx(logarithms, rel=1e-12)
    finite = [(_defined(a), _defined(b)) for a, b in known]
    assert found["a < b"] == [None if a is None or b is None else a < b for a, b in finite]
    assert found["a is null"] == [a is None for a, _ in finite]
    edges = [-1, 0, 2.5]
    bins = [None if a is None else sum(a >= edge for edge in edges) for a, _ in finite]
    assert found["bin(a, -1, 0, 2.5)"] == bins
