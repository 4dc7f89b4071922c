"""The best candidates of every user on a date, by a finished run: retrieved by its tower, ordered by its ranker.

    <output>/date=2011-09-01/model=<digest>/part-00000.parquet   user, item, rank, score, probability
    <output>/date=2011-09-01/model=<digest>/receipt.json         what they follow from

Parts are blocks of users in the order of their ids. A killed run goes on after its last whole part, and the folder
takes its name when all of them are there.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.artifacts.export import PROBABILITY, load_scorer
from recsys.artifacts.scorer import Scorer
from recsys.config import RunConfig
from recsys.datasets.candidate_lists import CandidateLists, GroupedValues, Ints
from recsys.datasets.computed_features import own_name
from recsys.datasets.database import Backend, Rows, fetch, temporary_database
from recsys.datasets.declared_examples import CandidateRule
from recsys.datasets.event_tables import read_events
from recsys.datasets.labelled_queries import labelled_queries
from recsys.datasets.newest_queries import newest_queries
from recsys.datasets.pair_batches import PairBatches
from recsys.datasets.pair_rows import PairRows
from recsys.datasets.query_tables import ITEM, QUERY, QueryLog, file_name, read_queries
from recsys.datasets.sampled_examples import SECONDS_A_DAY, item_days, number_columns, shown_items
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_rows import RowReader
from recsys.errors import DataError, UsageError
from recsys.files import ensure_writable
from recsys.progress import Progress
from recsys.run.prepare import raw_folder
from recsys.run.result_keys import code_of
from recsys.run.serving import MODEL
from recsys.run.streams import own_share
from recsys.run.together import run_stage_together
from recsys.run.two_stages import Side, TwoStages, in_blocks
from recsys.scheduling.stage import Stage, input_fingerprint
from recsys.sharding.first_process import by_first, is_first, processes, rank

_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        date: YYYY-MM-DD; events from its midnight (UTC) on are not known. Empty where the events have no times.
        users: ids as text; None for every user with an event.
        top: how many items a user gets.
        retrieve: how many candidates the tower finds for the ranker, beside those that the user had before; 0: the
            ranker orders all of them.
        is_new_only: whether items that the user had before are left out.
    """

    date: str
    users: tuple[str, ...] | None
    top: int
    retrieve: int
    is_new_only: bool


@dataclass(frozen=True)
class Recommended:
    """Where the lists are, of how many users, and whether this call made them."""

    path: Path
    users: int
    rows: int
    was_run: bool


def run(config: RunConfig, folder: Path, request: Request, output: Path, progress: Progress) -> Recommended:
    """Write the lists that the run in `folder` recommends. Several processes write a share of the parts each.

    Raises:
        UsageError: the run's data is no declared table, or the request cannot be meant for it.
        DataError: there is no finished run, or no event before the date.
        BusyError: another process writes the same lists now.
        CannotWriteError: `output` cannot be written.
    """
    torch.set_num_threads(own_share(config)[1])
    scorer = load_scorer(folder / MODEL)
    if not isinstance(scorer.reader, RowReader):
        raise UsageError(
            f"The run {folder} learnt from `{config.data.source}` data, which says nothing of users' events. Lists are "
            "recommended by runs on a table (`data.source: table`, see data/README.md)."
        )
    layout = scorer.reader.layout
    at = _moment(request, layout)
    raw = Path(by_first(lambda: str(raw_folder(config, progress))))
    digest, rows = by_first(lambda: (input_fingerprint(folder / MODEL / "artifacts"), input_fingerprint(raw)))
    stage = Stage(
        "recommend",
        inputs={"raw": rows, "model": digest},
        parameters=asdict(request) | {"run": folder.name},
        code_version=code_of(_write, load_scorer),
    )
    final = output / f"date={request.date or 'latest'}" / f"model={digest}"
    by_first(partial(ensure_writable, final.parent))

    def work(place: Path) -> None:
        # Each process reads the events into a database of its own, and writes its turns of the blocks.
        with ExitStack() as stack:
            beside = "" if is_first() else stack.enter_context(TemporaryDirectory(dir=config.runtime.encoded))
            connection = stack.enter_context(temporary_database(Path(beside or place), *own_share(config)))
            progress("reading the events", 0, 0)
            events = read_events(connection, raw, layout.open_ended, scorer.contract.schema, progress, before=at)
            log = (read_queries if layout.label is None else labelled_queries)(connection, events, progress)
            _write(connection, log, scorer, request, at, place, progress)

    result = run_stage_together(stage, final, work, is_resumable=True)
    files = sorted(result.path.glob("part-*.parquet"))
    users = sum(int(pq.read_metadata(file).metadata[b"recsys.users"]) for file in files)
    return Recommended(result.path, users, sum(pq.read_metadata(file).num_rows for file in files), result.was_run)


