"""What the choices of groups come to is composed once; values that go on top of it are Hydra's own overrides."""

import shutil
from pathlib import Path

import pytest

from recsys.config import compose as composing
from recsys.config.compose import CONF, compose_config
from recsys.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["training.epochs=3", "network=dot", "network.dropout=0.3", "network=mask_serial"],
        ["network.hidden_widths=[4]", "experiment=smoke", "training.learning_rate=1e-3", "training.learning_rate=0.1"],
        ["trainer=gpu", "data=online_retail", "tracking=server", "training.batch_size=null", "tower=title_vectors"],
        ["ablation.grid={network:[cross,dot]}", "ablation.grid.network=[dot]", "ablation.contrast=network"],
        ["++network.knob={a: 1}", "network=mlp", "data.seed=4"],
        ["~network", "training.seed=2"],
        ["composition=conditional_route", "composition.routes={a: [embedding_tower], b: [interaction_network]}"],
    ],
)
def test_a_configuration_is_the_one_that_hydra_composes_from_all_words_at_once(words: list[str]) -> None:
    replaced = tuple(part for word in words for part in composing._replacing(word))
    at_once = composing._of_choices(replaced, composing._registered(), composing._newest_file())
    assert composing._composed(words) == at_once


def test_no_value_is_left_behind_for_whoever_composes_next() -> None:
    before = compose_config(["experiment=smoke"])
    assert compose_config(["experiment=smoke", "ablation.grid={network:[dot]}"]) != before
    with pytest.raises(UsageError, match=r"no key `training\.epoch`"):
        compose_config(["experiment=smoke", "training.seed=9", "training.epoch=1"])
    assert compose_config(["experiment=smoke"]) == before


def test_a_file_that_is_edited_meanwhile_counts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(composing, "CONF", conf)
    before = compose_config(["network=dot"])
    (conf / "network/dot.yaml").write_text((conf / "network/dot.yaml").read_text().replace("128", "127"))
    after = compose_config(["network=dot"])
    assert (before.network.hidden_widths[0], after.network.hidden_widths[0]) == (128, 127)
