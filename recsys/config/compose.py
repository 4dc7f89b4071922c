"""Words of the command line -> a checked `RunConfig`. The only file that knows Hydra.

Paths and texts are taken as they are typed and never reach Hydra's grammar, which gives commas, quotation marks,
brackets, blanks and `${` a meaning: any name that a file system allows is just a name. A path may begin with `~`.
"""

import copy
import dataclasses
import difflib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from recsys.config import COMPOSITIONS, KINDS, RunConfig, config_from
from recsys.config.kinds import MODULE, import_kinds
from recsys.errors import UsageError
from recsys.files import home_expanded
from recsys.resources import CONF

# A call of one of OmegaConf's functions; `${data.raw}` stands for another key's value and is none.
_COMPUTED = re.compile(r"\$\{[^}:]*:")
_COMPOSITION, _INNER = COMPOSITIONS.group, "inner"
# A choice or a value, which may be of a new key, and nothing that deletes or is meant for Hydra itself.
_PLAIN = re.compile(r"(\+\+)?(?!hydra)[\w.]+=")
# Mappings whose keys are the user's own: given whole they are replaced, where Hydra would merge or refuse them.
_OWN_KEYS = re.compile(
    r"(ablation\.grid|ablation\.tune\.ranges|network\.field_widths|sharding\.tables|training_mode\.stages\.\w+"
    r"|training_mode\.rungs|\+\+composition(\.inner)+)=\s*{"
)


_BY_SEGMENT = re.compile(r"(training_mode|composition)\.(rungs|routes)=\s*{")
_NUMBERS = re.compile(r"[{,]\s*([+-]?\d[\d_]*)\s*:")


def compose_config(overrides: Sequence[str]) -> RunConfig:
    """Compose `conf/run.yaml` with overrides such as `data=online_retail` or `training.epochs=2`, and check it.

    Raises:
        UsageError: an override names no known key or choice, or a value has the wrong type or range.
    """
    words, texts = _without_texts(overrides)
    for word in words:
        _require_one_value(word)
    document = _compose(words)
    for word in words:
        _restore_segments(document, word)
    return config_from(_with_texts(document | {_COMPOSITION: _with_inner_knobs(document[_COMPOSITION])}, texts))


def _restore_segments(document: Mapping[str, Any], word: str) -> None:
    """Give segments their names back where Hydra read them as numbers: `25_34` as the whole number 2534."""
    if not (found := _BY_SEGMENT.match(word)):
        return
    group, name = found.groups()
    of_segments = document.get(group, {}).get(name)
    typed = {int(key): key for key in _NUMBERS.findall(word)}
    if isinstance(of_segments, dict):
        document[group][name] = {typed.get(key, key): value for key, value in of_segments.items()}


def choices(group: str) -> list[str]:
    """The words that a group offers, sorted: the files of `conf/`, and the kinds that were registered."""
    registered = [name for kinds in KINDS if kinds.group == group for name in kinds.from_outside]
    return sorted([*(path.stem for path in (CONF / group).glob("*.yaml")), *registered])


def key_of(word: str) -> str:
    """The config key or group that an override is about: "training.epochs" of "training.epochs=2"."""
    return word.partition("=")[0].lstrip("+~")


def keys_of(word: str) -> tuple[str, ...]:
    """The config keys that an override sets: its own, or all those that a group's choice sets.

    >>> keys_of("training.epochs=2"), keys_of("tracking=local")[:2]
    (('training.epochs',), ('tracking.uri', 'tracking.experiment'))
    """
    key, choice = key_of(word), word.partition("=")[2]
    file = CONF / key / f"{choice}.yaml"
    if not file.is_file():
        own = [name for kinds in KINDS if kinds.group == key for name in kinds.knobs(choice.rpartition(".")[2])]
        return tuple(f"{key}.{name}" for name in own) or (key,)
    document = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(document, dict)
    # Such a file sets keys of any group, and may choose for other groups.
    is_global = file.read_text(encoding="utf-8").startswith("# @package _global_")
    chosen = [f"{name.split('/')[-1]}={word}" for entry in document.pop("defaults", []) for name, word in entry.items()]
    groups = document if is_global else {key: document}
    own = [f"{group}.{name}" for group, values in groups.items() for name in values]
    return (*own, *(each for word in chosen for each in keys_of(word)))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in this project's terms: the key or choice, and what there is in its place."""
    text = str(error)
    if found := re.search(r"Could not override '(.+)'", text):
        return _nearest_key(found.group(1), overrides)
    if found := re.search(r"Could not find '([^/]+)/([^']+)'", text):
        group, word = found.groups()
        own = " One of your own is chosen as `<module>.<name>`." if group in {kinds.group for kinds in KINDS} else ""
        return f"`{group}={word}` is none of the choices of `{group}`: {', '.join(choices(group))}.{own}"
    if found := re.search(r"full_key: (\S+)", text.replace("\n", " ")):
        key = found.group(1)
        return f"`{key}` has no value, and no default would fit: give it as `{key}=...`."
    # What follows the first lines is advice in Hydra's own terms ("+key"), which would lead astray here.
    return "\n  ".join([line for line in text.splitlines() if line.strip() and "use +" not in line][:6])


