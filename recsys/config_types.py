"""The ranges that knobs of `conf/` have in common, and how a knob is refused where it means nothing."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


def require_exactly(what: str, knobs: dict[str, Any], needed: set[str]) -> None:
    """Raise a ValueError unless the needed ones of the knobs are given, and the others are null."""
    for name, value in knobs.items():
        if name in needed and value is None:
            raise ValueError(f"{what} needs `{name}`, which is null")
        if name not in needed and value is not None:
            raise ValueError(f"{what} has no `{name}`; set it to null (found {value!r})")
