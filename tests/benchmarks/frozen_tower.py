"""What a frozen tower, and a frozen tower whose vectors are cached, save of a training step.

    python tests/benchmarks/frozen_tower.py [--turns 8] [--device cuda]

Three runs of one ranker through the real loop: end to end, frozen, frozen with cache. They take turns on the same
batches. The tower has twice the interaction network's floating-point operations (counted by
`torch.utils.flop_counter`, printed), so with a backward pass of twice the forward's cost the least possible ratios are
5/9 = 0.56 and 3/9 = 0.33, table look-ups, joining layers and optimizers left aside.

The rows are sessions of ten impressions over 30 days: a user's dense features and recent items change from session to
session, an item's dense features from day to day, so that neither side is known by its id alone. Times are processor
times of one thread unless they are said to be by the clock, or computed on a GPU, which is awaited after every step;
quartiles are those of the turns' own ratios.
"""

import argparse
import collections
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from training_run import Repeated, TrainingRun, add_device, moment

from recsys.composition.branches import BranchProjection, Composition
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.ranker import Head, Ranker
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.schema import FeatureSchema
from recsys.interactions.cross import CrossNetwork
from recsys.interactions.fields import InteractionFields
from recsys.interactions.network import InteractionNetwork
from recsys.sharding.processes import ProcessContext, start_processes, stop_processes
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.tower_spec import TowerSpec
from recsys.training.cache import TowerCache
from recsys.training.modes import apply_training_mode

BATCH, BATCHES, STEPS_A_TURN = 4096, 16, 8
SESSION, DAYS, RECENT, SEGMENTS = 10, 30, 20, 2
TABLES = {"user_id": 50_000, "country": 50, "device": 20, "item_id": 20_000, "brand": 1_000, "category": 200}
USER_DENSE, ITEM_DENSE = 4, 4
TOWER_WIDTH, TABLE_WIDTH, FIELD_WIDTH, CROSS_LAYERS, NETWORK_HIDDEN = 32, 32, 16, 2, (1024, 256)
# Chosen so that the tower's forward pass has twice the operations of the interaction network's.
TOWER_HIDDEN = (736, 744)
MEGABYTES = 256
MODES = {"end_to_end": ("end_to_end", False), "frozen": ("frozen_tower", False), "cached": ("frozen_tower", True)}
"""Training mode, and whether the tower's vectors are cached."""


def contract(num_segments: int) -> FeatureContract:
    """Six ids, a list and eight numbers: all for the interaction network, half of them for each side of the tower."""
    network, schema = "interaction_network", []
    for side, names in (("user_tower", list(TABLES)[:3]), ("item_tower", list(TABLES)[3:])):
        schema += [{"name": name, "kind": "sparse", "used_by": [side, network]} for name in names]
    schema.append(
        {
            "name": "recent",
            "kind": "sparse_list",
            "max_length": RECENT,
            "table": "item_id",
            "used_by": ["user_tower", network],
        }
    )
    dense = [(f"user_{number}", "user_tower") for number in range(USER_DENSE)]
    dense += [(f"item_{number}", "item_tower") for number in range(ITEM_DENSE)]
    schema += [{"name": name, "kind": "dense", "used_by": [side, network]} for name, side in dense]
    segments = [f"segment_{number}" for number in range(num_segments)]
    document = {"name": "sessions", "segment": "segment", "segments": segments, "label": "click", "time": "at"}
    return FeatureContract(
        FeatureSchema.from_document(document | {"user": "user_id", "item": "item_id", "features": schema}),
        table_rows=TABLES,
        vocabulary_fingerprints=dict.fromkeys(TABLES, "made up"),
        scaling={name: Scaling(0.0, 1.0) for name, _ in dense},
    )