def _require_one_value(word: str) -> None:
    """Refuse what Hydra cannot read, what it would compute, and what it would read as a run for each of several values.

    What is computed (`${oc.env:HOME}`) would bring the environment's secrets into what is recorded of the run.
    """
    key = key_of(word)
    if found := _COMPUTED.search(word):
        raise UsageError(
            f"The overrides cannot be applied: `{word}` asks to compute a value (`{found[0]}...}}`), and a "
            "configuration holds values alone. Give the value itself."
        )
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UsageError(
            f"The overrides cannot be applied: `{word}` cannot be read as `key=value`. A list is written as "
            f"{key}=[1,2], a mapping as {key}={{name: 1}}; what holds blanks stands in quotation marks of the shell."
        ) from error
    if parsed.value() is None and (CONF / key).is_dir():
        raise UsageError(
            f"The overrides cannot be applied: `{word}` chooses none of `{key}`, and one is needed: "
            f"{', '.join(choices(key))}."
        )
    if parsed.is_sweep_override():
        raise UsageError(
            f"The overrides cannot be applied: `{word}` gives several values where a run takes one. A list stands in "
            f"brackets, as in {key}=[1,2]; a run for each of several values is a study: list them under "
            "`ablation.grid` of `recsys ablate`."
        )


def _without_texts(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Put a stand-in for every path and text; return the words, and what each stand-in is for.

    Raises:
        UsageError: a path or text is empty, or a path needs a home folder that is unknown.
    """
    kept, texts = [], {}
    for word in overrides:
        key, (left, _, text) = key_of(word), word.partition("=")
        kinds = _TEXT_KEYS.get(key, ())
        if not kinds or (text == "null" and NoneType in kinds):
            kept.append(word)
            continue
        if not text.strip():
            raise UsageError(f"`{word}` gives `{key}` no value. Expected one behind the `=`, or no such override.")
        stand_in = f"text_{secrets.token_hex(8)}"
        texts[stand_in] = home_expanded(text, f"`{key}`") if Path in kinds else text
        kept.append(f"{left}={stand_in}")
    return kept, texts


def _with_texts(document: Any, texts: Mapping[str, str]) -> Any:
    """Put the texts back, also where another value was composed from one (`${data.raw}/vectors.parquet`)."""
    if isinstance(document, dict):
        return {key: _with_texts(value, texts) for key, value in document.items()}
    if isinstance(document, str):
        for stand_in in [name for name in texts if name in document]:
            document = document.replace(stand_in, texts[stand_in])
    return document


def _text_keys(owner: type, prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every key of a config class whose value is a path or a text, and the types that it may have."""
    for name, hint in get_type_hints(owner).items():
        # A choice of several types, or the one that there is; what a mapping or list is made of stays Hydra's.
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if Path in kinds or str in kinds:
            yield f"{prefix}{name}", kinds
        for kind in kinds:
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from _text_keys(kind, f"{prefix}{name}.")


_TEXT_KEYS = dict(_text_keys(RunConfig))


def is_text(key: str) -> bool:
    """Whether a config key's value is a path or a text, which is taken as it is typed."""
    return key in _TEXT_KEYS


def _nearest_key(unknown: str, overrides: Sequence[str]) -> str:
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    # Which keys there are depends on the choices: an imported tower has no `tower.epochs`.
    chosen = [word for word in overrides if word.partition("=")[0] in groups]
    document = OmegaConf.to_container(_composed(chosen), resolve=False)
    assert isinstance(document, dict)
    known = list(_keys({str(key): value for key, value in document.items()}))
    near = difflib.get_close_matches(unknown, {*groups, *known}, n=3, cutoff=0.5)
    among = f" with {', '.join(chosen)}" if chosen else ""
    hint = f"; near it: {', '.join(near)}" if near else ""
    group = unknown.partition(".")[0]
    own = [key.removeprefix(f"{group}.") for key in known if key.startswith(f"{group}.")]
    has = f" `{group}` has {', '.join(own)}." if group in groups else ""
    return f"There is no key `{unknown}`{among}{hint}.{has} All keys stand in the files of conf/."


def _keys(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        document = OmegaConf.to_container(_composed(overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(f"The overrides cannot be applied: {_explain(error, overrides)}") from error
    assert isinstance(document, dict)
    return {str(key): value for key, value in document.items()}


def _composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, for less: a value goes on top of what the choices came to, which is composed once.

    Hydra reads some twenty files each time, and a study composes once per arm.
    """
    chosen = [word for word in overrides if (CONF / key_of(word)).is_dir()]
    values = [part for word in overrides if word not in chosen for part in _replacing(word)]
    if not all(_PLAIN.match(word) for word in overrides):
        # What deletes a key or puts a group elsewhere is left to Hydra, with all that stands beside it.
        chosen, values = [part for word in overrides for part in _replacing(word)], []
    _import_named(chosen)
    config = copy.deepcopy(_of_choices(tuple(chosen), _registered(), _newest_file()))
    for override in OverridesParser.create().parse_overrides(values):
        key, value = override.key_or_group, override.value()
        try:
            OmegaConf.update(config, key, value, merge=True, force_add=override.is_force_add())
        except (ConfigAttributeError, ConfigKeyError) as error:
            raise ConfigCompositionException(f"Could not override '{key}'") from error
        except OmegaConfBaseException as error:
            raise ConfigCompositionException(f"Error merging override {override.input_line}") from error
    return config


@lru_cache(maxsize=64)
def _of_choices(words: tuple[str, ...], registered: str, newest_file: tuple[int, int]) -> DictConfig:
    """What these words come to, for these kinds of users' modules and as long as the files of `conf/` stay."""
    # Hydra keeps one global state per process.
    GlobalHydra.instance().clear()
    _offer_registered()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return compose(config_name="run", overrides=list(words))


def _newest_file() -> tuple[int, int]:
    """When a file of `conf/` was last changed, and how many there are."""
    times = [path.stat().st_mtime_ns for path in CONF.glob("**/*.yaml")]
    return max(times), len(times)


def _import_named(choices: Sequence[str]) -> None:
    for kinds in KINDS:
        words = [word.partition("=")[2] for word in choices if key_of(word) == kinds.group]
        for module, _, name in (word.rpartition(".") for word in words):
            if module:
                import_kinds(module, f"`{kinds.group}={name}`")


def _registered() -> str:
    return repr([(kinds.group, [kinds.knobs(name) for name in kinds.from_outside]) for kinds in KINDS])


def _offer_registered() -> None:
    """Give Hydra the kinds of users' modules, under `name` and `module.name`.

    A knob that has no default takes the value of the group's default choice, where that has it.
    """
    defaults = {
        group: word
        for entry in OmegaConf.load(CONF / "run.yaml").defaults
        if entry != "_self_"
        for group, word in entry.items()
    }
    for kinds in KINDS:
        shared = OmegaConf.load(CONF / kinds.group / f"{defaults[kinds.group]}.yaml")
        for name in kinds.from_outside:
            values = {
                key: shared.get(key, value) if value == MISSING else value for key, value in kinds.knobs(name).items()
            }
            for choice in (name, f"{kinds.origin(name)[MODULE]}.{name}"):
                ConfigStore.instance().store(choice, values, group=kinds.group)


def _replacing(word: str) -> tuple[str, ...]:
    # The files name an inner composition's kind alone, and not the knobs that another one would not have.
    word = f"++{word}" if word.startswith(f"{_COMPOSITION}.{_INNER}") else word
    return (f"{word.partition('=')[0]}=null", word) if _OWN_KEYS.match(word) else (word,)


def _with_inner_knobs(composition: Any, key: str = _COMPOSITION) -> Any:
    """Give the inner compositions the knobs that nobody set, as their own files of `conf/` have them.

    Raises:
        UsageError: a knob has no default.
    """
    inner, key = composition.get(_INNER), f"{key}.{_INNER}"
    if not isinstance(inner, dict) or not (CONF / _COMPOSITION / f"{inner.get('name')}.yaml").is_file():
        return composition  # which the check of its type says
    own = OmegaConf.to_container(OmegaConf.load(CONF / _COMPOSITION / f"{inner['name']}.yaml"))
    assert isinstance(own, dict)
    # There is one head, behind the outermost composition.
    knobs = {str(name): value for name, value in own.items()} | {"head_hidden": []} | inner
    if isinstance(given := inner.get(_INNER), dict):
        knobs[_INNER] = own.get(_INNER, {}) | given
    if missing := [name for name, value in knobs.items() if value == MISSING]:
        raise UsageError(
            f"`{key}.{missing[0]}` has no value, and no default would fit: give it as `{key}.{missing[0]}=...`."
        )
    return {**composition, _INNER: _with_inner_knobs(knobs, key)}
