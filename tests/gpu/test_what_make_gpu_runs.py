"""`make gpu` keeps to its time and says what went wrong; tested here with parts that need no GPU."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.benchmarks import on_gpu
from tests.benchmarks.on_gpu import ROOT, SECONDS, Part, all_parts, run


def part(name, code, seconds=60):
    return Part(name, ("-c", code), seconds)


def test_a_part_that_hangs_is_stopped_with_what_it_started_and_the_others_run(tmp_path):
    child = f"import time; time.sleep(3); open({str(tmp_path / 'left')!r}, 'w')"
    hangs = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    began = time.monotonic()

    faults = run([part("hangs", hangs, 1), part("fails", "raise SystemExit(3)"), part("works", "")], 30)

    assert faults == ["hangs: stopped after 1 s", "fails: ended with 3"]
    time.sleep(max(0.0, 4 - (time.monotonic() - began)))
    assert not (tmp_path / "left").exists()


def test_no_part_runs_past_the_end_of_all():
    faults = run([part("long", "import time; time.sleep(60)"), part("late", "")], 0.6)

    assert faults == ["long: stopped after 1 s", "late: not begun, the 1 s of all parts were over"]


def test_every_part_runs_the_clones_own_code(tmp_path):
    found = tmp_path / "found"
    assert run([part("where", f"import recsys; open({str(found)!r}, 'w').write(recsys.__file__)")], 60) == []
    assert found.read_text() == str(ROOT / "recsys" / "__init__.py")


def test_every_file_that_it_names_is_there_and_all_parts_fit_into_the_time():
    parts = all_parts(Path("figures.json"))
    files = [word for part in parts for word in part.words if "/" in word]
    assert len(files) == len(parts)
    assert all((ROOT / file).exists() for file in files)
    assert sum(part.seconds for part in parts) <= SECONDS <= 8 * 60


def test_what_a_part_had_measured_is_printed_last_although_it_was_stopped(capsys, monkeypatch):
    def stopped(document):
        measured = json.dumps({"rows": [1, 2]})
        return [part("stopped", f"import time; open({str(document)!r}, 'w').write({measured!r}); time.sleep(60)", 1)]

    monkeypatch.setattr(on_gpu, "all_parts", stopped)
    monkeypatch.setattr(on_gpu, "describe", lambda: "a GPU")
    assert on_gpu.main() == 1
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == {"rows": [1, 2], "faults": ["stopped: stopped after 1 s"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_without_a_gpu_it_says_so_and_ends_with_2(capsys, monkeypatch):
    monkeypatch.setattr(on_gpu, "run", lambda *_: pytest.fail("began"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert on_gpu.main() == 2
    assert "This needs a machine with an NVIDIA GPU, but torch" in capsys.readouterr().err
