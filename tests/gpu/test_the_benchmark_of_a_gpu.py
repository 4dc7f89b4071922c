"""What `make gpu` measures, at its smallest on the CPU: that every case runs, and what is told when one does not."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")

pytestmark = pytest.mark.parametrize("context", ["cpu"], indirect=True)


@pytest.fixture
def gpu(monkeypatch, context):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def steps(count, after_step):
    for _ in range(count):
        after_step()


def way(name, take=steps):
    return importlib.import_module("timed_windows").Way(name, take, batch_size=10)


def case(name, *ways):
    return importlib.import_module("timed_windows").Case(name, {"batch_size": 10}, lambda: ways, seconds=60, turns=2)


def reported(gpu, context, cases, seconds=60.0, document=None):
    bench = SimpleNamespace(device=CPU, limits={}, sizes=gpu.SMALL)
    report = gpu.Report(bench, document)
    gpu.measure_all(bench, iter(cases), report, seconds)
    return report


def test_every_case_is_measured_and_one_object_is_printed_last(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SMALL", replace(gpu.SMALL, widths=(8,), batches=(16, 32)))

    assert gpu.main(["--device", "cpu", "--small"]) == 0

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"device", "torch", "cores", "seconds", "ended", "limits", "rows", "targets"}
    assert set(found["limits"]) == {"copy", "fp32", "tf32", "bf16"}
    assert all(row["step_ms"] > 0 and row["rows_per_second"] > 0 for row in found["rows"])
    of_tables = {"bare TorchRec", "ours", "ours, from Parquet", "ours, norms every step", "ours, norms by default"}
    assert {(row["batch_size"], row["way"]) for row in found["rows"] if row["case"] == "26 tables"} == {
        (size, name) for size in (16, 32) for name in (*of_tables, "tables alone")
    }
    in_precisions = {f"{half}, {name}" for half in ("dense half alone", "ours") for name in ("fp32", "tf32", "bf16")}
    assert {row["way"] for row in found["rows"] if row["case"] == "dense half"} == in_precisions
    ways = {row["way"] for row in found["rows"]}
    assert {"conditional", "conditional, one shared expert", "parallel", "end_to_end", "frozen", "cached"} <= ways
    # Of a CPU there is no idle share; all else that has a target was measured.
    unmeasured = [target["name"] for target in found["targets"] if target["value"] is None]
    assert unmeasured == ["idle share of the device, from Parquet", "the same between steps alone"]


def test_a_way_that_fails_is_told_and_the_others_are_measured(gpu, context, capsys):
    calls = []

    def fails_later(count, after_step):
        calls.append(count)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB.\nmore")
        steps(count, after_step)

    def fails():
        raise RuntimeError("no kernel image")

    def broken():
        fails()

    unbuilt = replace(case("unbuilt"), ways=broken)
    rows = reported(gpu, context, [unbuilt, case("built", way("fails", fails_later), way("works"))]).rows

    assert [(row["case"], row["way"], row.get("error")) for row in rows] == [
        ("unbuilt", "", "RuntimeError: no kernel image"),
        ("built", "fails", "OutOfMemoryError: Tried to allocate 2 GiB."),
        ("built", "works", None),
    ]
    assert "OutOfMemoryError: Tried to allocate 2 GiB." in capsys.readouterr().out


def test_a_device_that_answers_no_more_ends_it_with_what_there_is(gpu, context, monkeypatch):
    windows = importlib.import_module("timed_windows")

    def lost(device):
        raise windows.DeviceLostError("AcceleratorError: device-side assert triggered")

    def fails(count, after_step):
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(windows, "_recover", lost)
    report = reported(gpu, context, [case("first", way("works")), case("second", way("fails", fails)), case("third")])

    assert [row["way"] for row in report.rows] == ["works", "fails"]
    assert report.ended == "the device answers nothing any more: AcceleratorError: device-side assert triggered"


def test_nothing_begins_after_the_end_and_the_file_has_all_rows_so_far(gpu, context, tmp_path, monkeypatch):
    document, seen, now = tmp_path / "figures.json", [], [0.0]
    for module in (gpu, importlib.import_module("timed_windows")):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(count, after_step):
        now[0] += 0.3
        seen.append(len(json.loads(document.read_text())["rows"]) if document.exists() else 0)
        steps(count, after_step)

    report = reported(
        gpu, context, [case("quick", way("works")), case("slow", way("slow", slow)), case("late")], 0.5, document
    )

    assert [(row["case"], row.get("error")) for row in report.rows] == [
        ("quick", None),
        ("slow", "not timed: time was up"),
        ("late", "not begun: time was up"),
    ]
    assert report.ended == "the 0.5 s were over"
    assert seen == [1, 1]
    assert [row["case"] for row in json.loads(document.read_text())["rows"]] == ["quick", "slow", "late"]


def test_the_idle_share_is_the_time_without_any_kernel_once_the_queue_is_filled(gpu, monkeypatch):
    windows = importlib.import_module("timed_windows")
    cuda, host = windows.DeviceType.CUDA, windows.DeviceType.CPU
    # Of the time from 4 to 16 microseconds nothing runs from 14 to 15.
    seen = [(0, 1, cuda), (4, 12, cuda), (10, 14, cuda), (14, 15, host), (15, 16, cuda)]
    events = [
        SimpleNamespace(device_type=kind, time_range=SimpleNamespace(start=start, end=end), is_user_annotation=False)
        for start, end, kind in seen
    ]
    called = []
    recorder = SimpleNamespace(
        start=lambda: called.append("start"), stop=lambda: called.append("stop"), events=lambda: events
    )
    monkeypatch.setattr(windows, "profile", lambda activities: recorder)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: called.append("wait"))

    assert windows._idle_share(way("any"), CPU) == {"idle_share": pytest.approx(1 / 12)}
    assert called == ["wait", "start", "wait", "stop"]


def test_targets_are_judged_by_the_rows_of_the_main_sizes(gpu):
    speeds = {"bare TorchRec": 6.0e6, "ours": 5.88e6, "ours, from Parquet": 5.0e6, "ours, norms every step": 5.6e6}
    rows = [
        {"case": "26 tables", "width": 128, "batch_size": 32, "way": name, "rows_per_second": speed, "idle_share": 0.01}
        for name, speed in speeds.items()
    ]
    rows.append({**rows[1], "width": 16, "rows_per_second": 1.0})
    rows += [
        {"case": "compositions", "batch_size": 32, "segments": 8, "way": "conditional", "step_ms": 2.8},
        {
            "case": "compositions",
            "batch_size": 32,
            "segments": 8,
            "way": "conditional, one shared expert",
            "step_ms": 2.0,
        },
        {"case": "dense half", "width": 128, "batch_size": 32, "way": "dense half alone, bf16", "error": "no kernel"},
        {"case": "loader", "batch_size": 32, "way": "shuffled, to the device", "rows_per_second": 8e6},
    ]

    found = importlib.import_module("gpu_targets").judged(rows, 128, 32)

    assert [
        (target["wanted"], target["value"] and round(target["value"], 3), target["is_met"]) for target in found
    ] == [
        (">= 0.95", 0.98, True),
        (">= 0.9", 0.85, False),
        ("< 0.03", 0.01, True),
        ("< 0.03", None, None),
        ("< 0.06", 0.05, True),
        ("< 0.005", None, None),
        ("<= 1.3", 1.4, False),
        (">= 0.3", None, None),
        (">= 5e+06", 5.88e6, True),
        (">= 8e+06", 8e6, True),
    ]
