"""Columns of vectors in a schema: one entry with a `width` stands for as many dense features, one per element."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from recsys.errors import UsageError

_Value = TypeVar("_Value")


def vector_element(name: str) -> tuple[str, int] | None:
    """Return the column and the position that a dense feature made of a vector stands for; None for other names.

    >>> vector_element("image[2]"), vector_element("price")
    (('image', 2), None)
    """
    found = re.fullmatch(r"(.+)\[(\d+)\]", name)
    return (found[1], int(found[2])) if found else None


def column_of(name: str, names: Collection[str]) -> str:
    """Return the raw column that a feature is read from: a vector for its elements, else the one of its own name.

    Args:
        names: of all features. A column may be called `size[1]` itself; a vector has an element 0.

    >>> column_of("image[2]", ["image[0]", "image[1]", "image[2]"]), column_of("size[1]", ["size[1]"])
    ('image', 'size[1]')
    """
    vector = vector_element(name)
    return vector[0] if vector and f"{vector[0]}[0]" in names else name


def with_vectors_spread(entries: Iterable[Any], where: str) -> list[Any]:
    """Write every dense entry with `width: 3` as three entries, `name[0]` to `name[2]`; others stay as they are.

    Raises:
        UsageError: a width that is none, or on another kind of feature.
    """
    spread = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "width" not in entry:
            spread.append(entry)
            continue
        width, rest = entry["width"], {key: value for key, value in entry.items() if key != "width"}
        is_width = isinstance(width, int) and not isinstance(width, bool) and width > 0
        if not is_width or entry.get("kind") != "dense":
            raise UsageError(
                f"{where}, feature `{entry.get('name', '?')}`: width is {width!r}; expected a whole number from 1, on "
                "a feature of kind dense whose column holds vectors."
            )
        spread.extend({**rest, "name": f"{entry.get('name', '?')}[{place}]"} for place in range(width))
    return spread


def for_elements(declared: Mapping[str, _Value], features: Iterable[str]) -> dict[str, _Value]:
    """Give what is declared for a vector's column to each of its elements among `features`.

    >>> for_elements({"image": 1, "price": 2}, ["image[0]", "image[1]", "price"])
    {'image[0]': 1, 'image[1]': 1, 'price': 2}
    """
    elements = {name: element[0] for name in features if (element := vector_element(name))}
    of_vectors = {name: declared[column] for name, column in elements.items() if column in declared}
    return {**of_vectors, **{name: value for name, value in declared.items() if name not in set(elements.values())}}
