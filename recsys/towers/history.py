"""HistoryTower: the pre-trained half of a ranker that reads what happened before, with the candidate in view.

For a row (u, i) it reads u's events, each by how like i what u met was, and i's events, each by how like u those were
who met it. Where no event is relevant it says nothing: 0, and that there was little to read. Besides, it knows the two
sides' biases, from the events alone, and the product of their factors.

Sources of vectors (`VectorSource`, tables) and what reads with them (heads, dense) are modules with names of their own,
by which they are frozen, measured and proven.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.errors import UsageError, did_you_mean
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.events import (
    place_from_end,
    row_of_each,
)
from recsys.towers.event_groups import EventGroup, event_groups
from recsys.towers.event_heads import EventHead, FactorHead
from recsys.towers.event_kernels import ContextBias, EventBuckets, Events
from recsys.towers.tower_spec import HistoryShape, TowerSpec
from recsys.towers.vector_source import VectorSource

IDS, ATTRIBUTES, FACTORS, VECTORS = "ids", "attributes", "factors", "vectors"
"""The sources: learned keys of ids, of attributes, learned factors, and vectors that were imported."""

# Of a key's numbers, whose length does not matter, and of a factor's, whose does.
_KEY_SPREAD, _FACTOR_SPREAD = 0.1, 0.03
# The narrowest columns that a table may have: their mean is an id's bias.
_BIAS_COLUMNS = 4
Looked = Mapping[str, Mapping[str, Tensor]]
"""By source, by feature, the vectors of its ids: (ids, D)."""


class HistoryTower(nn.Module):
    """Numbers that say what a row's two histories make of it; for the interaction network and the head to weigh.

    Attributes:
        is_frozen: as of `EmbeddingTower`; so is that of every source and head by itself.
        cache: None: every row has a history of its own, so there is nothing to keep.
        output_width: of what the ranker gets.
    """

    cache = None

    def __init__(self, spec: TowerSpec, contract: FeatureContract) -> None:
        super().__init__()
        assert spec.history is not None
        shape = spec.history
        self.spec, self.is_frozen, self._reads_gaps = spec, False, shape.reads_gaps
        self._groups = event_groups(contract.schema)
        self.sources = nn.ModuleDict(_sources(self._groups, contract, shape))
        self.buckets = EventBuckets()
        self.biases = nn.ModuleDict({group.side: ContextBias(group.num_values) for group in self._groups})
        self.heads = nn.ModuleDict({name: head for group in self._groups for name, head in _heads_of(group, shape)})
        self.factors = FactorHead(self._groups, shape.factor_width)
        self.event_dropout = nn.Dropout(shape.event_dropout)
        self.history_dropout = nn.Dropout(shape.history_dropout)
        self._stay_frozen(shape.frozen)
        widths = [group.num_values + 1 for group in self._groups]
        widths += [head.output_width for head in self._heads]
        self.output_width = sum(widths) + self.factors.output_width

    @property
    def _heads(self) -> list[EventHead]:
        return [head for head in self.heads.values() if isinstance(head, EventHead)]

    def _stay_frozen(self, names: Sequence[str]) -> None:
        children = dict((*self.sources.named_children(), *self.heads.named_children()))
        for name in names:
            child = children.get(name)
            if not isinstance(child, VectorSource | EventHead):
                raise UsageError(
                    f"`tower.frozen` names `{name}`; expected some of this tower's sources and heads: "
                    f"{', '.join(children)}{did_you_mean(name, children)}."
                )
            child.stays_frozen = True

    def train(self, mode: bool = True) -> "HistoryTower":
        """Set training mode; what is frozen, the tower or a source or head of it, stays in evaluation mode."""
        super().train(mode and not self.is_frozen)
        for child in self.modules():
            if child is not self and getattr(child, "is_frozen", False):
                child.eval()
        return self

    @property
    def own_features(self) -> tuple[str, ...]:
        """The row's own features that its events are compared with: the candidate, and the user."""
        return tuple(group.own for group in self._groups)

    def load_vectors(self, table: Tensor) -> None:
        """Fill the table of imported vectors, (rows, D), before the tower is sharded."""
        (weight,) = self.sources[VECTORS].parameters()
        with torch.no_grad():
            weight.copy_(table)

    def projection_drift(self) -> Tensor:
        """Return the squared distance of the projections from where they started, a scalar."""
        drifts = [head.projection_drift() for head in self._heads if head.projection is not None]
        return torch.stack(drifts).sum() if drifts else self.buckets.gap_edges.new_zeros(())

    def look_up(self, batch: Batch) -> Looked:
        """Return the vectors of all ids, of the candidates and of the events, by source and feature."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return {name: source(batch) for name, source in self.sources.items()}

    look_up_live = look_up

    def is_exercised_by(self, batch: Batch) -> bool:
        """Whether the rows have events on each side, without which nothing that reads them gets a gradient."""
        return all(batch.sparse[group.events].values().numel() for group in self._groups)

    def forward(self, batch: Batch, rows: Tensor | None = None, looked_up: Looked | None = None) -> Tensor:
        """Return what the ranker joins: biases, what the heads read, and the factors.

        All rows are read, and `rows` taken from them; with no rows at all nothing but the tables is reached.

        Args:
            rows: (n,) int64 positions in the batch; None is all of them.
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Returns:
            (B, output_width), or (n, output_width), float32.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            vectors = self.look_up(batch) if looked_up is None else looked_up
            if rows is not None and not len(rows):
                return _no_rows(vectors, self.output_width)
            # Sums over hundreds of events, and exponentials: single, whatever the layers compute in.
            with torch.autocast(batch.label.device.type, enabled=False):
                read = self._read(batch, vectors)
            return read if rows is None else read.index_select(0, rows)

    def _read(self, batch: Batch, vectors: Looked) -> Tensor:
        parts: list[Tensor] = []
        events: dict[str, Events] = {}
        residuals: dict[str, Tensor] = {}
        for group in self._groups:
            side = group.side
            events[side] = self._events(batch, group)
            bias, count = self.biases[side](events[side])
            residuals[side] = events[side].values - bias.index_select(0, events[side].rows)
            parts += [bias, count]
        for head in self._heads:
            # No more than it reads: to be given what learns and not to depend on it is a fault that the audit names.
            of_source = None if head.source is None else {name: vectors[head.source][name] for name in head.features}
            parts.append(head(events[head.side], residuals[head.side], of_source))
        parts.append(self.factors(events, residuals, vectors[FACTORS]))
        return torch.cat(parts, dim=1)

    def _events(self, batch: Batch, group: EventGroup) -> Events:
        """The side's events, in training some of them hidden, and of some rows all."""
        lists = batch.sparse[group.events]
        lengths, total = lists.lengths(), len(lists.values())
        rows = row_of_each(lengths, total)
        kept = _kept(self.event_dropout, batch.label.new_ones(total))
        if group.side == "user":
            kept = kept * _kept(self.history_dropout, torch.ones_like(batch.label)).index_select(0, rows)
        values = [batch.lists[name] for name in group.values] or [batch.label.new_ones(total)]
        ages = batch.lists.get(group.ages) if group.ages and self._reads_gaps else None
        return Events(
            rows=rows,
            kept=kept,
            values=torch.stack(values, dim=1),
            num_rows=len(batch),
            gaps=None if ages is None else self.buckets.gaps(ages),
            ranks=self.buckets.ranks(place_from_end(lengths, rows)),
        )


