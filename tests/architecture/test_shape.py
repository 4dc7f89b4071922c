"""Files and functions that can be read in one sitting, and a docstring on everything public."""

import ast
from collections.abc import Iterator

from tests.architecture.sources import Source, sources

MAXIMUM_FILE_LINES = 350
MAXIMUM_FUNCTION_LINES = 60

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def long_functions(source: Source) -> list[str]:
    """Functions over `MAXIMUM_FUNCTION_LINES`, signature and docstring included."""
    return [
        f"{source.path}:{node.lineno} {node.name} has {length} lines"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAXIMUM_FUNCTION_LINES
    ]


def undocumented(source: Source) -> list[str]:
    """Modules, and public classes, functions and methods, without a docstring."""
    found = [] if ast.get_docstring(source.tree) else [f"{source.path} has no docstring"]
    return found + [
        f"{source.path}:{node.lineno} {node.name} has no docstring"
        for node in _public(source.tree)
        if ast.get_docstring(node) is None
    ]


def _public(parent: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for node in parent.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and not _is_overload(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def _is_overload(node: Definition) -> bool:
    return any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    lengths = {str(source.path): source.text.count("\n") for source in sources()}
    assert {path: length for path, length in lengths.items() if length > MAXIMUM_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    assert [found for source in sources() for found in long_functions(source)] == []


def test_everything_public_has_a_docstring() -> None:
    assert [found for source in sources() for found in undocumented(source)] == []


def test_long_function_and_missing_docstring_are_found() -> None:
    body = "    x = 0\n" * MAXIMUM_FUNCTION_LINES
    source = Source.of(
        "recsys/made.py", f"class Made:\n    def method(self): ...\n\ndef long():\n{body}\ndef _own(): ...\n"
    )

    assert long_functions(source) == ["recsys/made.py:4 long has 61 lines"]
    assert undocumented(source) == [
        "recsys/made.py has no docstring",
        "recsys/made.py:1 Made has no docstring",
        "recsys/made.py:2 method has no docstring",
        "recsys/made.py:4 long has no docstring",
    ]
