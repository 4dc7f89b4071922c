"""An interaction network and a composition of a user's own module: chosen, trained, recorded and read back."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from recsys.build import build_ranker, describe_ranker, rebuild_ranker
from recsys.config import COMPOSITIONS, NETWORKS, NetworkConfig, checked_dataclass, config_document, config_from
from recsys.config.compose import choices, compose_config, keys_of
from recsys.config.kinds import Kinds
from recsys.errors import UsageError
from recsys.run.folder import load_config
from recsys.run.result_keys import settings_of
from recsys.sharding.processes import ProcessContext
from recsys.study.plan import StudyGrid
from tests.architecture.sources import REPOSITORY
from tests.conf.own_kinds import SOURCE
from tests.small_model import ROWS, batch_of, small_contract, two_tower_spec
from tests.training.small_run import small_run

WORDS = ["network=own_kinds.powers", "network.degree=3", "composition=own_kinds.largest", "composition.width=5"]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path with the user's module, not imported yet; what it registers is forgotten again."""
    (tmp_path / "own_kinds.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for kinds in (NETWORKS, COMPOSITIONS):
        for known in ("_variants", "_sources"):
            monkeypatch.setattr(kinds, known, dict(getattr(kinds, known)))
    yield tmp_path
    sys.modules.pop("own_kinds", None)


@pytest.mark.usefixtures("own_module")
def test_a_kind_is_chosen_by_its_module_and_its_knobs_are_checked() -> None:
    config = compose_config(WORDS)
    assert config_document(config)["network"] == {
        "name": "powers",
        "module": "own_kinds",
        "degree": 3,
        # What every network has, as in the default choice of conf/.
        "field_width": 16,
        "field_widths": {},
        "hidden_widths": [128, 64],
        "dropout": 0.0,
        "first_order": True,
    }
    assert (config.composition.width, config.composition.head_hidden) == (5, (64,))
    # Once imported, its name is enough, as for a built-in one.
    assert compose_config(["network=powers"]).network.degree == 2
    assert "powers" in choices("network")
    assert "composition.width" in keys_of("composition=own_kinds.largest")
    with pytest.raises(UsageError, match=r"`network.degree` is 'two'"):
        compose_config(["network=powers", "network.degree=two"])
    with pytest.raises(UsageError, match=r"no key `network.layers` with network=powers.* `network` has .*degree"):
        compose_config(["network=powers", "network.layers=2"])


@pytest.mark.usefixtures("own_module")
def test_a_grid_varies_own_kinds_beside_the_built_in_ones() -> None:
    grid = StudyGrid(["ablation.grid={network: [cross, own_kinds.powers]}", "ablation.contrast=network"])
    assert {config.network.name for config in grid.composed.values()} == {"cross", "powers"}


@pytest.mark.usefixtures("own_module")
def test_own_kinds_are_trained_described_and_rebuilt(context: ProcessContext) -> None:
    config = compose_config([*WORDS, "network.field_width=4", "network.hidden_widths=[6]"])
    made = build_ranker(config.network, config.composition, two_tower_spec(), small_contract(), seed=0)
    assert made.interaction_network.crossing.output_width == 3 * 4 * made.interaction_network.fields.num_fields
    run = small_run(context, ranker=made)
    before = {name: value.clone() for name, value in made.composition.state_dict().items()}
    assert [report.step for report in run.train(3)] == [1, 2, 3]
    assert all(not torch.equal(before[name], value) for name, value in made.composition.state_dict().items())

    description = json.loads(json.dumps(describe_ranker(config.network, config.composition, two_tower_spec())))
    same, other = rebuild_ranker(description, small_contract()), rebuild_ranker(description, small_contract())
    assert set(same.state_dict()) == set(made.state_dict())
    with torch.no_grad():
        assert torch.equal(same.eval()(batch_of(ROWS)), other.eval()(batch_of(ROWS)))


def test_another_process_reads_back_what_was_pickled_recorded_and_described(own_module: Path) -> None:
    config = compose_config(WORDS)
    document = config_document(config)
    description = describe_ranker(config.network, config.composition, two_tower_spec())
    (own_module / "config.pickle").write_bytes(pickle.dumps(config))
    (own_module / "rest.json").write_text(json.dumps([document, description]))
    script = """
import json, pickle, sys
from pathlib import Path
document, description = json.loads(Path(sys.argv[1], "rest.json").read_text())
from recsys.config import config_document, config_from
assert config_document(config_from(document)) == document
assert config_from(document) == pickle.loads(Path(sys.argv[1], "config.pickle").read_bytes())
from recsys.build import rebuild_ranker
from tests.small_model import small_contract
print(type(rebuild_ranker(description, small_contract()).interaction_network.crossing).__module__)
"""
    paths = os.pathsep.join([str(own_module), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", script, str(own_module)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("own_kinds\n", 0), done.stderr


def test_the_code_of_an_own_module_counts_where_its_kinds_do(own_module: Path) -> None:
    def settings(words: list[str]) -> dict:
        sys.modules.pop("own_kinds", None)
        return settings_of(compose_config(words))

    first, plain = settings(["network=own_kinds.powers"]), settings(["network=cross"])
    (own_module / "own_kinds.py").write_text(SOURCE.replace("** power ", "* power "))
    assert settings(["network=own_kinds.powers"]) != first
    assert settings(["network=cross"]) == plain
    (own_module / "own_kinds.py").write_text(SOURCE)
    assert settings(["network=own_kinds.powers"]) == first


def test_a_recorded_kind_whose_module_is_gone_or_changed_says_what_to_import(own_module: Path) -> None:
    document = config_document(compose_config(["network=own_kinds.powers"]))
    for module, words in {
        "no_such_module": r"`network=powers` is registered by the module `no_such_module`, which cannot be imported "
        r"\(ModuleNotFoundError.*PYTHONPATH=<folder>",
        "json": r"`network=other` was registered by `json`, which registers no such kind",
    }.items():
        name = "other" if module == "json" else "powers"
        with pytest.raises(UsageError, match=words):
            config_from(document | {"network": document["network"] | {"name": name, "module": module}})
    with pytest.raises(UsageError, match="`network=powers` is registered by the module `no_such_module`"):
        compose_config(["network=no_such_module.powers"])

    # The run's record is sound: what is missing is the module.
    gone = document | {"network": document["network"] | {"module": "no_such_module"}}
    (own_module / "config.json").write_text(json.dumps(gone))
    with pytest.raises(UsageError, match="`network=powers` is registered by the module `no_such_module`"):
        load_config(own_module)


@checked_dataclass
class Nameless(NetworkConfig):
    """A variant that no word chooses."""


@pytest.mark.usefixtures("own_module")
def test_a_variant_that_could_not_be_recorded_or_told_apart_is_refused() -> None:
    own = import_module("own_kinds")
    kinds = Kinds("network", NetworkConfig)
    with pytest.raises(UsageError, match=r"Nameless` has no name of its own"):
        kinds.add(Nameless)
    with pytest.raises(UsageError, match="LargestConfig` is no NetworkConfig"):
        kinds.add(own.LargestConfig)
    kinds.add(own.PowersConfig)
    for module, words in {
        "__main__": r"`__main__.PowersConfig` cannot be registered.*`%%writefile my_kinds.py`",
        "elsewhere": r"`network=powers` is registered by `own_kinds` already. Give that of `elsewhere` another name",
    }.items():
        again = checked_dataclass(type("PowersConfig", (own.PowersConfig,), {"__module__": module}))
        with pytest.raises(UsageError, match=words):
            kinds.add(again)
