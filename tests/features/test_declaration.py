"""Forms of keys: what is refused, wherever a form stands."""

from dataclasses import dataclass, field

import pytest

from recsys.errors import UsageError
from recsys.features.declaration import Declaration, Named


@dataclass(frozen=True)
class _Inner(Declaration):
    size: int = 0


@dataclass(frozen=True)
class _Middle(Declaration):
    inner: _Inner = field(default_factory=_Inner)


@dataclass(frozen=True)
class _Outer(Declaration):
    middles: Named[_Middle] = field(default_factory=dict)
    inner: _Inner = field(default_factory=_Inner)
    other: _Inner | None = None


@pytest.mark.parametrize(
    "document", [{"inner": {"sise": 1}}, {"other": {"sise": 1}}, {"middles": {"a": {"inner": {"sise": 1}}}}]
)
def test_a_form_that_stands_in_several_places_refuses_unknown_keys_in_each(document: dict) -> None:
    with pytest.raises(UsageError, match=r"unknown key `sise` \(did you mean `size`\?\)"):
        _Outer.checked(document, "The file")


def test_a_form_is_read_from_its_keys() -> None:
    assert _Outer.checked({"middles": {"a": {"inner": {"size": 2}}}}, "The file").middles["a"].inner.size == 2
