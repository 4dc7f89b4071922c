"""Maps from new vectors to old ones where the right one is known, and where there is none."""

import pytest
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.towers.linear_map import NONE, PROCRUSTES, RIDGE, LinearMap, fit_maps

COUNT, WIDTH = 300, 6


def drawn(seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(COUNT, width, generator=torch.Generator().manual_seed(seed))


def fitted(new: Tensor, old: Tensor) -> dict[str, LinearMap]:
    return {each.method: each for each in fit_maps(new, old, seed=0)}


def test_a_rotation_is_found_by_procrustes_on_ids_that_were_held_out():
    turn = torch.linalg.qr(drawn(1)[:WIDTH])[0]
    maps = fitted(drawn(0) @ turn, drawn(0))

    torch.testing.assert_close(maps[PROCRUSTES].matrix, turn.T.double(), atol=1e-6, rtol=0)
    assert maps[PROCRUSTES].r2 == pytest.approx(1, abs=1e-10)
    assert maps[PROCRUSTES].cosine == pytest.approx(1, abs=1e-10)
    assert (maps[PROCRUSTES].fitted, maps[PROCRUSTES].held_out) == (240, 60)
    assert maps[NONE].r2 < 0.5


def test_a_map_that_stretches_is_found_by_ridge_and_procrustes_keeps_lengths():
    stretch = torch.diag(torch.tensor([0.2, 0.5, 1.0, 2.0, 4.0, 8.0]))
    maps = fitted(drawn(0), drawn(0) @ stretch)

    assert maps[RIDGE].r2 > 0.999
    assert maps[PROCRUSTES].r2 < 0.5
    turn = maps[PROCRUSTES].matrix
    torch.testing.assert_close(turn @ turn.T, torch.eye(WIDTH, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("narrow", [4, 8])
def test_other_widths_are_brought_to_the_old_one_and_are_never_used_as_they_are(narrow: int):
    into = torch.linalg.qr(drawn(2, 8)[:8])[0]
    wide = drawn(0, 8) @ into
    new, old = (wide[:, :narrow], wide) if narrow == 4 else (wide, wide[:, :4])
    maps = fitted(new, old)

    assert set(maps) == {PROCRUSTES, RIDGE}
    assert all(each.matrix.shape == (new.shape[1], old.shape[1]) for each in maps.values())
    if narrow == 8:
        assert maps[RIDGE].r2 > 0.999
        turn = maps[PROCRUSTES].matrix
        torch.testing.assert_close(turn.T @ turn, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)
    else:
        assert maps[RIDGE].r2 < 0.7, "half of the numbers cannot tell the other half"


def test_vectors_that_have_nothing_to_do_with_the_old_ones_are_found_out_on_held_out_ids():
    assert all(each.r2 < 0.1 for each in fit_maps(drawn(5), drawn(0), seed=0))


def test_too_few_shared_ids_are_refused_with_the_numbers():
    with pytest.raises(DataError, match="share 7 ids, of which 6 are for fitting a map from 8 to 8 numbers"):
        fit_maps(drawn(0, 8)[:7], drawn(0, 8)[:7], seed=0)
