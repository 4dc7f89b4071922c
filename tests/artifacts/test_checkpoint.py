"""A checkpoint is whole or passed over, is checked before it is read, and belongs to one contract."""

import json
from dataclasses import replace

import pytest
import torch

from recsys.artifacts.checkpoint import _other_format, newest_checkpoint, save_checkpoint
from recsys.errors import CannotWriteError, DataError
from recsys.sharding.divided_state import undivided
from tests.small_model import small_contract

CONTRACT = small_contract()
pytestmark = pytest.mark.usefixtures("context")
FILES = ["rank-0.safetensors", "rank-0.json", "manifest.json"]


def save(folder, *steps, keep_last=10):
    for step in steps:
        tensors = undivided({"model/weight": torch.full((40, 5), float(step))})
        facts, process = {"loop": {"step": step, "loss": 0.1 + 0.2}}, {"stream": step}
        save_checkpoint(folder, step, tensors, facts, process, CONTRACT, keep_last)


def load(folder, contract=CONTRACT):
    notices = []
    return newest_checkpoint(folder, contract, notices.append), notices


def test_what_was_saved_last_comes_back(tmp_path):
    save(tmp_path, 100, 200)

    checkpoint, notices = load(tmp_path)

    assert checkpoint.step == 200
    assert checkpoint.shapes == {"model/weight": (40, 5)}
    weight = torch.zeros(40, 5)
    checkpoint.read(undivided({"model/weight": weight}))
    assert torch.equal(weight, torch.full((40, 5), 200.0))
    assert checkpoint.process == {"stream": 200}
    assert checkpoint.facts == {"loop": {"step": 200, "loss": 0.1 + 0.2}}
    assert notices == []


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path):
    assert load(tmp_path / "absent") == (None, [])


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 5, 10, 100, 1000, keep_last=2)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00001000"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, 8, 0.3, 0.6, -1])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(tmp_path, name, position):
    save(tmp_path, 100, 200)
    file = tmp_path / "step-00000200" / name
    content = bytearray(file.read_bytes())
    content[int(position * len(content)) if isinstance(position, float) else position] ^= 1
    file.write_bytes(content)

    checkpoint, notices = load(tmp_path)

    assert checkpoint.step == 100
    assert notices == [f"checkpoint step 200 incomplete (sha256 mismatch in {name}), using 100"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_found_and_the_checkpoint_before_is_used(tmp_path, name, share):
    save(tmp_path, 100, 200)
    file = tmp_path / "step-00000200" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    checkpoint, notices = load(tmp_path)

    assert checkpoint.step == 100
    assert notices == [f"checkpoint step 200 incomplete (sha256 mismatch in {name}), using 100"]


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, 100, 200, 300)
    (tmp_path / "step-00000300" / "manifest.json").unlink()
    (tmp_path / "step-00000200" / "rank-0.json").unlink()

    checkpoint, notices = load(tmp_path)

    assert checkpoint.step == 100
    assert notices == [
        "checkpoint step 300 incomplete (no manifest), using 200",
        "checkpoint step 200 incomplete (no rank-0.json), using 100",
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_of_a_damaged_checkpoint_no_file_is_opened_by_a_parser(tmp_path, monkeypatch, name, damage):
    save(tmp_path, 100, 200)
    file = tmp_path / "step-00000200" / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    parsed = []

    def watched(path, tensors):
        parsed.append(path.parent.name)
        return _other_format(path, tensors)

    monkeypatch.setattr("recsys.artifacts.checkpoint._other_format", watched)

    assert load(tmp_path)[0].step == 100
    assert parsed == ["step-00000100"] * 2


def test_a_run_whose_checkpoints_are_all_broken_does_not_start_over_in_silence(tmp_path):
    save(tmp_path, 100)
    (tmp_path / "step-00000100" / "manifest.json").unlink()

    with pytest.raises(DataError, match=r"None of the 1 checkpoints in .* is whole\. Move the folder away"):
        load(tmp_path)


def test_a_checkpoint_of_other_ids_is_refused_by_name(tmp_path):
    save(tmp_path, 100)
    vocabularies = {**CONTRACT.vocabulary_fingerprints, "item_id": "items-2"}

    with pytest.raises(
        DataError, match=r"step-00000100 was made with vocabulary of table `item_id` items-1, but .* items-2"
    ):
        load(tmp_path, replace(CONTRACT, vocabulary_fingerprints=vocabularies))


def test_a_half_written_folder_is_no_checkpoint(tmp_path):
    save(tmp_path, 100)
    (tmp_path / ".step-00000200.x1.partial").mkdir()

    checkpoint, notices = load(tmp_path)

    assert (checkpoint.step, notices) == (100, [])


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 100)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("recsys.artifacts.checkpoint.shutil.disk_usage", lambda _: usage)

    with pytest.raises(CannotWriteError, match=r"needs 1,049,376 bytes in .*, and 1,000 are free"):
        save(tmp_path, 200)

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000100"]


def test_a_format_of_another_version_is_refused(tmp_path):
    from recsys.files import fingerprint_of

    save(tmp_path, 100)
    manifest = tmp_path / "step-00000100" / "manifest.json"
    document = json.loads(manifest.read_text()) | {"format": 2}
    del document["fingerprint"]
    manifest.write_text(json.dumps(document | {"fingerprint": fingerprint_of(document)}))

    with pytest.raises(
        DataError, match=r"has format 2, and this version reads 3.* Resume it with the version that wrote it"
    ):
        load(tmp_path)


def test_a_write_that_fails_half_way_leaves_the_checkpoint_before_and_nothing_else(tmp_path, monkeypatch):
    def half_written(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    save(tmp_path, 100)
    monkeypatch.setattr("recsys.artifacts.checkpoint_storage.save_file", half_written)

    with pytest.raises(CannotWriteError, match=r"Cannot write .*step-00000200: No space left on device"):
        save(tmp_path, 200)

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000100"]
    assert load(tmp_path)[0].step == 100
