"""Declarations: plain values, of a YAML file or of Python, checked against typed forms.

A form is a frozen dataclass whose annotations say what each key may hold; pydantic holds documents against them, while
an object made in code is as free as any dataclass. Whatever does not fit is refused in one way: where it stands, what
was found, what is expected, and the nearest name that is known.
"""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic.type_adapter import TypeAdapter
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import custom_error_schema, no_info_before_validator_function

from recsys.errors import UsageError, did_you_mean

_Value = TypeVar("_Value")


class Expected:
    """An annotation: how to say what a value must be, whichever check it fails.

    It stands last in an `Annotated`, so that it covers the checks before it.

    Args:
        what: the end of the sentence "found ...; expected ...".
        words: the values that are allowed, if they can be listed; they follow `what`, and the nearest one is offered.
    """

    def __init__(self, what: str, words: Collection[str] = ()) -> None:
        self._what = f"{what} {', '.join(words)}" if words else what
        self._words = tuple(words)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Wrap the check of the annotated type; pydantic calls it."""
        return custom_error_schema(
            handler(source),
            custom_error_type="expected",
            custom_error_message="{what}",
            custom_error_context={"what": self._what, "words": self._words},
        )


@dataclass(frozen=True)
class Declaration:
    """A form of keys with values; its fields are the keys, and a key without a default is required."""

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """The keys that may and those that must stand there; a form of several kinds asks `values` which it is."""
        own = fields(cls)
        required = [each.name for each in own if each.default is MISSING and each.default_factory is MISSING]
        return [each.name for each in own], required

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Look at the keys before their values; pydantic calls it."""
        # Its own refusal of a key does not know which others there are, so it could name neither them nor the nearest.
        schema = dict(handler(source))
        # A form that stands in two places is built once, and found again by this name: with its keys' check, not
        # without it.
        name = schema.pop("ref", None)
        return no_info_before_validator_function(cls._require_keys, cast(CoreSchema, schema), ref=name)

    @classmethod
    def _require_keys(cls, values: Any) -> Any:
        if isinstance(values, Declaration):
            return values
        if not isinstance(values, Mapping):
            first = " and ".join(f"`{each.name}:`" for each in fields(cls)[:2])
            raise PydanticCustomError("form", "{what}", {"what": f"keys such as {first}"})
        known, required = cls.keys(values)
        if unknown := sorted({str(key) for key in values} - set(known)):
            raise ValueError(
                f"unknown key `{unknown[0]}`{did_you_mean(unknown[0], known)}; expected some of {', '.join(known)}."
            )
        if missing := [key for key in required if key not in values]:
            raise ValueError(f"the key `{missing[0]}` is missing; it has no default.")
        return dict(values)

    @classmethod
    def checked(cls, values: Any, where: str) -> Self:
        """Check plain values and return them typed.

        Args:
            where: where they stand, at the beginning of the message ("Schema file shop.yaml").

        Raises:
            UsageError: names the first key whose value cannot be meant.
        """
        try:
            typed: Self = _adapter(cls).validate_python(values)  # type: ignore[arg-type]
        except ValidationError as error:
            raise UsageError(_explain(error.errors(include_url=False)[0], where)) from error
        return typed


def _mapping(values: Any) -> dict[Any, Any]:
    if not isinstance(values, Mapping):
        raise PydanticCustomError("form", "{what}", {"what": "keys with values"})
    return dict(values)


def _with_text_keys(values: Any) -> dict[str, Any]:
    return {str(key): value for key, value in _mapping(values).items()}


def _required(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("expected", "{what}", {"what": "a value, or no such key", "words": ()})
    return value


def such_that(is_meant: Callable[[Any], bool]) -> AfterValidator:
    """An annotation: a condition on a value of the right type; `Expected` behind it says it in words."""

    def require(value: _Value) -> _Value:
        if not is_meant(value):
            raise ValueError
        return value

    return AfterValidator(require)


def _sequence(value: Any) -> Any:
    # Of pydantic's own sequences a set has no order, and an order means something in every declaration.
    if not isinstance(value, list | tuple):
        raise ValueError
    return value


Named = Annotated[dict[str, _Value], BeforeValidator(_with_text_keys)]
"""Names that the user chooses, with a value each. YAML reads a bare 1 as a number; as a name it is text."""
ByValue = Annotated[dict[Any, _Value], BeforeValidator(_mapping)]
"""Values of a column, of any type, with a value each."""
Listed = Annotated[tuple[_Value, ...], BeforeValidator(_sequence)]
NOT_NULL = BeforeValidator(_required)
"""For a key that may be absent, but not null: an empty place in YAML is more often forgotten than meant."""

Word = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[Word, Expected("a name, in quotation marks if YAML misreads it")]
Text = Annotated[Word, Expected("text")]


def shown(value: Any) -> str:
    """What was found, in a line."""
    # Cut to a line: what was found may be a whole document.
    return reprlib.repr(value)


@cache
def _adapter(form: type) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _explain(detail: ErrorDetails, where: str) -> str:
    # A block is part of the place, and the key is what the sentence is about.
    *blocks, key = [where, *map(str, detail["loc"])]
    place = ".".join([*blocks, key])
    if detail["type"] == "value_error":
        return f"{place}: {detail['ctx']['error']}"
    found, words = detail["input"], detail.get("ctx", {}).get("words", ())
    if detail["type"] == "form":
        return f"{place} is {shown(found)}; expected {detail['msg']}."
    strange = [each for each in (found if isinstance(found, list | tuple) else [found]) if each not in words]
    hint = did_you_mean(strange[0], words) if strange else ""
    return f"{'.'.join(blocks)}: `{key}` is {shown(found)}{hint}; expected {detail['msg']}."
