"""A schema document as YAML that can be read from the top: comments above the keys, one feature a line."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recsys.features.plain_yaml import flow_yaml

_WIDTH = 120
_BLOCKS = {("table",), ("table", "tables"), ("table", "history"), ("table", "history", "features"), ("table", "derive")}


def commented_yaml(
    document: Mapping[str, Any],
    head: Sequence[str],
    said: Mapping[tuple[str, ...], str],
    seen: Mapping[str, str],
) -> str:
    """Return the document's text, which `read_plain_yaml` reads back.

    Args:
        head: paragraphs of the comment at the top.
        said: path of a key -> the comment above it.
        seen: feature -> the comment beside it.
    """
    lines = [line for paragraph in head for line in _comment(paragraph, "")]
    for key, value in document.items():
        lines += _comment(said.get((key,), ""), "")
        if key == "features":
            lines.append("features:")
            for entry in value:
                note = seen.get(entry["name"], "")
                lines.append(f"  - {flow_yaml(entry)}{f'  # {note}' if note else ''}")
        else:
            lines += _key((key,), value, said)
    return "\n".join(lines) + "\n"


def _key(path: tuple[str, ...], value: Any, said: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    indent = "  " * (len(path) - 1)
    if len(path) > 1:
        yield from _comment(said.get(path, ""), indent)
    name = flow_yaml(path[-1])
    is_block = path in _BLOCKS or (isinstance(value, list) and path[-1] == "where")
    if is_block and isinstance(value, Mapping):
        yield f"{indent}{name}:"
        for key, each in value.items():
            yield from _key((*path, key), each, said)
    elif is_block:
        yield f"{indent}{name}:"
        yield from (f"{indent}  - {flow_yaml(each)}" for each in value)
    else:
        yield f"{indent}{name}: {flow_yaml(value)}"


def _comment(text: str, indent: str) -> list[str]:
    """A paragraph as lines of a comment; a line that begins with two blanks hangs below its first word."""
    if not text:
        return []
    hanging = len(text) - len(text.lstrip())
    start = f"{indent}# {' ' * hanging}"
    return textwrap.wrap(
        text.strip(),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start + ("  " if hanging else ""),
        break_long_words=False,
        break_on_hyphens=False,
    )
