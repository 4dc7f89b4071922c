"""A tower's version: the same as long as no bit of what it was made with changes."""

import pytest
import torch

from recsys.errors import DataError
from recsys.towers.version import TowerVersion

TABLE, LAYER = "ebc.embedding_bags.tower_item.weight", "item_side.0.weight"


def weights(rows: int = 3) -> dict[str, torch.Tensor]:
    return {TABLE: torch.arange(rows * 2.0).reshape(rows, 2), LAYER: torch.ones(2, 2)}


def test_appended_rows_leave_version_and_digest_as_they_are():
    version = TowerVersion.of(weights(3))
    assert version.after(weights(5)) is version
    assert version.parent == ""


@pytest.mark.parametrize("name", [TABLE, LAYER])
def test_a_changed_bit_makes_a_new_version_that_names_its_parent(name):
    version, changed = TowerVersion.of(weights()), weights()
    changed[name][0, 0] = -0.0 if name == TABLE else 1.0 + 2**-20
    after = version.after(changed)
    assert after.parent == version.version
    assert after.version != version.version
    assert after.digest != version.digest
    assert not version.is_in(changed)


def test_a_version_comes_back_from_its_document_and_a_torn_one_is_refused():
    version = TowerVersion.of(weights())
    assert TowerVersion.from_document(version.to_document()) == version
    with pytest.raises(DataError, match="no tower's version"):
        TowerVersion.from_document({"version": "1"})
