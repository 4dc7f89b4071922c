"""The repository's Python sources as the architecture tests read them: parsed, never imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Source:
    """One file of Python.

    Attributes:
        path: relative to the repository.
        module: its dotted name ("recsys.features.schema"; a folder's `__init__.py` has the folder's name).
    """

    path: Path
    module: str
    text: str
    tree: ast.Module

    @classmethod
    def of(cls, path: str, text: str) -> "Source":
        """Parse `text` as if it stood at `path`."""
        module = ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
        return cls(Path(path), module, text, ast.parse(text))

    @property
    def room(self) -> str:
        """The part of the house that it stands in: "features" for recsys/features/..., "build" for recsys/build.py."""
        return self.module.split(".")[1] if self.module.startswith("recsys.") else self.module.split(".")[0]


@cache
def sources() -> tuple[Source, ...]:
    """Every file below recsys/ and pipelines/."""
    paths = [path for top in ("recsys", "pipelines") for path in sorted((REPOSITORY / top).rglob("*.py"))]
    return tuple(Source.of(path.relative_to(REPOSITORY).as_posix(), path.read_text("utf-8")) for path in paths)


def imports(source: Source) -> Iterator[tuple[str, int]]:
    """Yield each imported dotted name with its line: at the top, inside functions, by name, and names from packages.

    `from recsys.features import schema` yields both "recsys.features" and "recsys.features.schema".
    """
    package = source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((str(name.value), node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant))


def lies_in(name: str, place: str) -> bool:
    """Whether a dotted name is `place` or lies below it."""
    return name == place or name.startswith(f"{place}.")
