"""No composition, join, route or network stops under autocast, and what it learns is what it learns without."""

import pytest
import torch

from tests.method.lower_precision import ALL_AND_ONE_ABSENT, DESIGNS, assert_close_to_single_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("composition", "network"), DESIGNS)
@pytest.mark.parametrize("rows", ALL_AND_ONE_ABSENT.values(), ids=ALL_AND_ONE_ABSENT.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_gradients_are_finite_and_close_to_those_of_single_precision(composition, network, rows, dtype):
    assert_close_to_single_precision(composition, network, rows, dtype, CPU)