def _kept(dropout: nn.Dropout, ones: Tensor) -> Tensor:
    """Ones, and zeros for what is dropped, where dropout would scale up what it keeps."""
    return (dropout(ones) > 0).to(ones.dtype) if dropout.training and dropout.p else ones


def _sources(groups: Sequence[EventGroup], contract: FeatureContract, shape: HistoryShape) -> dict[str, VectorSource]:
    table_of = {feature.name: feature.table for feature in contract.schema.sparse}

    def by_table(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for pair in pairs for name in pair):
            found.setdefault(table_of[name], []).append(name)
        return found

    ids = by_table([(group.own, group.events) for group in groups])
    attributes = by_table([pair for group in groups for pair in group.attributes])
    rows = contract.table_rows
    found = {
        IDS: VectorSource(ids, rows, shape.key_width + _BIAS_COLUMNS, _KEY_SPREAD),
        FACTORS: VectorSource(ids, rows, 2 * shape.factor_width, _FACTOR_SPREAD),
    }
    if attributes:
        found[ATTRIBUTES] = VectorSource(attributes, rows, shape.key_width, _KEY_SPREAD)
    user = next((group for group in groups if group.side == "user"), None)
    if shape.vectors_width and user is not None:
        found[VECTORS] = VectorSource(by_table([(user.own, user.events)]), rows, shape.vectors_width, _KEY_SPREAD)
    return found


def _heads_of(group: EventGroup, shape: HistoryShape) -> Iterator[tuple[str, EventHead]]:
    """Yield the heads over a side's events, by name."""
    pairs, dropout, has_gaps = [(group.own, group.events)], shape.key_dropout, bool(group.ages) and shape.reads_gaps
    yield f"{group.side}_recency", EventHead(group, [], None, has_gaps=has_gaps)
    of_ids = EventHead(group, pairs, IDS, bias_columns=_BIAS_COLUMNS, dropout=dropout, has_gaps=has_gaps)
    yield f"{group.side}_{IDS}", of_ids
    if group.attributes:
        yield f"{group.side}_{ATTRIBUTES}", EventHead(group, group.attributes, ATTRIBUTES, has_gaps=has_gaps)
    if group.side == "user" and shape.vectors_width:
        yield f"user_{VECTORS}", EventHead(group, pairs, VECTORS, has_gaps=has_gaps)
        projection = nn.Linear(shape.vectors_width, shape.projection_width, bias=False)
        # The vectors come by their principal components, the first of which it starts as.
        nn.init.eye_(projection.weight)
        yield "user_projected", EventHead(group, pairs, VECTORS, projection=projection, has_gaps=has_gaps)


def _no_rows(vectors: Looked, width: int) -> Tensor:
    """A (0, width) tensor whose graph still reaches every table."""
    reached = torch.stack([each[:0].sum() for source in vectors.values() for each in source.values()]).sum()
    return reached.expand(1, width)[:0]
