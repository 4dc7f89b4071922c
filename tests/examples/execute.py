"""Execute notebooks and write them back with their outputs.

    python -m tests.examples.execute examples/*.ipynb

A notebook's cells run in one fresh process and in an empty folder, as `exec` would run them; `%%writefile` is the one
magic that is known. Jupyter would bring thirty packages for this.
"""

import ast
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.architecture.sources import REPOSITORY
from tests.faults.commands import fork_the_server_of_arms

WRITEFILE = "%%writefile "
Output = dict[str, Any]


def executed(path: Path) -> dict[str, Any]:
    """Return a notebook with the outputs of its cells, run in a process of its own; it is not written.

    Raises:
        CalledProcessError: a cell raised what stands on the standard error.
    """
    code = "import sys; from tests.examples.execute import _execute; _execute(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as beside:
        result = Path(beside, "executed.ipynb")
        # As in Jupyter the main module is no file, and modules that a cell writes lie in the working folder.
        subprocess.run(
            [sys.executable, "-c", code, str(path.resolve()), str(result)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "agg"},
            check=True,
        )
        document: dict[str, Any] = json.loads(result.read_text("utf-8"))
    return document


def execute_in(folder: str, notebook_file: str, result_file: str) -> None:
    """The same in this process, which has imported what cells import, and in a folder that is given."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.modules["__main__"] = ModuleType("__main__")
    fork_the_server_of_arms()
    _execute(notebook_file, result_file)


def _execute(notebook_file: str, result_file: str) -> None:
    notebook = json.loads(Path(notebook_file).read_text("utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        cell["outputs"] = _outputs("".join(cell["source"]), names, number)
        cell["execution_count"] = number
    Path(result_file).write_text(json.dumps(notebook), encoding="utf-8")


def _outputs(source: str, names: dict[str, Any], number: int) -> list[Output]:
    if source.startswith(WRITEFILE):
        first, _, text = source.partition("\n")
        file = first.removeprefix(WRITEFILE)
        Path(file).write_text(text + "\n", encoding="utf-8")
        return [_stream(f"Writing {file}\n")]
    *body, last = ast.parse(source).body
    is_shown = isinstance(last, ast.Expr) and not source.rstrip().endswith(";")
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body if is_shown else [*body, last], []), f"<cell {number}>", "exec"), names)
        value = None
        if is_shown and isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    outputs = [_stream(printed.getvalue())] if printed.getvalue() else []
    if value is not None:
        shown = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = _lines(value._repr_html_())
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": shown})
    return [*outputs, *_figures()]


def _stream(text: str) -> Output:
    return {"output_type": "stream", "name": "stdout", "text": _lines(text)}


def _figures() -> list[Output]:
    """The figures that are open, which are closed."""
    from matplotlib import pyplot

    outputs = []
    for number in pyplot.get_fignums():
        picture = io.BytesIO()
        pyplot.figure(number).savefig(picture, format="png", dpi=80, bbox_inches="tight")
        data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    pyplot.close("all")
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:]):
        each.write_text(json.dumps(executed(each), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(each)
