"""Features of the past for events that nobody has declared: what their order allows."""

from dataclasses import dataclass, field
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name
from recsys.datasets.schema_inference.column_profiles import rows_of
from recsys.datasets.schema_inference.drafted_features import NETWORK, TOWERS, Drafted
from recsys.datasets.schema_inference.event_roles import EventRoles
from recsys.datasets.schema_inference.first_labels import share_of_positives
from recsys.datasets.schema_inference.first_rules import Span
from recsys.datasets.schema_inference.role_words import Role, is_called

_RECENT_ITEMS = 20
_NEVER_DAYS = 1000
_MOST_CATEGORIES = 2
_LEAST_REPEATED = 0.05
_FOLDS = 10


@dataclass
class DraftedHistory:
    """The block `history`, and the feature that counts a user's earlier events; empty where none can."""

    scope: str = "live"
    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    activity: str = ""


def draft_history(
    events: EventRoles, user: str, item: str, span: Span | None, drafted: Drafted, is_random: bool, connection: Backend
) -> DraftedHistory:
    """Add the features of the past that the events' order allows, to the drafted ones as well.

    Args:
        user, item: their names in the schema.
        is_random: whether training rows are no earlier than the others, so that only their own past may be told.
    """
    history = DraftedHistory("train_only" if is_random or not events.order else "live")
    share = positive_share(events, connection)
    if not events.order:
        _add(history, drafted, "item_events", {"kind": "count", "by": [item], "folds": _FOLDS}, "item", scale="log")
        if events.label:
            mean = {"kind": "mean", "of": "label", "by": [item], "prior_rows": 10, "folds": _FOLDS}
            _add(history, drafted, "item_mean", mean, "item", fill=share)
        return history
    recent = drafted.unused("recent_items", "past")
    history.features[recent] = {"kind": "recent", "of": item, "by": [user], "length": _RECENT_ITEMS}
    table = {"table": item, "max_length": _RECENT_ITEMS, "used_by": TOWERS["user"]}
    drafted.features.append(({"name": recent, "kind": "sparse_list", **table}, "the items that the user had last"))
    count: dict[str, Any] = {"kind": "count", "by": [user]}
    if events.query:
        count = {"kind": "distinct", "of": events.query, "by": [user]}
    history.activity = _add(history, drafted, "user_events", count, "user", scale="log")
    if events.label:
        mean = {"kind": "mean", "of": "label", "by": [user], "prior_rows": 10}
        _add(history, drafted, "user_mean", mean, "user", fill=share)
    _draft_pairs(events, user, item, history, drafted, share, connection)
    if events.time:
        _draft_timed(events, user, item, span, history, drafted, share)
    return history


def _draft_timed(
    events: EventRoles, user: str, item: str, span: Span | None, history: DraftedHistory, drafted: Drafted, share: float
) -> None:
    """What can be told of items, and of days, where events have times."""
    away = {"kind": "days_since_last", "by": [user]}
    _add(history, drafted, "user_days_away", away, "user", scale="log", fill=_NEVER_DAYS)
    age = {"kind": "days_since_first", "by": [item]}
    _add(history, drafted, "item_age_days", age, "item", scale="log", fill=0)
    _add(history, drafted, "item_events", {"kind": "count", "by": [item]}, "item", scale="log")
    for days in (7, 30, 90):
        if span and span.days >= 3 * days:
            window = {"kind": "count", "by": [item], "window": f"{days}d"}
            _add(history, drafted, f"item_events_{days}d", window, "item", scale="log")
    if events.label:
        mean = {"kind": "mean", "of": "label", "by": [item], "prior_rows": 10}
        _add(history, drafted, "item_mean", mean, "item", fill=share)
    for rating in [
        name for name in events.judged if is_called(name, Role.RATING) and events.columns[name].distinct > 2
    ]:
        mean = {"kind": "mean", "of": rating, "by": [item], "prior_rows": 10}
        _add(history, drafted, f"item_{rating}", mean, "item", fill=float(f"{events.columns[rating].middle:.4g}"))
    for price, middle in [*drafted.prices.items()][:1]:
        for role, name in (("item", item), ("user", user)):
            mean = {"kind": "mean", "of": price, "by": [name], "prior_rows": 0}
            _add(history, drafted, f"{role}_{price}", mean, role, scale="log", fill=middle)


def _draft_pairs(
    events: EventRoles,
    user: str,
    item: str,
    history: DraftedHistory,
    drafted: Drafted,
    share: float,
    connection: Backend,
) -> None:
    """What is told of a user with a category or an item."""
    fewest = sorted(drafted.categories, key=lambda name: (drafted.categories[name], name))
    # A category of three values tells little of a taste.
    for category in [name for name in fewest if drafted.categories[name] > 3][:_MOST_CATEGORIES]:
        if events.label:
            mean = {"kind": "mean", "of": "label", "by": [user, category], "prior_rows": 20}
            _add(history, drafted, f"user_{category}_mean", mean, "", fill=share)
        else:
            count = {"kind": "count", "by": [user, category]}
            _add(history, drafted, f"user_{category}_events", count, "", scale="log")
    view, pair = quoted_name(events.view), f"{quoted_name(events.user)}, {quoted_name(events.item)}"
    pairs = f"SELECT {pair} FROM {view} GROUP BY {pair}"
    ((unlike, every),) = rows_of(connection, f"SELECT (SELECT count(*) FROM ({pairs})), (SELECT count(*) FROM {view})")
    if every and 1 - unlike / every >= _LEAST_REPEATED:
        _add(history, drafted, "user_item_events", {"kind": "count", "by": [user, item]}, "", scale="log")
        if events.time:
            last = {"kind": "days_since_last", "by": [user, item]}
            _add(history, drafted, "user_item_days", last, "", scale="log", fill=_NEVER_DAYS)


def positive_share(events: EventRoles, connection: Backend) -> float:
    """The share of positives, to three decimals; 0 where there is no label."""
    return round(share_of_positives(events, connection), 3) if events.label else 0.0


def _add(history: DraftedHistory, drafted: Drafted, name: str, entry: dict[str, Any], role: str, **more: Any) -> str:
    """Add one dense feature of the past; return its name."""
    own = drafted.unused(name, "past")
    history.features[own] = entry
    used_by = TOWERS[role] if role else [NETWORK]
    drafted.features.append(({"name": own, "kind": "dense", "minimum": 0, **more, "used_by": used_by}, ""))
    return own
