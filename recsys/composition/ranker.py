"""Ranker: the whole model, from a batch to one logit a row."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from recsys.composition.branches import Composition, TowerBranch
from recsys.composition.members import Member, MemberMlp, member_outputs
from recsys.composition.own_draws import drops, with_own_draws
from recsys.composition.segment_rungs import (
    ADAPTER,
    ADAPTERS_PART,
    COPIED,
    COPIES_PART,
    FROZEN,
    SegmentRungs,
    TowerAdapters,
    TowerBySegment,
    TowerCopies,
)
from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.id_dropout import with_unknown_ids
from recsys.interactions.first_order import FirstOrder
from recsys.interactions.mlp import Mlp
from recsys.interactions.network import InteractionNetwork
from recsys.towers.any_tower import Tower

LABEL_ALONE = ("label",)
"""The outputs of a head that says nothing but the logit of the label."""


class Head(nn.Module):
    """The last layers: the joined vector becomes logits, to each of which the row's first-order weights are added.

    With several members (`members.py`) each has logits of its own, and the row's logit is their mean. With several
    outputs, as for thresholds of a graded label, one of them is the logit of the label.

    Args:
        first_order: None for a ranker without; see `FirstOrder`.
        members: M; more than one need at least one hidden layer.
        outputs: what each of the T outputs is called.
        answer: which of them is the logit of the label.
    """

    def __init__(
        self,
        input_width: int,
        hidden_widths: Sequence[int],
        dropout: float,
        first_order: FirstOrder | None,
        *,
        members: int = 1,
        outputs: Sequence[str] = LABEL_ALONE,
        answer: int = 0,
    ) -> None:
        super().__init__()
        self.output_names, self.answer = tuple(outputs), answer
        self.hidden: Mlp | MemberMlp
        self.output: nn.Linear | None = None
        self.members: nn.ModuleList | None = None
        if members == 1:
            self.hidden = Mlp(input_width, hidden_widths, dropout)
            self.output = nn.Linear(self.hidden.output_width, len(outputs))
        else:
            self.hidden = MemberMlp(input_width, hidden_widths, dropout)
            widths = [input_width, *hidden_widths]
            self.members = nn.ModuleList(Member(widths, len(outputs)) for _ in range(members))
        self.first_order = first_order

    def start_from(
        self, intercept: float, dense: Sequence[float], ids: Mapping[str, Tensor], offsets: Sequence[float] = ()
    ) -> None:
        """Start as a fitted logistic regression; the layers, still untrained, add almost nothing to its logit.

        Call it before the tables are sharded; a head without a first-order path is left unchanged.

        Args:
            dense: one weight per dense feature of the schema, in its order.
            ids: sparse feature -> (rows of its table,), one weight per row.
            offsets: by how much the logit of each of the T outputs exceeds the label's; () where they are not known.
        """
        if self.first_order is None:
            return
        self.first_order.load_logistic(dense, ids)
        with torch.no_grad():
            for output in self._output_layers():
                output.bias.copy_(torch.tensor(offsets or [0.0] * len(self.output_names)) + intercept)

    def look_up(self, batch: Batch) -> Tensor | None:
        """Return what the first-order weights give for the ids of every row, (B,); None where there are none."""
        return None if self.first_order is None else self.first_order.look_up(batch)

    def outputs(self, joined: Tensor, batch: Batch, looked_up: Tensor | None = None) -> Tensor:
        """Return every member's outputs, (B, M, T); arguments as of `forward`."""
        outputs: Tensor = self(joined, batch, looked_up, of_members=True)
        return outputs

    def forward(
        self, joined: Tensor, batch: Batch, looked_up: Tensor | None = None, *, of_members: bool = False
    ) -> Tensor:
        """Map vectors to logits.

        Args:
            joined: (B, input_width).
            batch: whose rows these are.
            looked_up: what `look_up` gave for the batch; None to look it up now.
            of_members: return what `outputs` does; in here, so that hooks on the head see either.

        Returns:
            (B,).
        """
        outputs = self._layers(joined)
        if self.first_order is not None:
            # A score is single whatever the layers computed in: in bfloat16 a logit of 3 is right to 0.01 alone.
            with torch.autocast(joined.device.type, enabled=False):
                outputs = outputs + self.first_order(batch, looked_up)[:, None, None]
        return outputs if of_members else self.logit(outputs)

    def logit(self, outputs: Tensor) -> Tensor:
        """Return the logit of the label, (B,), of the outputs (B, M, T): the members' mean."""
        answers = outputs[:, :, self.answer]
        return answers.squeeze(1) if self.members is None else answers.mean(dim=1)

    def _layers(self, joined: Tensor) -> Tensor:
        """What the layers alone give, (B, M, T), single."""
        if self.output is not None:
            hidden = self.hidden(joined)
            with torch.autocast(joined.device.type, enabled=False):
                return self.output(hidden.float()).unsqueeze(1)
        assert self.members is not None
        *own, weight, bias = (torch.stack(each) for each in zip(*(member() for member in self.members), strict=True))
        hidden = self.hidden(joined, own)
        with torch.autocast(joined.device.type, enabled=False):
            return member_outputs(hidden.float(), weight, bias)

    def _output_layers(self) -> list[nn.Linear]:
        if self.output is not None:
            return [self.output]
        return [member.output for member in self.members or () if isinstance(member, Member)]


