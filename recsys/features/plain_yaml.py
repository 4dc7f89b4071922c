"""YAML as plain data: no tags, no aliases, no repeated keys, no file too large to be a declaration.

What a user hands over is read here and nowhere else, so that a file can neither run code nor grow in memory to many
times its size, and so that every mistake in it is said in one way.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import UsageError

MAXIMUM_BYTES = 1 << 20
_BACKTICKED = re.compile(r"`([^`]+)`")


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, whose repetition of repetitions is how a small file becomes a large value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"aliases are not read; write out `*{event.anchor}`\n{event.start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in lines:
                raise yaml.YAMLError(f"the key `{name}` stands twice, first in line {lines[name]}\n{key.start_mark}")
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:
            # A date such as 2011-99-99, or a number of thousands of digits.
            raise yaml.YAMLError(f"{error}\n{node.start_mark}") from error


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
        # ValueError: bytes that are no UTF-8.
        raise UsageError(f"{what} {path} cannot be read: {error}. Examples stand in `data/schemas/`.") from error
    if not isinstance(document, dict):
        raise UsageError(f"{what} {path} holds a {type(document).__name__}; expected keys such as `name: shop`.")
    return document


@contextmanager
def lines_named(path: Path, where: str) -> Iterator[None]:
    """Tell the line of the key that a refusal speaks of, where its message begins with `where`.

    A message names its place in the document in one of two ways, "`table`.segment" or "feature `price`", up to the
    first colon; names in backticks behind that lead further down. The nearest key above it that stands in the file is
    what the line is of.

    Args:
        path: of the file that the document was read from.
    """
    try:
        yield
    except UsageError as error:
        said = str(error)
        if said.startswith(where):
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
            place, _, sentence = said[len(where) :].partition(": ")
            place = place.removeprefix(", ").replace("`", "")
            if root and (line := _line_of(root, place, _BACKTICKED.findall(sentence))):
                error.args = (f"{where}, line {line}{said[len(where) :]}",)
        raise


def _line_of(root: yaml.Node, place: str, names: list[str]) -> int | None:
    """The line of the last key on the way along `place`, its keys parted by dots, and then along `names`."""
    node, line = root, None
    if place.startswith(("feature ", "a feature")):
        (node, line), place = _feature(root, place.removeprefix("feature ")), ""
    while within := [key for key in _keys(node) if f"{place}.".startswith(f"{key}.")]:
        # Keys that the user chose may hold dots themselves.
        key = max(within, key=len)
        (line, node), place = _keys(node)[key], place[len(key) + 1 :]
    for name in names:
        # "`user: shopper`" is a key with its value.
        line, node = _keys(node).get(name.partition(":")[0], (line, node))
    if line is None and names:
        # A name that is no key may be the value of one: "the label `rating`".
        return next((at for at, value in _keys(root).values() if value.value == names[0]), None)
    return line


def _keys(node: yaml.Node) -> dict[str, tuple[int, yaml.Node]]:
    """The keys of a mapping, or the positions of a list, each with its line and value."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): (key.start_mark.line + 1, value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return {str(place): (value.start_mark.line + 1, value) for place, value in enumerate(node.value)}
    return {}


def _feature(root: yaml.Node, name: str) -> tuple[yaml.Node, int | None]:
    """The entry of a feature, an element of a vector being of the vector's, and its line."""
    line, entries = _keys(root).get("features", (None, root))
    for at, entry in _keys(entries).values():
        named = _keys(entry).get("name")
        if named and named[1].value in (name, re.sub(r"\[\d+\]$", "", name)):
            return entry, at
    return entries, line
