"""Overrides: each has an effect or is refused by name; and a path or a text is taken as it was typed."""

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.commands import COMMANDS, RESUMED
from recsys.config import config_document
from recsys.config.compose import compose_config, keys_of
from recsys.config.overrides import on_top_of
from recsys.errors import UsageError
from recsys.run.folder import CONFIG, load_config
from recsys.study.plan import StudyGrid
from tests.pipelines.own_table import OwnTable

NAMES = [
    "a,b",
    "a=b",
    "price=5",
    "it's",
    '"quoted"',
    "[new] {rows} (1)",
    "${oc.env:HOME}",
    "$HOME",
    "a\\b",
    " blanks ",
    "null",
    "*?",
    "a#b:c@d|e",
    "tab\tand\nline",
    "größe",
    "-dash",
]


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that is refused as badly typed."""
    capsys.readouterr()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"recsys {words[0]}: ")
    assert "multirun" not in message
    return message


# command and its options, an override without effect, what the message says the command takes
WITHOUT_EFFECT = [
    (["fetch", "online_retail"], "data.raw=x", "which takes no overrides"),
    (["inspect", "x"], "training.epochs=2", "which takes training.batch_size, training.shuffle_buffer_rows"),
    (["inspect", "x"], "data=simulated", "which takes training.batch_size"),
    (["prepare"], "ablation.seeds=[1]", "It is for `recsys demo`, `recsys ablate`"),
    (["pretrain"], "daily.train_days=3", "It is for `recsys daily`"),
    (["audit"], "ablation.margin=0.1", "It is for `recsys demo`, `recsys towers`, `recsys ablate`"),
    (["train"], "ablation.seeds=[0,1,2]", "It is for `recsys demo`, `recsys ablate`"),
    (["train"], "experiment=frozen_vs_finetuned", "It is for `recsys demo`, `recsys ablate`"),
    (["train"], "daily.test_days=3", "It is for `recsys daily`"),
    (["train"], "hydra.run.dir=x", "No command takes it"),
    (["ablate"], "daily.test_days=3", "It is for `recsys daily`"),
    (["compare"], "data=online_retail", "which takes tracking.uri, runtime.runs"),
    (["runs"], "training.epochs=2", "which takes tracking.uri, runtime.runs"),
    (["runs"], "runtime.encoded=x", "which takes tracking.uri, runtime.runs"),
    (["sync"], "composition=parallel", "which takes tracking.uri, runtime.runs"),
    (["ui"], "tracking.experiment=x", "which takes tracking.uri, runtime.runs"),
    (["score", "--run", "x", "--input", "y", "--output", "z"], "data.raw=x", "which takes runtime.threads"),
]


@pytest.mark.parametrize(("words", "override", "expected"), WITHOUT_EFFECT)
def test_an_override_without_effect_is_refused_by_name_and_so_it_is_in_a_dry_run(
    words: list[str], override: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]):
        message = refusal([*words, override, *more], capsys)
        assert f"`{override}` has no effect on `recsys {words[0]}`" in message
        assert expected in message
    assert list(tmp_path.iterdir()) == []


# override, what replaces it
REPLACED = [
    (["ablate"], "training_mode=frozen_tower", "`ablation.grid` has the values"),
    (["ablate", "experiment=network_choice"], "network=dot", "`ablation.grid` has the values"),
    (["ablate", "experiment=parallel_vs_conditional"], "composition.head_hidden=[8]", "`ablation.grid` has the values"),
    (["ablate", "ablation.grid={network.layers: [1, 2]}", "ablation.contrast=network.layers"], "network.layers=3",
     "`ablation.grid` has the values"),
    (["ablate"], "training.seed=5", "set those"),
    (["demo"], "experiment=smoke", "`recsys ablate` runs another"),
    (["demo"], "composition=parallel", "`ablation.grid` has the values"),
    (["daily", "--date", "2011-05-20", "data=online_retail"], "data.test_start=2011-05-01", "--date and `daily"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "override", "expected"), REPLACED)
def test_an_override_that_the_grid_the_seeds_or_the_date_replace_is_refused_by_name(
    words: list[str], override: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    message = refusal([*words, override], capsys)
    assert f"`{override}` has no effect: " in message
    assert expected in message
    assert list(tmp_path.iterdir()) == []


def test_what_is_set_within_a_varied_group_goes_on_top_of_every_arm_and_is_no_mistake():

    grid = StudyGrid(["experiment=frozen_vs_finetuned", "composition.width=32"])
    assert {config.composition.width for config in grid.composed.values()} == {32}


def test_every_key_that_a_command_takes_is_one_of_the_configuration():
    document = config_document(compose_config([]))
    for command in COMMANDS:
        for part in command.takes:
            found = document
            for step in part.split("."):
                found = found[step]


def test_a_choice_sets_the_keys_of_its_file_and_of_the_choices_that_this_one_makes():
    assert keys_of("++training.epochs=2") == ("training.epochs",)
    assert "composition.expert_hidden" in keys_of("composition=conditional")
    assert {"training.epochs", "ablation.seeds"} <= set(keys_of("experiment=smoke"))
    assert {"ablation.grid", "data.raw"} <= set(keys_of("experiment=tower_choice"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that got no further than its configuration, which is all that is asked of it here."""
    folder = tmp_path_factory.mktemp("run")
    config = compose_config(["training.epochs=3", "composition.width=16", "tracking.uri=http://127.0.0.1:1"])
    (folder / CONFIG).write_text(json.dumps(config_document(config)))
    return folder


