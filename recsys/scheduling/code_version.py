"""The version of the code that a result follows from: of every definition of ours that its entry functions reach.

Files are parsed, never imported. Followed are the names that a definition uses, through imports, to the definitions
that they stand for, and on from there; dotted names in texts ("recsys.build:rebuild_ranker") are names too. A class
counts with all of its methods, and what a file does when it is imported counts as soon as anything of it is reached.
Comments, docstrings, formatting and the words of an error that is raised are no part of it: whoever mends a sentence
restarts nothing.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recsys", "pipelines")
_WHEN_IMPORTED = "<import>"
_DOTTED_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+(:\w+)?")


@dataclass
class ReachedCode:
    """What `reached_code` found.

    Attributes:
        definitions: dotted name -> a digest of what it says, such as "recsys.files.fingerprint_of".
        libraries: the packages of others that these definitions use, by the names that they are imported by.
        left_out: the entries of `without` that something led to.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)


def reached_code(entries: Collection[str], without: Collection[str] = (), root: Path = ROOT) -> ReachedCode:
    """Follow these definitions to all that they use.

    >>> sorted(reached_code(["recsys.files.fingerprint_of"]).definitions)
    ['recsys.<import>', 'recsys.files.canonical_json', 'recsys.files.fingerprint_of']

    Args:
        entries: dotted names of functions and classes.
        without: dotted names of definitions, modules or packages that are not followed and do not count.
        root: the folder that holds our packages.

    Raises:
        LookupError: there is no such entry.
    """
    found = ReachedCode()
    names, waiting = _Names(root, found), []
    for entry in entries:
        if not (places := list(names.at(entry.split(".")))):
            raise LookupError(f"There is no definition {entry} below {root}.")
        waiting += places
    while waiting:
        module, name = waiting.pop()
        place = f"{module.name}.{name}"
        if place in found.definitions:
            continue
        if left_out := [each for each in without if place == each or place.startswith(f"{each}.")]:
            found.left_out.update(left_out)
            continue
        found.definitions[place], used = module.piece(name)
        for parts in used:
            waiting += names.seen_from(module, parts)
        waiting += [(each, _WHEN_IMPORTED) for each in names.imported_with(module) if each.does_something]
    return found


class _Module:
    """One file, parsed: what its top level defines, what its imported names stand for, what it does when imported."""

    def __init__(self, name: str, is_package: bool, text: str) -> None:
        self.name = name
        self.statements: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, set[str]] = {}
        self._pieces: dict[str, tuple[str, set[tuple[str, ...]]]] = {}
        self._package = name if is_package else name.rpartition(".")[0]
        for statement in ast.parse(text).body:
            defined = _defined_by(statement)
            for node in [] if defined else ast.walk(statement):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self._note_import(node)
            if not isinstance(statement, ast.Import | ast.ImportFrom) and not _is_text(statement):
                for each in defined or [_WHEN_IMPORTED]:
                    self.statements.setdefault(each, []).append(statement)

    @property
    def does_something(self) -> bool:
        """Whether importing it does more than define names."""
        return _WHEN_IMPORTED in self.statements

    @property
    def definitions(self) -> list[str]:
        """The names that its top level defines."""
        return [name for name in self.statements if name != _WHEN_IMPORTED]

    def piece(self, name: str) -> tuple[str, set[tuple[str, ...]]]:
        """A digest of a definition's code, and the names in it, dotted ones in their parts."""
        if name not in self._pieces:
            read = [_Reading(statement) for statement in self.statements[name]]
            for each in (found for reading in read for found in reading.imports):
                self._note_import(each)
            said = " ".join(word for reading in read for word in reading.said)
            names = {found for reading in read for found in reading.names}
            self._pieces[name] = sha256(said.encode()).hexdigest()[:16], names
        return self._pieces[name]

    def _note_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                stands_for = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imported.setdefault(alias.asname or stands_for, set()).add(stands_for)
            return
        package = self._package.split(".")
        above = package[: len(package) - node.level + 1] if node.level else []
        base = [*above, *([node.module] if node.module else [])]
        for alias in node.names:
            self.imported.setdefault(alias.asname or alias.name, set()).add(".".join([*base, alias.name]))


class _Names:
    """Which definition a name stands for; libraries that it meets are noted."""

    def __init__(self, root: Path, found: ReachedCode) -> None:
        self._root, self._found = root, found
        self._modules: dict[str, _Module | None] = {}

    def seen_from(self, module: _Module, parts: Collection[str]) -> Iterator[tuple[_Module, str]]:
        """The definitions that a dotted name in a module's code may mean."""
        head, *rest = parts
        if head in PACKAGES:
            yield from self.at(list(parts))
        if head in module.statements:
            yield module, head
        for stands_for in module.imported.get(head, ()):
            yield from self.at([*stands_for.split("."), *rest])

    def at(self, parts: list[str]) -> Iterator[tuple[_Module, str]]:
        """The definitions at a dotted name that begins with a package; a module by itself means all of it."""
        if parts[0] not in PACKAGES:
            if parts[0] not in sys.stdlib_module_names:
                self._found.libraries.add(parts[0])
            return
        for end in range(len(parts), 0, -1):
            if module := self._module(".".join(parts[:end])):
                rest = parts[end:]
                yield from self.seen_from(module, rest) if rest else ((module, each) for each in module.definitions)
                return

    def imported_with(self, module: _Module) -> Iterator[_Module]:
        """The module and the packages that it lies in, all of which are imported before anything of it is used."""
        parts = module.name.split(".")
        for end in range(1, len(parts) + 1):
            if each := self._module(".".join(parts[:end])):
                yield each

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = self._root.joinpath(*name.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            is_there = file.is_file()
            self._modules[name] = _parsed(name, path.is_dir(), file.read_text("utf-8")) if is_there else None
        return self._modules[name]


@cache
def _parsed(name: str, is_package: bool, text: str) -> _Module:
    return _Module(name, is_package, text)


class _Reading:
    """What a statement says, its words left out, and the names in it.

    Attributes:
        said: its syntax tree, written down; where it stands in the file is no part of it.
        names: dotted ones in their parts.
        imports: those inside of it.
    """

    def __init__(self, statement: ast.stmt) -> None:
        self.said: list[str] = []
        self.names: set[tuple[str, ...]] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self._is_raised = False
        self._read(statement)

    def _read(self, node: ast.AST) -> None:
        if _is_text(node) or (self._is_raised and _are_words(node)):
            return
        if isinstance(node, ast.Name | ast.Attribute):
            self._note(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED_NAME.fullmatch(node.value):
            self.names.add(tuple(re.split("[.:]", node.value)))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.append(node)
        self._is_raised |= isinstance(node, ast.Raise)
        self._read_fields(node)
        self._is_raised &= not isinstance(node, ast.Raise)

    def _read_fields(self, node: ast.AST) -> None:
        self.said.append(f"({type(node).__name__}")
        for name in node._fields:
            # What is empty is not written, so that a version of Python which knows another field reads the same.
            if name != "ctx" and (value := getattr(node, name, None)) not in (None, []):
                self.said.append(name)
                for each in value if isinstance(value, list) else [value]:
                    if isinstance(each, ast.AST):
                        self._read(each)
                    else:
                        self.said.append(repr(each))
        self.said.append(")")

    def _note(self, node: ast.expr) -> None:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if isinstance(node, ast.Name):
            self.names.add((node.id, *parts))


def _are_words(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_text(node: ast.AST) -> bool:
    # A docstring, of an attribute too.
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _defined_by(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        return [name.id for name in names if isinstance(name.ctx, ast.Store)]
    return []