def make_batches(seed: int, batch_size: int, num_batches: int, num_segments: int) -> list[Batch]:
    """Draw sessions, shuffle their impressions, and cut them into batches."""
    random = np.random.default_rng(seed)
    rows = batch_size * num_batches
    sessions = -(-rows // SESSION)

    def zipf(table: str, *shape: int) -> np.ndarray:
        size = TABLES[table] - 1  # log-uniform: Zipf's exponent 1; row 0 is for ids never seen
        return 1 + np.minimum(size ** random.random(shape), size - 1).astype(np.int64)

    session = random.permutation(np.repeat(np.arange(sessions), SESSION)[:rows])
    user, day, item = zipf("user_id", sessions), random.integers(DAYS, size=sessions), zipf("item_id", rows)
    recent, lengths = zipf("item_id", sessions, RECENT), random.integers(RECENT + 1, size=sessions)
    user_numbers = random.standard_normal((sessions, USER_DENSE), np.float32)
    item_numbers = random.standard_normal((DAYS, TABLES["item_id"], ITEM_DENSE), np.float32)
    ids = [user[session], user[session] % 50, user[session] % 20, item, item % 1_000, item % 200]
    dense = np.concatenate([user_numbers[session], item_numbers[day[session], item]], axis=1)
    label = (random.random(rows) < 0.25).astype(np.float32)
    segment = random.integers(num_segments, size=rows)
    return [
        _batch(
            [column[part] for column in ids],
            recent[session[part]],
            lengths[session[part]],
            dense[part],
            segment[part],
            label[part],
            num_segments,
        )
        for part in np.split(np.arange(rows), num_batches)
    ]


def _batch(
    ids: list[np.ndarray],
    recent: np.ndarray,
    lengths: np.ndarray,
    dense: np.ndarray,
    segment: np.ndarray,
    label: np.ndarray,
    num_segments: int,
) -> Batch:
    is_there, rows = np.arange(RECENT) < lengths[:, None], len(label)
    return Batch(
        dense=torch.from_numpy(dense),
        sparse=KeyedJaggedTensor(
            keys=[*TABLES, "recent"],
            values=torch.from_numpy(np.concatenate([*ids, recent[is_there]])),
            lengths=torch.from_numpy(np.concatenate([np.ones(len(ids) * rows), lengths]).astype(np.int32)),
            length_per_key=[*[rows] * len(ids), int(lengths.sum())],
        ),
        segment=torch.from_numpy(segment),
        label=torch.from_numpy(label),
        weight=torch.ones(rows),
        segment_counts=tuple(np.bincount(segment, minlength=num_segments).tolist()),
    )


def side_by_side(projection: BranchProjection) -> Composition:
    """Tower and network joined by concatenation."""
    return ParallelComposition(projection, ConcatJoin(projection.width))


def make_ranker(compose: Callable[[BranchProjection], Composition], num_segments: int) -> Ranker:
    """The tower and a cross network, and what joins them."""
    torch.manual_seed(0)
    given = contract(num_segments)
    spec = TowerSpec.two_tower(
        given.schema, width=TOWER_WIDTH, table_dimension=TABLE_WIDTH, hidden_widths=list(TOWER_HIDDEN)
    )
    tower = EmbeddingTower(spec, given)
    fields = InteractionFields(given, FIELD_WIDTH, has_tower_field=False)
    crossing = CrossNetwork(fields.num_fields, FIELD_WIDTH, num_layers=CROSS_LAYERS)
    network = InteractionNetwork(fields, crossing, NETWORK_HIDDEN, dropout=0.0)
    composition = compose(BranchProjection(tower.output_width, network.output_width, 64))
    return Ranker(tower, network, composition, Head(composition.output_width, [64], dropout=0.0, first_order=None))


def count_operations(batch: Batch) -> dict[str, float]:
    """Return the floating-point operations of one row's forward pass, by part."""
    ranker = make_ranker(side_by_side, SEGMENTS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ranker(batch)
    counts = counter.get_flop_counts()
    parts = {name: sum(counts[f"Ranker.{name}"].values()) / BATCH for name, _ in ranker.named_children()}
    # The composition calls tower and network, whose operations are counted in it too.
    parts["composition"] -= parts["embedding_tower"] + parts["interaction_network"]
    return parts


@dataclass
class Seconds:
    """Per step: of this thread's processor, and on the clock."""

    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)


class Variant:
    """One run of a ranker.

    Attributes:
        cache: of a frozen tower's vectors, where the variant has one.
    """

    def __init__(self, ranker: Ranker, mode: str, has_cache: bool, context: ProcessContext) -> None:
        self.run = TrainingRun(ranker, context, apply_training_mode(ranker, mode))
        self.cache = TowerCache(self.run.wrapped, MEGABYTES, context) if has_cache else None
        self._device = context.device

    def turn(self, batches: Repeated) -> Seconds:
        """Take some steps and return the times of those that neither begin nor end the turn."""
        marks: list[tuple[float, float]] = []
        reports = self.run.steps(
            batches,
            STEPS_A_TURN,
            after_step=lambda: marks.append((moment(self._device), time.perf_counter())),
        )
        collections.deque(reports, maxlen=0)
        steps = list(itertools.pairwise(marks))[:-1]
        return Seconds([b[0] - a[0] for a, b in steps], [b[1] - a[1] for a, b in steps])


def measure(turns: int, device: str) -> dict[str, float]:
    """Return each variant's median step over the end-to-end one's, and what lies around it.

    The first turns, in which the cache meets every row for the first time, are counted apart.
    """
    torch.set_num_threads(1)
    context = start_processes(device)
    batches = make_batches(0, BATCH, BATCHES, SEGMENTS)
    operations = count_operations(batches[0])
    on_device = [batch.to(context.device) for batch in batches]
    streams = {name: Repeated(on_device) for name in MODES}
    variants = {name: Variant(make_ranker(side_by_side, SEGMENTS), *how, context) for name, how in MODES.items()}
    cold = BATCHES // STEPS_A_TURN
    times: dict[str, list[Seconds]] = {name: [] for name in variants}
    for _ in range(cold + turns):
        for name, variant in variants.items():
            times[name].append(variant.turn(streams[name]))
    cache = variants["cached"].cache.record()
    stop_processes()
    figures = {f"{name}_operations_per_row": count for name, count in operations.items()}
    figures["tower_over_network_operations"] = operations["embedding_tower"] / operations["interaction_network"]
    for name in ("frozen", "cached"):
        figures |= _ratios(name, times[name][cold:], times["end_to_end"][cold:])
    first = statistics.median(_steps(times["cached"][:cold]))
    figures["cached_first_epoch_over_end_to_end"] = first / statistics.median(_steps(times["end_to_end"][cold:]))
    figures["end_to_end_step_ms"] = 1000 * statistics.median(_steps(times["end_to_end"][cold:]))
    figures["cache_answered_share"] = cache["answered_share"]
    figures["cache_largest_gap"] = cache["largest_gap"]
    return figures


def _ratios(name: str, own: list[Seconds], base: list[Seconds]) -> dict[str, float]:
    """The ratio of medians by processor time and by the clock; and the quartiles of the turns' own ratios."""
    by_turn = [statistics.median(a.processor) / statistics.median(b.processor) for a, b in zip(own, base, strict=True)]
    lower, _, upper = statistics.quantiles(by_turn, n=4)
    clocks = [statistics.median([step for turn in turns for step in turn.clock]) for turns in (own, base)]
    return {
        f"{name}_over_end_to_end": statistics.median(_steps(own)) / statistics.median(_steps(base)),
        f"{name}_over_end_to_end_lower_quartile": lower,
        f"{name}_over_end_to_end_upper_quartile": upper,
        f"{name}_over_end_to_end_by_the_clock": clocks[0] / clocks[1],
    }


def _steps(turns: list[Seconds]) -> list[float]:
    return [step for turn in turns for step in turn.processor]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8, help=f"of {STEPS_A_TURN} steps each, after the first epoch")
    add_device(parser)
    options = parser.parse_args()
    print(json.dumps(measure(options.turns, options.device), indent=1))
