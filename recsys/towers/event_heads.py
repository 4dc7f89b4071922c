"""What reads a side's events: by the keys of a source, by age and place alone, or as factors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.towers.event_groups import EventGroup
from recsys.towers.event_kernels import EventKernel, EventProfile, Events

# Where beta starts: what a user met is told apart more sharply than who met an item.
_SHARPNESS = {"user": 3.0, "item": 1.5}


class EventHead(nn.Module):
    """One way to weigh a side's events: by keys of one source, or by age and place alone.

    Args:
        pairs: the row's feature and the list that is compared with it; of several, the keys are added up.
        source: whose vectors are the keys; None for a head without.
        bias_columns: how many of a vector's last numbers are, by their mean, a bias of the event.
        projection: through which the keys come; None for none.
        dropout: of the keys' numbers.
    """

    start: Tensor

    def __init__(
        self,
        group: EventGroup,
        pairs: Sequence[tuple[str, str]],
        source: str | None,
        *,
        bias_columns: int = 0,
        projection: nn.Linear | None = None,
        dropout: float = 0.0,
        has_gaps: bool,
    ) -> None:
        super().__init__()
        self.side, self.source, self.is_frozen, self.stays_frozen = group.side, source, False, False
        self._pairs, self._bias_columns = tuple(pairs), bias_columns
        self.kernel = EventKernel(_SHARPNESS[group.side] if source else None, group.num_values, has_gaps=has_gaps)
        self.projection = projection
        if projection is not None:
            self.register_buffer("start", projection.weight.detach().clone(), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.output_width = self.kernel.output_width

    @property
    def features(self) -> tuple[str, ...]:
        """The features whose vectors it reads."""
        return tuple(name for pair in self._pairs for name in pair)

    def forward(self, events: Events, values: Tensor, vectors: Mapping[str, Tensor] | None) -> Tensor:
        """Return (B, C + 1); see `EventKernel`.

        Args:
            values: (E, C).
            vectors: of the head's source, by feature.
        """
        if vectors is None:
            return self.kernel(events, values, None, None, None)
        own = torch.stack([vectors[name] for name, _ in self._pairs]).sum(dim=0)  # (B, D)
        met = torch.stack([vectors[name] for _, name in self._pairs]).sum(dim=0)  # (E, D)
        width = own.shape[1] - self._bias_columns
        bias = met[:, width:].mean(dim=1) if self._bias_columns else None
        return self.kernel(events, values, self._keys(own[:, :width]), self._keys(met[:, :width]), bias)

    def projection_drift(self) -> Tensor:
        """Return the squared distance of the projection from where it started, a scalar."""
        assert self.projection is not None
        return (self.projection.weight - self.start).square().sum()

    def _keys(self, vectors: Tensor) -> Tensor:
        keys = self.dropout(vectors.float())
        return keys if self.projection is None else self.projection(keys)


class FactorHead(nn.Module):
    """p, q and p * q, of the user and the item: factors of their ids and of what they met.

    An id's own factor counts only where something of it was seen: before that it is whatever it started as.

    Args:
        width: F, of each factor; a source's vector holds an id's own and, behind it, what it is as an event.
    """

    def __init__(self, groups: Sequence[EventGroup], width: int) -> None:
        super().__init__()
        self._groups, self._width = tuple(groups), width
        self.is_frozen = self.stays_frozen = False
        self.profiles = nn.ModuleDict({group.side: EventProfile(group.num_values) for group in groups})
        self.output_width = 3 * width

    def forward(
        self, events: Mapping[str, Events], values: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (B, 3 F).

        Args:
            events: by side; and `values`, (E, C) each.
            vectors: by feature, (ids, 2 F).
        """
        user: list[Tensor] = []
        item: list[Tensor] = []
        for group in self._groups:
            of_side, of_other = (user, item) if group.side == "user" else (item, user)
            profile = self.profiles[group.side]
            of_side.append(profile(events[group.side], values[group.side], vectors[group.events][:, self._width :]))
            other = next((each for side, each in events.items() if side != group.side), None)
            own = vectors[group.own][:, : self._width]
            of_other.append(own if other is None else own * (other.counts() > 0))
        p, q = torch.stack(user).sum(dim=0), torch.stack(item).sum(dim=0)
        return torch.cat([p, q, p * q], dim=1)
