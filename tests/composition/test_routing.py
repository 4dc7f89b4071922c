"""Rows through their own segment's module, and back in order."""

import pytest
import torch
from torch import nn

from recsys.composition.routing import RowsBySegment


class Recorder(nn.Module):
    """Multiplies by `factor` and remembers how many rows it saw in each call."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.calls: list[int] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(rows))
        return rows * self.factor


def test_every_row_passes_its_own_segments_module_and_keeps_its_place() -> None:
    modules = [Recorder(10), Recorder(100), Recorder(1000)]
    rows = torch.arange(1.0, 7.0).unsqueeze(1)

    result = RowsBySegment(torch.tensor([2, 0, 1, 0, 2, 2]), [2, 1, 3]).apply(modules, rows)

    assert result.flatten().tolist() == [1000, 20, 300, 40, 5000, 6000]
    assert [module.calls for module in modules] == [[2], [1], [3]]


def test_an_absent_segments_module_is_not_called() -> None:
    modules = [Recorder(10), Recorder(100), Recorder(1000)]

    RowsBySegment(torch.tensor([2, 0, 0]), [2, 0, 1]).apply(modules, torch.ones(3, 1))

    assert [module.calls for module in modules] == [[2], [], [1]]


def test_rows_of_any_further_shape_are_routed() -> None:
    rows = torch.randn(5, 2, 3)

    result = RowsBySegment(torch.tensor([1, 0, 1, 1, 0]), [2, 3]).apply([nn.Identity(), Recorder(2)], rows)

    torch.testing.assert_close(result, rows * torch.tensor([2, 1, 2, 2, 1.0]).view(5, 1, 1))


@pytest.mark.parametrize(
    ("segments", "rows"),
    [({0}, [1, 3]), ({1}, []), ({2, 0}, [0, 1, 3, 4]), ({0, 1, 2, 3}, [0, 1, 2, 3, 4]), (set(), [])],
)
def test_the_rows_of_some_segments_come_in_the_batchs_order(segments: set[int], rows: list[int]) -> None:
    by_segment = RowsBySegment(torch.tensor([2, 0, 3, 0, 2]), [2, 0, 2, 1])

    assert by_segment.of(segments).tolist() == rows