class Ranker(nn.Module):
    """Four parts with fixed names, by which the run wing freezes, measures and reports them; six where segments learn.

    The one ranker class: compositions and interaction networks vary inside. Its first parameters depend on the random
    seed and the parts alone, never on the training mode, so that two arms of an ablation start from the same logits.

    Attributes:
        id_dropout: the probability with which an id is taken for an unknown one in training mode; see
            `with_unknown_ids`. A tower that is frozen, and so in evaluation mode, is given the ids themselves.
        rungs: what each segment may change of the tower, which is frozen then; None where one mode holds for all.
        tower_adapters, tower_copies: what the segments learn of it; None where no segment does so.
    """

    tower_adapters: TowerAdapters | None
    tower_copies: TowerCopies | None

    def __init__(
        self,
        embedding_tower: Tower,
        interaction_network: InteractionNetwork,
        composition: Composition,
        head: Head,
    ) -> None:
        super().__init__()
        self.embedding_tower = embedding_tower
        self.interaction_network = interaction_network
        self.composition = composition
        self.head = head
        self.id_dropout = 0.0
        self._tower_drops = drops(embedding_tower)
        self.rungs: SegmentRungs | None = None
        self.tower_adapters = self.tower_copies = None

    def learn_by_segment(self, rungs: SegmentRungs, contract: FeatureContract) -> None:
        """Let every segment change of the tower what its rung says; call it before the ranker is wrapped.

        Raises:
            UsageError: a rung is about layers that the tower has not, or is one that learns and of a segment whose rows
                the composition keeps from the tower.
        """
        tower = self.embedding_tower
        for segment, rung in enumerate(rungs.of_segments):
            if rung != FROZEN and "embedding_tower" not in self.composition.reached_by(segment):
                raise UsageError(
                    f"Segment {segment} has the rung `{rung}`, and the composition's route for it leaves the tower "
                    "out, so that nothing would be learned. Set its rung to `frozen`, or route it through the tower."
                )
        self.rungs = rungs
        self.tower_adapters = TowerAdapters(rungs, tower.output_width) if rungs.segments_on(ADAPTER) else None
        self.tower_copies = TowerCopies(rungs, tower.spec, contract) if rungs.copies else None

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return the names of the modules that the loss of a segment's rows must reach, where they learn."""
        members = range(len(self.head.members or ()))
        joined = self.composition.reached_by(segment)
        own = self._own_delta(segment) if "embedding_tower" in joined else ()
        return joined | {"head", *(f"head.members.{number}" for number in members), *own}

    def _own_delta(self, segment: int) -> tuple[str, ...]:
        """The module that holds what a segment learns of the tower; of a copy, whose segments share it."""
        rung = None if self.rungs is None else self.rungs.of_segments[segment]
        if rung == ADAPTER:
            return (f"{ADAPTERS_PART}.{segment}",)
        return (f"{COPIES_PART}.{rung}",) if rung in COPIED else ()

    def outputs(self, batch: Batch) -> Tensor:
        """Return what the head's M members say of every row, T outputs each, (B, M, T); see `Head`."""
        outputs: Tensor = self(batch, of_members=True)
        return outputs

    def forward(self, batch: Batch, *, of_members: bool = False) -> Tensor:
        """Return the logit of every row, (B,); what `outputs` does where that is asked for.

        All tables are looked up first, each with ids that the batch alone decides: what comes before a look-up (ids
        changing places or processes) can then be done for a batch that is still to come.
        """
        # Before the look-ups, and once, so that all parts take the same ids for unknown.
        seen = with_unknown_ids(batch, self.id_dropout) if self.training and self.id_dropout else batch
        of_tower = self.embedding_tower.look_up(seen if self.embedding_tower.training else batch)
        tower: TowerBranch = partial(self.embedding_tower, looked_up=of_tower)
        if self.rungs is not None:
            copies = self.tower_copies
            known = of_tower if seen is batch and isinstance(of_tower, list) else None
            of_copies = {} if copies is None else copies.look_up(self.embedding_tower, seen, known)
            tower = TowerBySegment(tower, self.rungs, self.tower_adapters, copies, of_copies)
        if self.training and self._tower_drops:
            tower = with_own_draws(tower)
        network = partial(self.interaction_network, looked_up=self.interaction_network.look_up(seen))
        of_ids = self.head.look_up(seen)
        joined = self.composition(batch, self.composition.with_adapter(tower), network)
        return self.head(joined, batch, of_ids, of_members=of_members)