@pytest.mark.parametrize(
    ("override", "found", "wanted"),
    [
        ("training.epochs=2", "`training.epochs` 3", "stands for 2"),
        ("composition=conditional", "`composition.name` 'parallel'", "stands for 'conditional'"),
        ("data=ml_100k", "`data.source` 'simulated'", "stands for 'table'"),
        ("training.seed=1", "`training.seed` 0", "stands for 1"),
        ("runtime.runs=elsewhere", "`runtime.runs` 'runs'", "stands for 'elsewhere'"),
        ("tracking.uri=null", "`tracking.uri` 'http://127.0.0.1:1'", "stands for None"),
    ],
)
def test_a_run_is_resumed_as_it_was_started_or_not_at_all(run: Path, override: str, found: str, wanted: str, capsys):
    message = refusal(["train", "--resume", str(run), override], capsys)
    assert f"`{override}` has no effect on `recsys train --resume {run}`" in message
    assert found in message
    assert wanted in message


def test_a_run_is_resumed_with_the_words_that_it_was_started_with_and_on_another_machine(run: Path):

    words = ["training.epochs=3", "composition.width=16", "runtime.threads=2", "runtime.encoded=/elsewhere"]
    recorded = load_config(run)
    resumed = on_top_of(recorded, words, RESUMED, "resuming")
    assert (resumed.runtime.threads, resumed.runtime.encoded) == (2, Path("/elsewhere"))
    assert resumed.training == recorded.training
    with pytest.raises(UsageError, match=r"`training.epochs=4` has no effect on resuming"):
        on_top_of(recorded, [*words, "training.epochs=4"], RESUMED, "resuming")


@pytest.mark.parametrize("override", ["training.epochs=2", "data=ml_100k", "network=dot", "data.rows=5"])
def test_a_run_is_not_measured_as_what_it_is_not(run: Path, override: str, capsys):
    message = refusal(["evaluate", "--run", str(run), override], capsys)
    assert f"`{override}` has no effect on `recsys evaluate --run {run}`" in message
    assert "What may differ is data.raw, data.schema_path, evaluation" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_path_or_a_text_is_taken_as_it_was_typed(name: str, tmp_path: Path):
    words = [f"{key}={tmp_path}/{name}" for key in ("data.raw", "data.schema_path", "runtime.runs", "runtime.encoded")]
    config = compose_config(["tower=title_vectors", *words, f"tower.id_column={name}", f"tracking.experiment={name}"])
    paths = (config.data.raw, config.data.schema_path, config.runtime.runs, config.runtime.encoded)
    assert paths == (tmp_path / name,) * 4
    assert config.tower.vectors == tmp_path / name / "title_vectors.parquet"
    assert (config.tower.id_column, config.tracking.experiment) == (name, name)
    assert compose_config([f"data.raw={name}"]).data.raw == Path(name)


def test_a_path_that_begins_with_a_tilde_begins_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose_config(["data.raw=~/a,b"]).data.raw == tmp_path / "a,b"
    assert compose_config(["runtime.runs=~"]).runtime.runs == tmp_path
    assert compose_config(["data.raw=data/~x", "data.name=x"]).data.raw == Path("data/~x")
    assert compose_config(["data.raw=./~"]).data.raw == Path("~")


def test_lists_and_mappings_are_read_as_before_and_an_arm_varies_paths_too(tmp_path: Path):
    words = ["tower=title_vectors", "ablation.grid={tower.vectors: ['a b,c.parquet', d.parquet], network: [dot]}",
             "ablation.contrast=tower.vectors", "network.hidden_widths=[64,32]", f"data.raw={tmp_path}"]  # fmt: skip

    grid = StudyGrid(words)
    assert [str(config.tower.vectors) for config in grid.composed.values()][::3] == ["a b,c.parquet", "d.parquet"]
    assert {config.network.hidden_widths for config in grid.composed.values()} == {(64, 32)}


def test_a_table_in_a_folder_of_a_hard_name_is_prepared(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    table = OwnTable(tmp_path)
    table.raw.rename(tmp_path / "it's, [new] ${x}")
    words = [word for word in table.words if not word.startswith("data.raw")]
    assert main(["prepare", *words, "data.raw=~/it's, [new] ${x}"]) == 0
    assert "recsys train" in capsys.readouterr().out
