"""The tower and the ranker learn from different days, so that the ranker meets labels that the tower has not seen."""

import pytest

from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.progress import silent
from recsys.run.prepare import run as prepare
from recsys.run.streams import divided_days, ranker_stream, started


@pytest.fixture(scope="module")
def encoded(small_world: list[str]) -> EncodedDataset:
    return prepare(compose_config(small_world), silent)


def test_the_tower_gets_the_earliest_days_and_the_ranker_all_after_them(encoded: EncodedDataset):
    tower, ranker = divided_days(encoded, 0.4)
    assert [*tower, *ranker] == list(encoded.days("train"))
    assert max(tower) < min(ranker)
    rows = encoded.days("train")
    share = sum(rows[day] for day in tower) / encoded.rows("train")
    assert 0.4 <= share < 0.4 + max(rows.values()) / encoded.rows("train")


def test_a_share_of_zero_gives_every_day_to_both(encoded: EncodedDataset):
    tower, ranker = divided_days(encoded, 0)
    assert tower == ranker == list(encoded.days("train"))


def test_the_ranker_keeps_a_day_however_large_the_share(encoded: EncodedDataset):
    tower, ranker = divided_days(encoded, 0.999)
    assert len(ranker) == 1
    assert ranker[0] not in tower


def test_the_rankers_stream_has_just_its_days_rows(small_world: list[str], encoded: EncodedDataset):
    config = compose_config([*small_world, "training.tower_day_share=0.4"])
    stream = ranker_stream(config, encoded, started(config))
    rows = encoded.days("train")
    _, days = divided_days(encoded, 0.4)
    assert stream.num_rows == sum(rows[day] for day in days) < encoded.rows("train")
