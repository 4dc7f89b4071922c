"""YAML as plain data: no tags, no aliases, no repeated keys, no file too large to be a declaration.

What a user hands over is read here and nowhere else, so that a file can neither run code nor grow in memory to many
times its size, and so that every mistake in it is said in one way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import UsageError

MAXIMUM_BYTES = 1 << 20


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, whose repetition of repetitions is how a small file becomes a large value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"aliases are not read; write out `*{event.anchor}`\n{event.start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.YAMLError(f"the key `{name}` stands twice\n{key.start_mark}")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


class _PlainDumper(yaml.SafeDumper):
    """SafeDumper that writes text and mappings of any class as what they are, and no anchors, which are not read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_PlainDumper.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str(value)))
_PlainDumper.add_multi_representer(
    Mapping,  # type: ignore[type-abstract]
    lambda dumper, value: dumper.represent_dict(value.items()),
)


def plain_yaml(document: Mapping[str, Any]) -> str:
    """Return the text of plain values that `read_plain_yaml` reads back, in their order."""
    return yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def flow_yaml(value: Any) -> str:
    """Return the text of a plain value in one line, as it may stand behind a key."""
    text = yaml.dump(
        value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1e9
    )
    # Behind a plain word stands a mark of its end.
    return text.removesuffix("\n").removesuffix("\n...")


def read_plain_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a file of keys and values.

    Args:
        what: what the file is, for the message ("Schema file").

    Raises:
        UsageError: the file is missing, too large, no YAML, or holds anything but keys with plain values.
    """
    try:
        size = path.stat().st_size
        if size > MAXIMUM_BYTES:
            raise UsageError(f"{what} {path} has {size:,} bytes; a declaration has at most {MAXIMUM_BYTES:,}.")
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except FileNotFoundError:
        raise UsageError(
            f"{what} {path} does not exist, as seen from {Path.cwd()}. Examples to copy stand in the repository's "
            "`data/schemas/`."
        ) from None
    except RecursionError:
        raise UsageError(f"{what} {path} nests its values too deeply to be a declaration.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        # ValueError: bytes that are no UTF-8, a date such as 2011-99-99, a number of thousands of digits.
        raise UsageError(f"{what} {path} cannot be read: {error}. Examples stand in `data/schemas/`.") from error
    if not isinstance(document, dict):
        raise UsageError(f"{what} {path} holds a {type(document).__name__}; expected keys such as `name: shop`.")
    return document
