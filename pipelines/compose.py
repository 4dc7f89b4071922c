"""Words of the command line -> a checked `RunConfig`. The only file that knows Hydra."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config import RunConfig, config_from
from recsys.errors import UsageError

CONF = Path(__file__).resolve().parents[1] / "conf"
# Mappings whose keys are the user's own: given whole they are replaced, where Hydra would merge or refuse them.
_OWN_KEYS = ("ablation.grid=", "ablation.tune.ranges=")


def compose_config(overrides: Sequence[str]) -> RunConfig:
    """Compose `conf/run.yaml` with overrides such as `data=online_retail` or `training.epochs=2`, and check it.

    Raises:
        UsageError: an override names no known key or choice, or a value has the wrong type or range.
    """
    return config_from(_compose(overrides))


def choices(group: str) -> list[str]:
    """The words that a group of `conf/` offers, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in this project's terms: the key or choice, and what there is in its place."""
    text = str(error)
    if found := re.search(r"Could not override '(.+)'", text):
        return _nearest_key(found.group(1), overrides)
    if found := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        group, word = found.groups()
        return f"`{group}={word}` is none of the choices of `{group}`: {', '.join(choices(group))}."
    if found := re.search(r"full_key: (\S+)", text.replace("\n", " ")):
        key = found.group(1)
        return f"`{key}` has no value, and no default would fit: give it as `{key}=...`."
    if "override_grammar" in text:
        return (
            f"`{_unreadable(overrides)}` cannot be read as `key=value`. A value that holds brackets, commas or "
            "quotation marks needs quotation marks of its own inside the shell's, as in 'data.raw=\"folder (new)\"'."
        )
    # What follows the first lines is advice in Hydra's own terms ("+key"), which would lead astray here.
    return "\n  ".join([line for line in text.splitlines() if line.strip() and "use +" not in line][:6])


def _unreadable(overrides: Sequence[str]) -> str:
    """The first override that Hydra's grammar has no meaning for; Hydra itself does not always say which."""
    parser = OverridesParser.create()
    for word in overrides:
        try:
            parser.parse_override(word)
        except HydraException:
            return word
    raise AssertionError(f"every one of {list(overrides)} can be read")


def _nearest_key(unknown: str, overrides: Sequence[str]) -> str:
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    # Which keys there are depends on the choices: an imported tower has no `tower.epochs`.
    chosen = [word for word in overrides if word.partition("=")[0] in groups]
    document = OmegaConf.to_container(_composed(chosen), resolve=False)
    assert isinstance(document, dict)
    known = list(_keys({str(key): value for key, value in document.items()}))
    near = difflib.get_close_matches(unknown, [*groups, *known], n=3, cutoff=0.5)
    among = f" with {', '.join(chosen)}" if chosen else ""
    hint = f"; near it: {', '.join(near)}" if near else ""
    return f"There is no key `{unknown}`{among}{hint}. All keys stand in the files of conf/."


def _keys(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    if not CONF.is_dir():
        raise UsageError(f"The folder {CONF} is missing; run `recsys` from a full clone of the repository.")
    try:
        document = OmegaConf.to_container(_composed(overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(f"The overrides cannot be applied: {_explain(error, overrides)}") from error
    assert isinstance(document, dict)
    return {str(key): value for key, value in document.items()}


def _composed(overrides: Sequence[str]) -> DictConfig:
    # Hydra keeps one global state per process, and a study composes once per arm.
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        words = [part for word in overrides for part in _replacing(word)]
        return compose(config_name="run", overrides=words)


def _replacing(word: str) -> tuple[str, ...]:
    return (f"~{word.partition('=')[0]}", f"+{word}") if word.startswith(_OWN_KEYS) else (word,)
