"""Finds where the host would wait for a GPU, on a CPU: by what a step calls, wherever in the libraries it does."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
# Whose results have as many numbers as the device finds, or are numbers of the host.
_OPERATORS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere", "masked_select"),
    *("bincount", "histc", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
# That read a tensor without an operator where it lies on a CPU, or bring it there.
_METHODS = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"}
_FACTORIES = (torch.tensor, torch.as_tensor, torch.asarray)


class _Operators(TorchDispatchMode):
    """Sees every operator, those of the backward pass among them."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _OPERATORS or _finds_size(name, args, kwargs or {}):
            self._found[f"{name} in {_caller()}"] += 1
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Sees what Python asks of torch."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        makes_there = func in _FACTORIES and (kwargs or {}).get("device") is not None
        # A list as an index becomes a tensor that is copied to the device; a number or a slice does not.
        makes_there |= name in ("__getitem__", "__setitem__") and _has_list(args[1])
        if makes_there or (name in _METHODS and args and isinstance(args[0], Tensor)):
            self._found[f"{name} in {_caller()}"] += 1
        return func(*args, **(kwargs or {}))


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(each, list) for each in index))


def _finds_size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the device must be asked how large the result is."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_"):
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return False


def _caller() -> str:
    """The file and function of the project, or else of a library, that is nearest."""
    frame, nearest = sys._getframe(2), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "recsys"):
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}{nearest}"
        if not nearest and (library := next((name for name in ("fbgemm_gpu", "torchrec") if name in path.parts), "")):
            nearest = f" ({library}'s {path.name}:{frame.f_code.co_name})"
        frame = frame.f_back
    return f"no file of the project{nearest}"


@contextmanager
def host_waits() -> Iterator[Counter[str]]:
    """Within it every wait that a GPU would cause is counted, by what it is and where; nothing is told twice."""
    found = Counter[str]()
    with _Operators(found), _Calls(found):
        yield found
