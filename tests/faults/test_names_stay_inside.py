"""Names become paths: none leads out of the folder that it is for."""

import pytest

from recsys.config.compose import compose_config
from recsys.errors import UsageError

OUTWARD = ["../x", "/etc/x", "a/b", "..", ".hidden", "x\0y", "x" * 65, "-x", "a b"]


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("key", ["data.name", "ablation.name"])
def test_a_name_of_data_or_of_a_study_is_one_plain_word(key: str, name: str):
    with pytest.raises(UsageError, match=rf"`{key}` is"):
        compose_config([f"{key}={name}"])