def _moment(request: Request, layout: TableLayout) -> datetime | None:
    if layout.order != "time":
        if request.date:
            raise UsageError(
                f"--date is {request.date}, but the events have no times. Leave it out: all of them are known."
            )
        return None
    try:
        return datetime.strptime(request.date, "%Y-%m-%d")
    except ValueError as error:
        raise UsageError(
            f"--date is {request.date!r}; expected YYYY-MM-DD, the first day whose events are not known."
        ) from error


def _write(
    connection: Backend,
    log: QueryLog,
    scorer: Scorer,
    request: Request,
    at: datetime | None,
    folder: Path,
    progress: Progress,
) -> None:
    """Write one part after the other, leaving those that are there."""
    queries = newest_queries(connection, log, at, request.users)
    pairs = PairBatches(
        connection, PairRows(log, queries), scorer.contract, scorer.vocabularies, progress, is_one_moment=True
    )
    user = file_name(log.raw.schema.user, log.raw)
    ids = fetch(connection, queries.select(QUERY, user).order_by(QUERY))[user].combine_chunks()
    if not len(ids):
        what = "none of the users asked for has" if request.users else "nobody has"
        raise DataError(f"{log.raw.where}: {what} an event before {request.date}. Check --date and --users.")
    lists = _lists(connection, log, queries, at, request)
    has_retrieval = bool(request.retrieve) and lists.shown is None and len(lists.items) > request.retrieve
    stages = TwoStages(pairs, scorer.ranker, torch.device("cpu"), has_retrieval)
    items = stages.items(np.zeros(len(lists.items), np.int64), lists.items)
    width = request.retrieve if has_retrieval else len(lists.items)
    blocks = list(in_blocks(len(ids), max(1, _PAIRS_AT_ONCE // width)))
    for number, block in enumerate(blocks):
        part = folder / f"part-{number:05d}.parquet"
        progress("recommending", number, len(blocks))
        if number % processes() == rank() and not part.exists():
            rows = _block(stages, items, lists, np.arange(block.start, block.stop), request)
            _write_part(part, rows, ids, lists, block.stop - block.start, log)
    progress("recommending", len(blocks), len(blocks))


@dataclass(frozen=True)
class _Lists:
    """What may be recommended.

    Attributes:
        items: numbers of the candidates, rising, (I,).
        ids: their ids, (I,).
        log_rate: what the logits of sampled negatives lack, (I,); see `ranker_score`.
        shown: query -> places of the query's own candidates; None where all have the same.
        had: query -> places of candidates that the user had before.
    """

    items: Ints
    ids: pa.Array
    log_rate: npt.NDArray[np.float64]
    shown: GroupedValues | None
    had: GroupedValues


def _lists(connection: Backend, log: QueryLog, queries: Rows, at: datetime | None, request: Request) -> _Lists:
    layout, schema = log.raw.layout, log.raw.schema
    rule = layout.candidates or CandidateRule()
    candidates = CandidateLists(rule, item_days(connection, log))
    day = int((at - datetime(1970, 1, 1)).total_seconds()) // SECONDS_A_DAY if at else 1 << 40
    items, counts = candidates.of_day(day)
    of_item = candidates.counts(day)
    shown = None
    if rule.column:
        numbers = shown_items(connection, log, queries, rule.column)
        items = np.unique(numbers["item"])
        counts = of_item[items]
        shown = GroupedValues(numbers["number"], np.searchsorted(items, numbers["item"]))
    if not len(items):
        raise DataError(
            f"{log.raw.where}: no item is a candidate on {request.date}. Check --date and `table.candidates`."
        )
    item = file_name(schema.item, log.raw)
    ids = fetch(connection, log.items.select(ITEM, item).order_by(ITEM))[item].combine_chunks().take(pa.array(items))
    power = layout.negatives.power if layout.negatives else 0.0
    log_rate = power * np.log(np.maximum(counts, 1))
    return _Lists(items, ids, log_rate, shown, _had(connection, log, queries, items))


def _had(connection: Backend, log: QueryLog, queries: Rows, items: Ints) -> GroupedValues:
    user, events = own_name(log.raw.schema.user), log.log.rows
    who = queries.select(number=QUERY, who=queries[file_name(log.raw.schema.user, log.raw)].cast("string"))
    known = events.select(who=events[user].cast("string"), item=ITEM).distinct()
    found = number_columns(connection, who.join(known, "who").select("number", "item"))
    is_candidate = np.isin(found["item"], items)
    return GroupedValues(found["number"][is_candidate], np.searchsorted(items, found["item"][is_candidate]))


def _block(
    stages: TwoStages, items: Side, lists: _Lists, queries: Ints, request: Request
) -> tuple[Ints, Ints, Ints, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The best candidates of some queries: query, place of the item, rank from 1, score and probability, (R,) each."""
    side = stages.queries(queries, np.full(len(queries), lists.items[0]))
    had, size = _pairs_of(lists.had, queries), len(items.numbers)
    if stages.has_retrieval:
        products, found = stages.retrieved(side, items, request.retrieve, had if request.is_new_only else None)
        is_found = np.isfinite(products)
        query, item = np.nonzero(is_found)[0], found[is_found]
        if not request.is_new_only:
            # What was bought before is bought again more often than a tower, which knows no pairs, can tell.
            codes = np.union1d(query * size + item, had[0] * size + had[1])
            query, item = codes // size, codes % size
    else:
        everything = np.tile(np.arange(len(items.numbers)), len(queries))
        query, item = (
            _pairs_of(lists.shown, queries)
            if lists.shown
            else (np.repeat(np.arange(len(queries)), len(items.numbers)), everything)
        )
        if request.is_new_only:
            is_new = ~np.isin(query * size + item, had[0] * size + had[1])
            query, item = query[is_new], item[is_new]
    logits, _ = stages.logits(side, query, items, item)
    score = logits + lists.log_rate[item]
    order = np.lexsort((item, -score, query))
    query, item, score, logits = query[order], item[order], score[order], logits[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
    kept = rank <= request.top
    probability = torch.from_numpy(logits[kept]).sigmoid().numpy()
    return queries[query[kept]], item[kept], rank[kept], score[kept], probability


def _pairs_of(grouped: GroupedValues, queries: Ints) -> tuple[Ints, Ints]:
    """The places of the queries, and the values of each."""
    values = [grouped[number] for number in queries.tolist()]
    return np.repeat(np.arange(len(queries)), [len(each) for each in values]), np.concatenate(values)


def _write_part(
    part: Path, rows: Sequence[npt.NDArray], ids: pa.Array, lists: _Lists, users: int, log: QueryLog
) -> None:
    query, item, rank, score, probability = rows
    schema = log.raw.schema
    table = pa.table(
        {
            schema.user: _plain(ids.take(pa.array(query))),
            schema.item: _plain(lists.ids.take(pa.array(item))),
            "rank": pa.array(rank.astype(np.int32)),
            "score": pa.array(score),
            PROBABILITY: pa.array(probability),
        }
    ).replace_schema_metadata({"recsys.users": str(users)})
    work = part.with_name(f".{part.name}.partial")
    pq.write_table(table, work, compression="zstd", write_page_checksum=True)
    os.replace(work, part)


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
