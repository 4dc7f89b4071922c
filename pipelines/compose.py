"""Words of the command line -> a checked `RunConfig`. The only file that knows Hydra."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config import RunConfig, config_from
from recsys.errors import UsageError

CONF = Path(__file__).resolve().parents[1] / "conf"


def compose_config(overrides: Sequence[str]) -> RunConfig:
    """Compose `conf/run.yaml` with overrides such as `data=online_retail` or `training.epochs=2`, and check it.

    Raises:
        UsageError: an override names no known key or choice, or a value has the wrong type or range.
    """
    return config_from(_compose(overrides))


def choices(group: str) -> list[str]:
    """The words that a group of `conf/` offers, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _nearest_key(unknown: str) -> str:
    known = [*(path.name for path in CONF.iterdir() if path.is_dir()), *_keys(_compose([]))]
    near = difflib.get_close_matches(unknown, known, n=3, cutoff=0.5)
    return f"There is no key `{unknown}`; " + (
        f"near it: {', '.join(near)}." if near else "the keys stand in conf/run.yaml."
    )


def _keys(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    if not CONF.is_dir():
        raise UsageError(f"The folder {CONF} is missing; run `recsys` from a full clone of the repository.")
    # Hydra keeps one global state per process, and a study composes once per arm.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            composed = compose(config_name="run", overrides=list(overrides))
            document = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        # The first lines name the key or choice; what follows is advice in Hydra's own terms ("+key"), which would
        # only trade this message for one about an unknown key.
        lines = [line for line in str(error).splitlines() if line.strip() and "use +" not in line]
        if found := re.match(r"Could not override '(.+)'", lines[0]):
            lines[1:] = [_nearest_key(found.group(1))]
        raise UsageError("These overrides cannot be applied to conf/run.yaml: " + "\n  ".join(lines[:6])) from error
    assert isinstance(document, dict)
    return {str(key): value for key, value in document.items()}
