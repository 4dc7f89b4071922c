"""The ranges that knobs of `conf/` have in common, and how a knob is refused where it means nothing."""

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid")
# What every count fits in, also where it is multiplied by another one in 64 bits.
_MOST = 2**31 - 1
_LEAST_MB = 16
PositiveInt = Annotated[int, Field(gt=0, le=_MOST, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
# What every generator takes (NumPy's RandomState, which Optuna draws from, is the narrowest).
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]
# Beyond these nothing is wider, deeper, more parallel or longer on purpose, and building it would hang or overflow.
Width = Annotated[int, Field(gt=0, le=65_536, strict=True)]
Layers = Annotated[int, Field(gt=0, le=1000, strict=True)]
Processes = Annotated[int, Field(gt=0, le=1024, strict=True)]
Days = Annotated[int, Field(gt=0, le=36_500, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


def _require_room(limit: str) -> str:
    if not _LEAST_MB <= float(limit[:-2]) * (1000 if limit.endswith("GB") else 1) <= _MOST:
        raise ValueError(f"`runtime.memory_limit` is {limit!r}; expected {_LEAST_MB}MB or more, such as 4GB")
    return limit


MemoryLimit = Annotated[str, Field(pattern=r"^\d{1,10}(\.\d{1,10})?(MB|GB)$"), AfterValidator(_require_room)]


def require_exactly(what: str, knobs: dict[str, Any], needed: set[str]) -> None:
    """Raise a ValueError unless the needed ones of the knobs are given, and the others are null."""
    for name, value in knobs.items():
        if name in needed and value is None:
            raise ValueError(f"{what} needs `{name}`, which is null")
        if name not in needed and value is not None:
            raise ValueError(f"{what} has no `{name}`; set it to null (found {value!r})")
