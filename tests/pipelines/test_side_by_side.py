"""Jobs in processes of their own: so many at once, each one's failure its own, each from the same state."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recsys.errors import DataError
from recsys.progress import Progress, silent
from recsys.study import workers as side_by_side
from recsys.study.workers import Failure, Job, free_processes, run_side_by_side
from tests.faults.commands import ROOT

STATE = {"jobs": 0}


def leave_times(folder: Path, name: str, progress: Progress) -> None:
    began = time.time()
    progress(name, 1, 2)
    time.sleep(0.2)
    STATE["jobs"] += 1
    (folder / name).write_text(f"{began} {time.time()} {STATE['jobs']} {os.getpid()}")


def fail(how: str, progress: Progress) -> None:
    print(f"about to end by {how}")
    if how == "error":
        raise DataError("The rows are gone.")
    if how == "bug":
        raise ZeroDivisionError("by nought")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


def leave_what_it_sees(folder: Path, name: str, progress: Progress) -> None:
    began, STATE["jobs"] = STATE["jobs"], 1
    seen = [began, os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork()]
    (folder / name).write_text(json.dumps(seen))


def jobs(folder: Path, number: int) -> list[Job]:
    names = [f"job{place}" for place in range(number)]
    return [Job(name, leave_times, (folder, name), folder / "logs" / name) for name in names]


def test_as_many_run_at_once_as_were_asked_for_each_in_a_fresh_process(tmp_path: Path):
    reported: list[tuple[str, int, int]] = []
    assert run_side_by_side(jobs(tmp_path, 5), 2, lambda *words: reported.append(words), "jobs", "cpu") == []
    left = [path.read_text().split() for path in tmp_path.glob("job*")]
    spans = [(float(began), float(ended)) for began, ended, _, _ in left]
    at_once = [sum(began <= moment < ended for began, ended in spans) for moment, _ in spans]
    assert max(at_once) == 2
    assert {count for _, _, count, _ in left} == {"1"}
    assert len({pid for *_, pid in left}) == 5
    assert ("job3", 1, 2) in reported
    assert reported[-1] == ("jobs", 5, 5)


def test_a_job_that_fails_is_returned_with_its_code_and_reason_and_the_others_go_on(tmp_path: Path):
    failing = [Job(how, fail, (how,), tmp_path / how) for how in ("error", "bug", "exit", "kill")]
    failures = run_side_by_side([*failing, *jobs(tmp_path, 1)], 3, silent, "jobs", "cpu")
    assert sorted(failures, key=lambda each: each.name) == [
        Failure("bug", 70, "ZeroDivisionError: by nought"),
        Failure("error", 65, "The rows are gone."),
        Failure("exit", 70, "its process ended by exit code 3"),
        Failure(
            "kill",
            70,
            "its process ended by signal SIGKILL; the system ends a process in this way when memory runs out",
        ),
    ]
    assert (tmp_path / "job0").is_file()
    assert "about to end by bug" in (tmp_path / "bug").read_text()
    assert "Traceback" in (tmp_path / "bug").read_text()


def test_a_script_needs_no_guard_and_a_module_of_its_working_folder_takes_no_librarys_place(tmp_path: Path):
    script, elsewhere = tmp_path / "bin" / "start.py", tmp_path / "elsewhere"
    for folder in (script.parent, elsewhere):
        folder.mkdir()
    (elsewhere / "random.py").write_text("raise SystemError('taken for the library')")
    (script.parent / "work.py").write_text("def work(progress):\n    print('worked')\n")
    script.write_text(
        "import sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from recsys.study.workers import Job, run_side_by_side\n"
        "from recsys.progress import silent\n"
        "from work import work\n"
        "print(run_side_by_side([Job('one', work, (), Path('log'))], 1, silent, 'jobs', 'cpu'))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "[]", ended.stderr
    assert (elsewhere / "log").read_text().strip() == "worked"


def test_every_gpu_gets_the_next_job_when_it_has_the_fewest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(side_by_side, "gpus", lambda device: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert side_by_side._gpus(processes=3, found=3, per_job=1) == ["4", "6", "7"]
    assert side_by_side._gpus(processes=1, found=3, per_job=1) == []
    assert side_by_side._gpus(processes=2, found=3, per_job=2) == ["4,6"]
    busy = [side_by_side._Running(None, None, None, gpu) for gpu in ("4", "6")]
    assert side_by_side._least_used(["4", "6", "7"], busy) == "7"
    assert side_by_side._least_used([], busy) is None
    assert free_processes(threads=1, jobs=20, device="auto") == 3
    assert free_processes(threads=1, jobs=20, device="auto", per_job=2) == 1


@pytest.mark.parametrize(("kind", "method", "gpus"), [("cpu", "forkserver", None), ("cuda", "spawn", ["4", "6"])])
def test_jobs_on_a_gpu_are_spawned_each_seeing_its_own_and_none_inherits_a_cuda_that_was_asked(
    kind: str, method: str, gpus: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(side_by_side, "device_kind", lambda device: kind)
    monkeypatch.setattr(side_by_side, "gpus", lambda device: 2 if kind == "cuda" else 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert side_by_side._processes_for(kind).get_start_method() == method
    two = [Job(name, leave_what_it_sees, (tmp_path, name), tmp_path / "logs" / name) for name in ("one", "two")]
    assert run_side_by_side(two, 2, silent, "jobs", "auto") == []
    seen = [json.loads((tmp_path / name).read_text()) for name in ("one", "two")]
    assert [began for began, *_ in seen] == [0, 0]
    assert gpus is None or [visible for _, visible, *_ in seen] == gpus
    assert [state for *_, initialised, forked in seen for state in (initialised, forked)] == [False] * 4
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"


def test_threads_times_processes_stay_within_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [free_processes(threads, jobs=20, device="cpu") for threads in (1, 3, 8, 16)] == [8, 2, 1, 1]
    assert free_processes(threads=1, jobs=5, device="cpu") == 5
