"""Which rows are train, validation and test: by time, by each user's last events, or by drawn shares.

A split by rows at random lets a model see the future of the users and items that it is tested on; what it then scores
is not what it will score tomorrow. Where times are known, split by time.
"""

import datetime
from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from recsys.datasets.database import epoch_us
from recsys.datasets.declared_roles import SplitRule
from recsys.datasets.source import TEST, TRAIN, VALIDATION

_DRAWN = 2**32


def assigned_split(
    rule: SplitRule, moment: ir.TimestampValue, user: ir.Value, ties: Sequence[ir.Value], identity: ir.Value
) -> ir.StringValue:
    """The split of each row by a rule that is not by a column; null for rows outside of every split.

    Args:
        moment: when the row was; its place where there are no times.
        ties: tell rows of one user and moment apart, always in the same order.
        identity: what a row is drawn by in `shares` by row, such as a digest of what it holds.
    """
    if rule.leave_last:
        return _leave_last(rule.leave_last, moment, user, ties)
    if rule.shares and rule.by == "time":
        place = ibis.row_number().over(order_by=[moment, user, *ties])
        return _by_share(rule, place / moment.count().over())
    if rule.shares:
        drawn = user if rule.by == "user" else identity
        salted = drawn.cast("string") + ibis.literal(f"|{rule.by}|{rule.seed}")
        return _by_share(rule, (salted.hash() & ibis.literal(_DRAWN - 1)) / _DRAWN)
    ends = (
        (rule.train_start, ibis.null("string")),
        (rule.validation_start, TRAIN),
        (rule.test_start, VALIDATION),
        (rule.test_end or datetime.datetime.max, TEST),
    )
    return ibis.cases(*((moment < end, split) for end, split in ends if end is not None))


def is_history(rule: SplitRule | None, moment: ir.TimestampValue) -> ir.BooleanValue:
    """Whether a row lies before the first split by time: it is known to all rows, and an example of none."""
    if rule is None or rule.train_start is None:
        return ibis.literal(False)
    return moment < rule.train_start


def _leave_last(number: int, moment: ir.TimestampValue, user: ir.Value, ties: Sequence[ir.Value]) -> ir.StringValue:
    later = ibis.window(group_by=user, order_by=[epoch_us(moment).desc(), *(each.desc() for each in ties)])
    place = ibis.row_number().over(later)
    events = moment.count().over(ibis.window(group_by=user))
    return ibis.cases(
        (events <= 2 * number, TRAIN), (place < number, TEST), (place < 2 * number, VALIDATION), else_=TRAIN
    )


def _by_share(rule: SplitRule, place: ir.FloatingValue) -> ir.StringValue:
    train, validation = rule.shares[TRAIN], rule.shares[VALIDATION]
    return ibis.cases((place < train, TRAIN), (place < train + validation, VALIDATION), else_=TEST)
