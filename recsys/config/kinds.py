"""Kinds: the variants that a group of the configuration offers, the built-in ones and those of a user's own modules."""

import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from recsys.errors import UsageError
from recsys.files import fingerprint_of

MODULE = "module"
"""The key of a recorded kind that says which module of the user's registers it; a built-in one has no such key."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MISSING = "???"  # Hydra's word for a value that must be given
_Base = TypeVar("_Base")
_Variant = TypeVar("_Variant")


class Kinds(Generic[_Base]):
    """The variants of one group, by the `name` that chooses among them.

    As an annotation (`Annotated[NetworkConfig, NETWORKS]`) it stands for their union, told apart by `name`.

    Args:
        group: the key of the configuration that they stand under.
        base: the class of what all of them have.
    """

    def __init__(self, group: str, base: type[_Base]) -> None:
        self.group = group
        self._base = base
        self._variants: dict[Any, type[Any]] = {}
        self._sources: dict[str, str] = {}

    def add(self, variant: type[_Variant]) -> type[_Variant]:
        """Offer a variant; it takes the place of one that its module defined before, as when that is reloaded.

        Raises:
            UsageError: it is no `checked_dataclass` of the group's base, has no name of its own, or no module that
                others can import.
        """
        name = _name_of(variant, self._base)
        module, taken = variant.__module__, self._variants.get(name)
        if taken is not None and taken.__module__ != module:
            raise UsageError(
                f"`{self.group}={name}` is registered by `{taken.__module__}` already. Give that of "
                f"`{module}` another name."
            )
        if not _is_built_in(variant):
            # As it is now, imported: the file may be edited while this process goes on with what it has read.
            self._sources[name] = _source_of(variant)
        self._variants[name] = variant
        return variant

    @property
    def from_outside(self) -> list[str]:
        """The names of those that are not built in."""
        return list(self._sources)

    def knobs(self, name: object) -> dict[str, Any]:
        """A kind's knobs with their defaults, "???" where there is none; empty where there is no such kind."""
        if (variant := self._variants.get(name)) is None:
            return {}
        found = variant.__pydantic_fields__.items()
        own = {
            key: _MISSING if each.is_required() else each.get_default(call_default_factory=True) for key, each in found
        }
        return own | {"name": name}

    @property
    def every_knob(self) -> list[str]:
        """The knobs of all kinds, each once."""
        return list(dict.fromkeys(key for name in self._variants for key in self.knobs(name)))

    def origin(self, name: object) -> dict[str, str]:
        """What is recorded beside a kind's knobs: the module of the user's that registers it, if one does."""
        return {MODULE: self._variants[name].__module__} if name in self._sources else {}

    def source_of(self, name: str) -> str | None:
        """A digest of the code of the module, or package, that registers a kind; None for a built-in one."""
        return self._sources.get(name)

    def imported(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return a recorded kind's knobs, with the module imported that registers it.

        Raises:
            UsageError: it cannot be imported, or registers no such kind.
        """
        module, name = recorded.get(MODULE), recorded.get("name")
        if module is not None and (name not in self._variants or self.origin(name) != {MODULE: module}):
            import_kinds(str(module), f"`{self.group}={name}`")
            if name not in self._variants:
                raise UsageError(
                    f"`{self.group}={name}` was registered by `{module}`, which registers no such kind when it is "
                    f"imported now. Expected a call of `register_{self.group}` in it."
                )
        return {key: value for key, value in recorded.items() if key != MODULE}

    def from_document(self, recorded: Mapping[str, Any]) -> _Base:
        """Return a recorded kind, typed.

        Raises:
            UsageError: its module cannot be imported.
            ValidationError: it has a knob that its kind does not have, lacks one, or a value is out of range.
        """
        knobs = self.imported(recorded)
        variant: type[_Base] = self._variants[knobs["name"]]
        return variant(**knobs)

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The union of the variants that there are so far."""
        variants = {name: handler.generate_schema(variant) for name, variant in self._variants.items()}
        return tagged_union_schema(variants, discriminator="name")


def import_kinds(module: str, what: str) -> None:
    """Import a user's module, which registers kinds when it is imported.

    Args:
        what: is registered by it, for the message.

    Raises:
        UsageError: it cannot be imported; says how it can.
    """
    try:
        importlib.import_module(module)
    except UsageError:
        raise
    except Exception as error:
        # Whatever the user's own code may raise.
        raise UsageError(
            f"{what} is registered by the module `{module}`, which cannot be imported ({type(error).__name__}: "
            f"{error}). Put the folder that holds it on Python's path (PYTHONPATH=<folder>), or import it before."
        ) from error


def _name_of(variant: type, base: type) -> str:
    where = f"`{variant.__module__}.{variant.__qualname__}`"
    if not issubclass(variant, base):
        raise UsageError(f"{where} is no {base.__name__}. Derive it from that class.")
    if not is_pydantic_dataclass(variant):
        raise UsageError(f"{where} does not check its values. Put `@recsys.config.checked_dataclass` on it.")
    if variant.__module__ == "__main__":
        raise UsageError(
            f"{where} cannot be registered: other processes (a study's arms, a served model's scorer) import it by "
            "the name of its module. Put it into a file, such as my_kinds.py (in a notebook by `%%writefile "
            "my_kinds.py`), and import that."
        )
    names = get_args(get_type_hints(variant)["name"])
    if len(names) != 1 or not _NAME.fullmatch(str(names[0])):
        raise UsageError(
            f"{where} has no name of its own (found {names}). Give it one of letters, digits, `_` and `-`, such as "
            '`name: Literal["my_kind"]`.'
        )
    if MODULE in variant.__pydantic_fields__:
        raise UsageError(
            f"{where} has a knob `{MODULE}`, which is what its module is recorded under. Call it otherwise."
        )
    return str(names[0])


def _is_built_in(variant: type) -> bool:
    return variant.__module__.partition(".")[0] == __name__.partition(".")[0]


def _source_of(variant: type) -> str:
    """A digest of the file that a class stands in, or of all files of its package."""
    file = Path(inspect.getfile(variant))
    depth = variant.__module__.count(".") - (file.name != "__init__.py")
    files = sorted(file.parents[depth].rglob("*.py")) if depth >= 0 else [file]
    return fingerprint_of([each.read_text("utf-8", errors="surrogateescape") for each in files])
