"""What knobs of `conf/` have in common: the dataclass that checks them, and their ranges."""

from typing import Annotated, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_Knobs = TypeVar("_Knobs")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def checked_dataclass(knobs: type[_Knobs]) -> type[_Knobs]:
    """Make a frozen dataclass that is given by keyword, checks its values and refuses keys that it does not know."""
    return cast(type[_Knobs], dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)(knobs))


# What every count fits in, also where it is multiplied by another one in 64 bits.
_MOST = 2**31 - 1
_LEAST_MB = 16
PositiveInt = Annotated[int, Field(gt=0, le=_MOST, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
# What every generator takes (NumPy's RandomState, which Optuna draws from, is the narrowest).
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]
# Beyond these nothing is wider, deeper, more parallel or longer on purpose, and building it would hang or overflow.
Width = Annotated[int, Field(gt=0, le=65_536, strict=True)]
Members = Annotated[int, Field(gt=0, le=256, strict=True)]
Layers = Annotated[int, Field(gt=0, le=1000, strict=True)]
Processes = Annotated[int, Field(gt=0, le=1024, strict=True)]
Days = Annotated[int, Field(gt=0, le=36_500, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


def _require_room(limit: str) -> str:
    if not _LEAST_MB <= float(limit[:-2]) * (1000 if limit.endswith("GB") else 1) <= _MOST:
        raise ValueError(f"`runtime.memory_limit` is {limit!r}; expected {_LEAST_MB}MB or more, such as 4GB")
    return limit


MemoryLimit = Annotated[str, Field(pattern=r"^\d{1,10}(\.\d{1,10})?(MB|GB)$"), AfterValidator(_require_room)]
