"""Ways to take the steps of a case, timed in turns: a window of steps in the middle of each turn, one row per way.

A way that fails is a row with its error, and the others go on, as long as the device still answers.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training_run import clock

Row = dict[str, Any]
"""What was measured of one way, or its "error"."""

_PROFILED_STEPS = 20


class DeviceLostError(Exception):
    """The device answers nothing any more."""


@dataclass(frozen=True)
class Way:
    """One way to take steps.

    Attributes:
        take: takes so many steps and calls back after each.
        batch_size: rows of a step.
        skip: steps that begin a turn and are not timed, at least 1.
        most: steps that a turn's window can have.
        multiple: of which the window's steps are one.
        figures: what else there is to say, of the seconds that a step takes.
        is_profiled: whether the device's idle share is measured too.
    """

    name: str
    take: Callable[[int, Callable[[], None]], None]
    batch_size: int
    skip: int = 3
    most: int = 10_000
    multiple: int = 1
    figures: Callable[[float], dict[str, float]] = lambda seconds: {}
    is_profiled: bool = False


@dataclass(frozen=True)
class Case:
    """What is measured side by side.

    Attributes:
        about: sizes, which go into each of the rows.
        ways: makes what is timed.
        seconds: the most that the case may take, its last window apart.
    """

    name: str
    about: dict[str, int]
    ways: Callable[[], Sequence[Way]]
    seconds: float
    turns: int


@dataclass
class _Timed:
    way: Way
    count: int = 0  # steps of a window
    seconds: list[float] = field(default_factory=list)  # of a step, per turn
    peak_bytes: int = 0


def measure(case: Case, device: torch.device, window_seconds: float, ends: float) -> Iterator[Row]:
    """Time the case's ways in turns; yield a row each.

    Args:
        window_seconds: of one window; its steps are as many as fit.
        ends: by `time.monotonic`, when nothing more may begin.

    Raises:
        DeviceLostError: after a row with the error.
    """
    ends = min(ends, time.monotonic() + case.seconds)
    try:
        ways, error = list(case.ways()), ""
    except Exception as raised:
        ways, error = [], first_line(raised)
    if error:
        yield {**_heading(case, ""), "error": error}
        _recover(device)
    alive: list[_Timed] = []
    for way in ways:  # for warmth, and to see how many steps fit
        timed = _Timed(way)
        if error := "not begun: time was up" if time.monotonic() > ends else _fit(timed, device, window_seconds):
            yield {**_heading(case, way.name), "error": error}
            _recover(device)
        else:
            alive.append(timed)
    for _ in range(case.turns):
        for timed in tuple(alive):
            if time.monotonic() < ends and (error := _time(timed, device)):
                alive.remove(timed)
                yield {**_heading(case, timed.way.name), "error": error}
                _recover(device)
    for timed in alive:
        yield _row(case, timed, device, ends)


def _fit(timed: _Timed, device: torch.device, window_seconds: float) -> str:
    """Warm up and choose the steps of a window; return what went wrong, if anything did."""
    way = timed.way
    try:
        _window(way, 2, device)
        fitting = round(window_seconds / _window(way, 2, device))
    except Exception as error:
        return first_line(error)
    timed.count = max(1, min(way.most, fitting) // way.multiple) * way.multiple
    return ""


def _time(timed: _Timed, device: torch.device) -> str:
    """Take a turn; return what went wrong, if anything did."""
    # The error itself must not be kept: its traceback holds what the failed step had on the device.
    try:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        timed.seconds.append(_window(timed.way, timed.count, device))
        if device.type == "cuda":
            timed.peak_bytes = max(timed.peak_bytes, torch.cuda.max_memory_allocated(device))
    except Exception as error:
        return first_line(error)
    return ""


def _window(way: Way, count: int, device: torch.device) -> float:
    """Take a turn; return the seconds that a step of its window took."""
    marks: list[float] = []
    taken = itertools.count(1)

    def after_step() -> None:
        if next(taken) in (way.skip, way.skip + count):
            marks.append(clock(device))

    way.take(way.skip + count, after_step)
    began, ended = marks
    return (ended - began) / count


def _row(case: Case, timed: _Timed, device: torch.device, ends: float) -> Row:
    way, heading = timed.way, _heading(case, timed.way.name)
    if not timed.seconds:
        return {**heading, "error": "not timed: time was up"}
    seconds = statistics.median(timed.seconds)
    row = {
        **heading,
        "rows_per_second": way.batch_size / seconds,
        "step_ms": 1000 * seconds,
        "spread": (max(timed.seconds) - min(timed.seconds)) / seconds,
        **way.figures(seconds),
    }
    if device.type == "cuda":
        row["peak_gib"] = timed.peak_bytes / 2**30
        if way.is_profiled and time.monotonic() < ends:
            row |= _idle_share(way, device)
    return row


def _idle_share(way: Way, device: torch.device) -> dict[str, Any]:
    """Record some steps; return the share of their time in which the device ran no kernel and copied nothing."""
    recorded = profile(activities=[ProfilerActivity.CUDA])
    taken, steps = itertools.count(1), min(_PROFILED_STEPS, way.most)

    def after_step() -> None:
        number = next(taken)
        if number == way.skip:
            torch.cuda.synchronize(device)
            recorded.start()
        elif number == way.skip + steps:
            torch.cuda.synchronize(device)
            recorded.stop()

    try:
        way.take(way.skip + steps, after_step)
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in recorded.events() or []
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        ]
        return {"idle_share": idle_share(spans)}
    except Exception as error:  # a profiler that does not work on this machine costs its figure alone
        return {"idle_error": first_line(error)}


def idle_share(spans: Sequence[tuple[float, float]]) -> float:
    """Return the share of the time in which none of the spans runs.

    Of the last three quarters of the time: recording begins with an empty queue, which a run's steps never find.

    >>> idle_share([(0, 4), (4, 12), (10, 14), (15, 16)])  # of the time from 4 to 16
    0.08333333333333333
    """
    if not spans:
        raise RuntimeError("the profiler saw nothing on the device")
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    begins = reached = first + (last - first) / 4
    idle = 0.0
    for start, end in sorted(spans):
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (last - begins)


def _heading(case: Case, way: str) -> Row:
    return {"case": case.name, **case.about, "way": way}


def first_line(error: Exception) -> str:
    """Return the error's type and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _recover(device: torch.device) -> None:
    """Give back what the failed way held; find out whether the device still answers.

    Raises:
        DeviceLostError: it does not, as after a device assert.
    """
    gc.collect()
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        raise DeviceLostError(first_line(error)) from error
