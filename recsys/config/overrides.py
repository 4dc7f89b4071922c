"""Overrides on top of a recorded configuration, and those that would change nothing, which are refused by name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.config import RunConfig, config_document, config_from
from recsys.config.compose import compose_config, is_text, key_of, keys_of
from recsys.errors import UsageError

_BARE_WORD = re.compile(r"[A-Za-z_][\w./+-]*")


def override(key: str, value: Any) -> str:
    """Return the override that gives a key this value, whatever it holds.

    >>> override("training.epochs", 2), override("network", "dot"), override("data.raw", Path("a, b"))
    ('training.epochs=2', 'network=dot', 'data.raw=a, b')
    >>> override("ablation.grid", {"training_mode": ["end_to_end"], "training.max_gradient_norm": [None, 1.0]})
    'ablation.grid={training_mode:[end_to_end],training.max_gradient_norm:[null,1.0]}'
    """
    return f"{key}={value if isinstance(value, str | Path) and is_text(key) else literal(value)}"


def literal(value: Any) -> str:
    """Return a value as Hydra's override grammar reads it back with its type."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            return f"{{{','.join(f'{key}:{literal(each)}' for key, each in value.items())}}}"
        case list() | tuple():
            return f"[{','.join(map(literal, value))}]"
        case str() | Path():
            text = str(value)
            is_word = _BARE_WORD.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf")
            return text if is_word else "'" + text.replace("'", "\\'") + "'"
    return repr(value)


def on_top_of(recorded: RunConfig, overrides: Sequence[str], takes: Sequence[str], what: str) -> RunConfig:
    """Return a run's own configuration with those of the overrides on top that may differ from it.

    Args:
        takes: the keys, or parts of the configuration, that may.
        what: the run and what is done with it, for the message.

    Raises:
        UsageError: another override says otherwise than the run's configuration; names it, and both values.
    """
    document, typed = config_document(recorded), config_document(compose_config(overrides))
    # Of two that set one key the last one counts, so that one is named.
    for word in reversed(overrides):
        for key in keys_of(word):
            *path, last = key.split(".")
            found, wanted = _part(document, path).get(last), _part(typed, path).get(last)
            if any(_lies_in(key, part) for part in takes):
                _part(document, path)[last] = wanted
            elif found != wanted:
                raise UsageError(
                    f"`{word}` has no effect on {what}: its configuration has `{key}` {found!r}, and the override "
                    f"stands for {wanted!r}. What may differ is {listed(takes)}; leave this one out."
                )
    return config_from(document)


def require_unset(overrides: Sequence[str], keys: Sequence[str], what: str) -> None:
    """Refuse an override of a key that is set anew for every run.

    Args:
        what: what sets it, and where to say it instead.

    Raises:
        UsageError: names the override.
    """
    for word in overrides:
        if key_of(word) in keys:
            raise UsageError(f"`{word}` has no effect: {what}.")


def is_taken(key: str, takes: Sequence[str]) -> bool:
    """Whether a config key is one of `takes`, lies in one of them, or holds one.

    >>> is_taken("training.epochs", ["training"]), is_taken("runtime", ["runtime.runs"])
    (True, True)
    """
    # A part that is given whole (`runtime={...}`) holds keys that are taken.
    return any(_lies_in(key, part) or _lies_in(part, key) for part in takes)


def _lies_in(key: str, part: str) -> bool:
    return key == part or key.startswith(f"{part}.")


def listed(takes: Sequence[str]) -> str:
    """The keys and groups that may be set, for a message."""
    return ", ".join(takes) if takes else "no overrides"


def _part(document: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The mapping at `path`; an empty one where the configuration has none there."""
    found: Any = document
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
