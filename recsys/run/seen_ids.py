"""The configured rungs of the user segments, and the ids for which their copies of the tower need rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.composition.ranker import Ranker
from recsys.composition.segment_rungs import COPIED, SegmentRungs
from recsys.config import RunConfig
from recsys.config.training_mode import OTHERS
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import UsageError, did_you_mean
from recsys.features.contract import FeatureContract
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.inspection.segment_ids import ids_of_segments
from recsys.run.streams import TRAIN
from recsys.sharding.processes import ProcessContext
from recsys.towers.tower_copy import TABLES, TowerCopy
from recsys.towers.tower_spec import TowerSpec


@dataclass(frozen=True)
class SeenIds:
    """For which ids the copies of the tower have rows.

    Attributes:
        rungs: what each segment may change.
        by_rung: of each rung that copies tables, by table, the table's rows that its segments look up, (n,) int64.
    """

    rungs: SegmentRungs
    by_rung: Mapping[str, Mapping[str, Tensor]]

    def start(self, ranker: Ranker) -> None:
        """Let the ranker's copies begin as its tower; call it when the tower has its weights."""
        for rung, copy in (ranker.tower_copies or {}).items():
            assert isinstance(copy, TowerCopy)
            copy.start_from(ranker.embedding_tower, self.by_rung.get(rung, {}))


def rungs_of(config: RunConfig, contract: FeatureContract) -> tuple[str, ...]:
    """Return the rung of every segment of the schema, in its order; () where one training mode holds for all.

    Raises:
        UsageError: a segment has no rung, or a rung is given to a segment that there is not.
    """
    rungs, segments = config.training_mode.rungs, contract.schema.segments
    for name in rungs:
        if name not in segments and name != OTHERS:
            raise UsageError(
                f"`training_mode.rungs` names the segment `{name}`, and the data has {', '.join(segments)}"
                f"{did_you_mean(name, segments)}. Use one of these, or `{OTHERS}` for all that are not named."
            )
    missing = [name for name in segments if name not in rungs and OTHERS not in rungs]
    if rungs and missing:
        raise UsageError(
            f"`training_mode.rungs` has no rung for the segment `{missing[0]}`. Name it, or give `{OTHERS}` a rung."
        )
    return tuple(rungs.get(name) or rungs[OTHERS] for name in segments) if rungs else ()


def widest_rungs(config: RunConfig, contract: FeatureContract) -> SegmentRungs | None:
    """Return the rungs as if every copy had a row for every id of its tables: what they can take at most.

    Raises:
        UsageError: see `rungs_of`.
    """
    if not (of_segments := rungs_of(config, contract)):
        return None
    copied = [rung for rung, halves in COPIED.items() if rung in of_segments and TABLES in halves]
    rows = {rung: dict(contract.table_rows) for rung in copied}
    return SegmentRungs(of_segments, config.training_mode.adapter_rank, rows)


def seen_ids(config: RunConfig, encoded: EncodedDataset, spec: TowerSpec, context: ProcessContext) -> SeenIds | None:
    """Find the ids that the segments of each copy look up in training rows; None where one mode holds for all.

    Every process calls it and reads its share of the rows.

    Raises:
        UsageError: see `rungs_of`.
        DataError: a file is damaged.
    """
    contract = encoded.contract
    if not (of_segments := rungs_of(config, contract)):
        return None
    groups = {
        rung: [number for number, each in enumerate(of_segments) if each == rung]
        for rung, halves in COPIED.items()
        if rung in of_segments and TABLES in halves
    }
    names = {*spec.user_features, *spec.item_features}
    features = [each.name for each in contract.schema.sparse if each.name in names]
    found: dict[str, dict[str, Tensor]] = {}
    if groups:
        read = ids_of_segments(encoded, TRAIN, features, groups, part=context.rank, parts=context.world_size)
        found = {
            rung: {table: _together(torch.from_numpy(seen), config, context) for table, seen in by_table.items()}
            for rung, by_table in read.items()
        }
    rows = {rung: {table: len(seen) + 1 for table, seen in by_table.items()} for rung, by_table in found.items()}
    return SeenIds(SegmentRungs(of_segments, config.training_mode.adapter_rank, rows), found)


def _together(seen: Tensor, config: RunConfig, context: ProcessContext) -> Tensor:
    """The rows, (n,) int64, that any process has found, of a table's (rows,) bool."""
    if config.training.id_dropout:
        seen[UNKNOWN_ROW] = True  # a step takes any id for the unknown one
    if context.world_size > 1:
        everywhere = seen.to(torch.uint8).to(context.device)
        dist.all_reduce(everywhere, op=dist.ReduceOp.MAX)
        seen = everywhere.cpu().bool()
    return seen.nonzero().squeeze(1)
