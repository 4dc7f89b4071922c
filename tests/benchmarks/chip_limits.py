"""What the device can do at most, measured on the spot: a share of it then needs no table of data sheets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from training_run import clock

PRECISIONS = ("fp32", "tf32", "bf16")
"""Of matrix products: float32 as it is, float32 whose factors are cut to TF32's bits on a GPU, bfloat16."""


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within it, products of float32 factors keep all bits, or under "tf32" only those of TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def copy_rate(device: torch.device, megabytes: int) -> float:
    """Return the bytes read and written per second of one large copy within the device's memory."""
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def product_rate(device: torch.device, precision: str, size: int) -> float:
    """Return the floating-point operations per second of the product of two matrices, (size, size) each."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with products_in(precision):
        return 2 * size**3 / _seconds(lambda: torch.mm(left, right), device)


def _seconds(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    for _ in range(3):
        work()
    began = clock(device)
    for _ in range(times):
        work()
    return (clock(device) - began) / times
