"""What to change about how rows are written, each with what it gains, measured on a sample of these very rows.

A proposal is another way to write the sample (`proposals.py`). It becomes advice if it decodes or stores the rows
noticeably cheaper and does not pay for it by the other, or if it is no matter of speed (checksums, order).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from recsys.streaming.inspection import Inspection
from recsys.streaming.proposals import Proposal, names_of, propose
from recsys.streaming.trials import Cost, Trial, Writing, as_written, measure

CODEC, ORDER = "codec", "order of rows"

# A gain of less is not worth writing data anew, and lies within what two timings of one file differ by.
_WORTH, _NO_WORSE = 0.95, 1.05
_CODECS = ("ZSTD", "LZ4_RAW", "SNAPPY", "UNCOMPRESSED")
_GROUPS_TO_SEE_AN_ORDER = 4

Measure = Callable[[Sequence[Trial]], list[Cost]]


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        subject: one of the words of `proposals.py` and of this file.
        gain: what it is expected to bring, in words.
        before, after: what reading the sample costs now and then; None where it is no matter of reading.
    """

    subject: str
    found: str
    do: str
    gain: str
    before: Cost | None
    after: Cost | None


@dataclass(frozen=True)
class Advised:
    """All advice on one path.

    Attributes:
        now: what reading the sample costs as it is written.
        together: what it would cost with all of the advice followed; None where there is none to measure.
        codecs: what it would cost in each codec, nothing else changed.
    """

    advice: tuple[Advice, ...]
    now: Cost
    together: Cost | None
    codecs: dict[str, Cost]


def advise(
    inspection: Inspection,
    sample: pa.Table,
    distinct: Mapping[str, int],
    shuffle_buffer_rows: int,
    measure_trials: Measure = measure,
) -> Advised:
    """Propose, measure, and keep what gains.

    Args:
        sample: as `read_sample` returned it.
        distinct: as `count_distinct` returned it.
        shuffle_buffer_rows: most rows that the loader permutes together.
        measure_trials: tells what reading costs.
    """
    written = as_written(inspection)
    proposals = [*propose(inspection, sample, distinct, written)]
    in_codecs = [Trial(sample, written.with_codec(codec)) for codec in _CODECS]
    trials = [Trial(sample, written), *(proposal.trial(sample) for proposal in proposals), *in_codecs]
    now, *costs = measure_trials(trials)
    codecs = dict(zip(_CODECS, costs[len(proposals) :], strict=True))
    kept = [
        (proposal, cost)
        for proposal, cost in zip(proposals, costs, strict=False)
        if proposal.other_gain or _is_better(cost, now)
    ]
    if better := _better_codec(written, now, codecs):
        kept.append(better)
    advice = [
        Advice(proposal.subject, proposal.found, proposal.do, _gain(proposal, now, cost), now, cost)
        for proposal, cost in kept
    ]
    together = None
    if len(kept) > 1:
        (together,) = measure_trials([_all_of(kept, sample, written)])
    elif kept:
        together = kept[0][1]
    return Advised((*advice, *_order(inspection, sample, distinct, shuffle_buffer_rows)), now, together, codecs)


def _better_codec(written: Writing, now: Cost, codecs: dict[str, Cost]) -> tuple[Proposal, Cost] | None:
    better = {codec: cost for codec, cost in codecs.items() if _is_better(cost, now)}
    if not better:
        return None
    codec = min(better, key=lambda name: better[name].decode_us_per_row * better[name].bytes_per_row)
    found = ", ".join(sorted(set(written.codecs)))
    word = codec.removesuffix("_RAW").lower()
    do = f"write with {word} (compression='{word}')"
    return Proposal(CODEC, f"compressed by {found}", do, written.with_codec(codec)), better[codec]


def _order(
    inspection: Inspection, sample: pa.Table, distinct: Mapping[str, int], shuffle_buffer_rows: int
) -> Iterator[Advice]:
    """Rows sorted over all files by what a model shall learn from: a bounded shuffle does not mix them."""
    columns = inspection.columns
    in_order = [column for column in columns if column.in_order]
    # Rows in the order of time are as they should be, and what grows with time comes in order with them.
    follows_time = any(column.type.startswith(("timestamp", "date")) for column in in_order) or "day" in (
        inspection.partitions
    )
    enough = len(inspection.groups) >= _GROUPS_TO_SEE_AN_ORDER and inspection.rows > shuffle_buffer_rows
    # A number that no two rows share says nothing but which row it is.
    sorted_by = [column for column in in_order if not column.is_nested and distinct[column.path] < sample.num_rows]
    if follows_time or not enough or not sorted_by:
        return
    names = names_of(sorted_by)
    seen = shuffle_buffer_rows / inspection.rows
    yield Advice(
        ORDER,
        f"row groups that follow each other in {names}",
        "write the rows in random order, or raise training.shuffle_buffer_rows",
        f"a buffer of {shuffle_buffer_rows:,} rows holds {seen:.0%} of the values of {names} at a time; of rows in "
        "random order it holds all",
        None,
        None,
    )


def _is_better(cost: Cost, now: Cost) -> bool:
    """Whether it decodes or stores the rows noticeably cheaper, and does not pay as much by the other."""
    shares = (cost.decode_us_per_row / now.decode_us_per_row, cost.bytes_per_row / now.bytes_per_row)
    return min(shares) < _WORTH and max(shares) < _NO_WORSE


def _gain(proposal: Proposal, now: Cost, cost: Cost) -> str:
    decode = f"decoding {now.decode_us_per_row:.3f} -> {cost.decode_us_per_row:.3f} us a row"
    size = f"{now.bytes_per_row:.1f} -> {cost.bytes_per_row:.1f} bytes a row"
    return "; ".join(filter(None, [proposal.other_gain, f"{decode}, {size}"]))


def _all_of(kept: Sequence[tuple[Proposal, Cost]], sample: pa.Table, written: Writing) -> Trial:
    """The sample with every kept proposal at once."""
    rows, together = sample, written
    for proposal, _ in kept:
        rows = proposal.change(rows) if proposal.change else rows
        changed = {
            name: getattr(proposal.writing, name)
            for name in ("codecs", "rows_per_group", "has_checksums")
            if getattr(proposal.writing, name) != getattr(written, name)
        }
        dictionary = together.dictionary ^ (proposal.writing.dictionary ^ written.dictionary)
        encodings = {place: word for place, word in together.encodings.items() if place not in dictionary}
        together = replace(together, **changed, dictionary=dictionary, encodings=encodings)
    return Trial(rows, together)
