"""What a run tells of imported vectors, and when it fails for them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.ranker import Ranker
from recsys.config.compose import compose_config
from recsys.errors import TrainingError, UsageError
from recsys.features.schema import FeatureKind
from recsys.progress import silent
from recsys.run import prepare
from recsys.run.imported_vectors import (
    SPLITS,
    attach_receipt,
    attributes_of,
    reads_tables,
    require_learning,
    traffic_of,
)
from recsys.run.streams import scoring_stream, started
from recsys.towers.artifact import TowerArtifact
from recsys.towers.embedding import TowerSpec
from tests.small_model import JOINED_WIDTH, ROWS, SEGMENTS, TOWER_WIDTH, batch_of, small_ranker, small_schema


def imported_ranker(*, is_routed_past_it: bool) -> tuple[Ranker, TowerArtifact]:
    spec = TowerSpec.imported(small_schema(), width=TOWER_WIDTH)
    routes = [["interaction_network"]] * len(SEGMENTS)
    ranker = small_ranker(
        lambda p: (
            SegmentRoutedComposition(p, routes, None)
            if is_routed_past_it
            else ParallelComposition(p, ConcatJoin(JOINED_WIDTH))
        ),
        spec=spec,
    )
    return ranker, TowerArtifact(spec, ranker.embedding_tower.state_dict(), {"made_by": "import"})


@pytest.mark.parametrize("is_frozen", [False, True])
def test_other_vectors_in_the_tables_change_a_logit_only_where_the_composition_reads_them(is_frozen: bool):
    for is_routed_past_it in (False, True):
        ranker, _ = imported_ranker(is_routed_past_it=is_routed_past_it)
        ranker.embedding_tower.is_frozen = is_frozen
        before = {name: value.clone() for name, value in ranker.state_dict().items()}

        assert reads_tables(ranker, batch_of(ROWS)) != is_routed_past_it
        assert all(value.equal(before[name]) for name, value in ranker.state_dict().items())


def attached_by(ranker: Ranker, artifact: TowerArtifact) -> dict[str, str]:
    attached: dict[str, str] = {}
    attach_receipt(SimpleNamespace(attach=attached.__setitem__), artifact, ranker, [batch_of(ROWS)])
    return attached


def test_a_run_whose_ranker_reads_no_imported_vector_fails():
    with pytest.raises(
        TrainingError, match=r"`ebc.embedding_bags.tower_item_id.weight` is not reached.* of 6 rows of 1"
    ):
        attached_by(*imported_ranker(is_routed_past_it=True))


def test_a_run_whose_table_is_another_than_what_was_imported_fails():
    ranker, artifact = imported_ranker(is_routed_past_it=False)
    other = {name: weight + 1e-3 for name, weight in artifact.weights.items()}

    assert list(attached_by(ranker, artifact)) == ["import_receipt.json"]
    with pytest.raises(TrainingError, match=r"had the digest .* when it was imported and has"):
        attached_by(ranker, replace(artifact, weights=other))


def test_vectors_to_be_learned_need_a_mode_in_which_tables_learn():
    words = ["tower=title_vectors", "tower.missing_vectors=learned"]

    require_learning(compose_config([*words, "training_mode=staged_top_first"]))
    with pytest.raises(UsageError, match=r"`training_mode=frozen_tower` the tower.s tables never learn"):
        require_learning(compose_config([*words, "training_mode=frozen_tower"]))


def test_rows_of_each_item_are_counted_by_split_and_segment_and_its_attributes_over_training_rows(
    small_world: list[str],
):
    config = compose_config(small_world)
    encoded = prepare.run(config, silent)
    schema = encoded.contract.schema
    streams = {split: list(scoring_stream(config, encoded, split, started(config))) for split in SPLITS}

    traffic, attributes = traffic_of(encoded), attributes_of(encoded).toarray()

    for split, batches in streams.items():
        expected = np.zeros_like(traffic.rows[split])
        for batch in batches:
            np.add.at(expected, (batch.segment.numpy(), batch.sparse[schema.item].values().numpy()), 1)
        np.testing.assert_array_equal(traffic.rows[split], expected)
    # Of the item tower's ids but the item's own: category and tags. Both are always the same of an item here.
    names = [each.name for each in schema.used_by("item_tower") if each.kind is not FeatureKind.DENSE]
    assert names == ["item_id", "category", "tags"]
    categories = encoded.contract.table_rows["category"]
    batch = streams["train"][0]
    item, category = (int(batch.sparse[name].values()[0]) for name in ("item_id", "category"))
    tags = batch.sparse["tags"].to_dense()[0].long().tolist()
    assert np.flatnonzero(attributes[item]).tolist() == [category, *sorted(categories + tag for tag in tags)]
    assert attributes[item][category] == attributes[item][categories + tags[0]]
