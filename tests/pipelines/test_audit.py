"""`recsys audit` as a user types it, and the audit that stands before every run's first step."""

import json
from pathlib import Path

import pytest
import torch

from pipelines.cli import main
from recsys.config.compose import choices, compose_config
from recsys.errors import TrainingError
from recsys.interactions.cross import CrossNetwork
from recsys.progress import silent
from recsys.run.audit import REPORT, make_probes, run
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES, modules_frozen_in
from tests.composition.test_compositions import ranker_with
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, SEGMENTS, batch_of

CROSSING = "interaction_network.crossing"
ROUTES = (
    "composition.routes={students: [embedding_tower], commuters: [interaction_network], "
    "families: [embedding_tower, interaction_network], collectors: [interaction_network]}"
)


@pytest.fixture
def stray_detach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crossing's output leaves its graph behind."""
    forward = CrossNetwork.forward
    monkeypatch.setattr(CrossNetwork, "forward", lambda self, fields: forward(self, fields).detach())


@pytest.mark.parametrize("mode", ["end_to_end", "frozen_tower"])
@pytest.mark.parametrize(
    "composition",
    [
        ["composition=sequential"],
        ["composition=parallel"],
        ["composition=conditional"],
        ["composition=conditional_route", ROUTES],
        ["composition=parallel_conditional"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_a_sound_ranker_ends_with_0(
    small_world: list[str], composition: list[str], mode: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["audit", *small_world, *composition, f"training_mode={mode}"]) == 0

    printed = capsys.readouterr().out
    assert "Every loss reaches every part that it should, and no other." in printed
    assert ("frozen │" in printed) == (mode == "frozen_tower")


@pytest.mark.parametrize("network", choices("network"))
def test_every_network_is_clean_with_dropout_too(small_world: list[str], network: str):
    config = compose_config([*small_world, f"network={network}", "network.dropout=0.5", "composition=sequential"])

    assert run(config, silent).findings == ()


def test_a_stray_detach_ends_with_70_and_is_named(
    small_world: list[str], stray_detach: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    report = tmp_path / "flow.json"

    assert main(["audit", *small_world, "composition=conditional", "--json", str(report)]) == 70

    printed = capsys.readouterr().out
    assert f"blocked at `{CROSSING}`" in printed
    assert " !" in printed  # the marked cells
    (finding,) = json.loads(report.read_text())["findings"]
    assert (finding["kind"], finding["place"]) == ("blocked", CROSSING)


def test_a_run_with_a_stray_detach_fails_before_its_first_step_and_names_it(
    small_world: list[str], stray_detach: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    overrides = [*small_world, f"runtime.runs={tmp_path}/runs"]

    assert main(["train", *overrides]) == 70

    told = capsys.readouterr().err
    assert "before the first step" in told
    assert f"blocked at `{CROSSING}`" in told
    left = {path.name for path in (tmp_path / "runs").rglob("*")}
    assert not left & {"checkpoints", "result.json"}
    assert REPORT in left  # attached to the failed run


def test_every_segment_is_probed_with_its_own_rows():
    probes = make_probes(ranker_with("conditional route"), [batch_of(ROWS[:3]), batch_of(ROWS[3:])], SEGMENTS)

    assert [probe.segment for probe in probes] == list(SEGMENTS)
    # Segments 0, 2, 0 in the first batch and 1, 2, 0 in the second: of each segment the batch with most of its rows.
    assert [probe.batch.segment.tolist() for probe in probes] == [[0, 0], [1], [2]]
    assert probes[0].batch.dense[:, 0].tolist() == pytest.approx([ROWS[0].age, ROWS[2].age])
    assert probes[1].reaches == {"interaction_network", "composition.projection.network", "head"}
    assert not any(probe.is_made_up for probe in probes)


def test_a_segment_without_rows_gets_made_up_ones_and_it_is_said():
    probes = make_probes(ranker_with("concat"), [batch_of(ROWS_WITHOUT_LIGHT)], SEGMENTS)

    assert [probe.is_made_up for probe in probes] == [False, True, False]
    assert probes[1].batch.segment.tolist() == [1, 1, 1]
    assert torch.equal(probes[1].batch.dense, probes[0].batch.dense)


def test_rows_of_no_weight_are_no_probe():
    batch = batch_of(ROWS)
    batch.weight.zero_()

    with pytest.raises(TrainingError, match="No row among the first of the training split has a weight above 0"):
        make_probes(ranker_with("concat"), [batch], SEGMENTS)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (END_TO_END, ()),
        (FROZEN_TOWER, ("embedding_tower",)),
        (TOWER_TABLES, ("embedding_tower.user_side", "embedding_tower.item_side")),
        (TOWER_DENSE, ("embedding_tower.ebc",)),
    ],
)
def test_a_mode_says_what_is_frozen(mode: str, expected: tuple[str, ...]):
    assert modules_frozen_in(ranker_with("concat"), mode) == expected
