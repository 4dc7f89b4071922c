"""Files and functions that can be read in one sitting, names that exist once, and a docstring on all that is public."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.architecture.sources import Source, imports, sources

MAXIMUM_FILE_LINES = 350
MAXIMUM_FUNCTION_LINES = 60

# "(B, D)", "(rows,)", "(B, ...)", "()"; or in words: "scalar", "of any shape", "of that shape", "shaped as".
SHAPE = re.compile(r"\([\w*+ ]+,[^()]*\)|\(\)|\bscalar|\b(any|that|own|same) shape|\bshaped as", re.IGNORECASE)

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


def named_twice(files: Iterable[Source]) -> list[str]:
    """File names and public class names that stand for two things, with the places of both.

    A command's file may share the name of the library's file that it calls.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for source in files:
        calls_its_namesake = any(name.rpartition(".")[2] == source.path.stem for name, _ in imports(source))
        if source.path.name != "__init__.py" and not (source.room == "pipelines" and calls_its_namesake):
            places[source.path.name].append(str(source.path))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[f"class {node.name}"].append(str(source.path))
    return [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def shapeless(source: Source) -> list[str]:
    """Public functions and methods with tensors in their signature whose docstring tells no shape.

    Where the class's docstring does, `forward` need not repeat it.
    """
    found = []
    for parent in [source.tree, *(node for node in _public(source.tree) if isinstance(node, ast.ClassDef))]:
        of_class = (ast.get_docstring(parent) or "") if isinstance(parent, ast.ClassDef) else ""
        for node in parent.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or _is_overload(node):
                continue
            kinds = [argument.annotation for argument in _arguments(node.args)] + [node.returns]
            has_tensors = any(re.search(r"\bTensor\b", ast.unparse(kind)) for kind in kinds if kind is not None)
            told = (ast.get_docstring(node) or "") + (of_class if node.name == "forward" else "")
            if has_tensors and not SHAPE.search(told):
                found.append(f"{source.path}:{node.lineno} {node.name} tells no shape")
    return found


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


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


def test_every_file_and_every_public_class_has_a_name_of_its_own() -> None:
    assert named_twice(sources()) == []


def test_every_public_function_with_tensors_tells_their_shapes() -> None:
    assert [found for source in sources() for found in shapeless(source)] == []


def test_names_that_stand_twice_and_tensors_without_a_shape_are_found() -> None:
    made = [
        Source.of("recsys/run/train.py", "class Run: ...\nclass _Own: ..."),
        Source.of("recsys/api.py", "class Run: ...\nclass _Own: ..."),
        Source.of("recsys/study/train.py", ""),
        Source.of("pipelines/train.py", "from recsys.run import train"),
    ]
    assert named_twice(made) == [
        "train.py: recsys/run/train.py, recsys/study/train.py",
        "class Run: recsys/run/train.py, recsys/api.py",
    ]
    functions = [
        'def f(x: Tensor) -> None:\n    """Take x."""',
        'def g(x: Tensor) -> None:\n    """Take x, (B, D)."""',
        'def h() -> dict[str, Tensor]:\n    """Return all."""',
    ]
    assert shapeless(Source.of("recsys/made.py", "\n".join(functions))) == [
        "recsys/made.py:1 f tells no shape",
        "recsys/made.py:5 h tells no shape",
    ]


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
