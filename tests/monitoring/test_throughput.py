"""Throughput counts training time alone, and only what happened since it was last read."""

import pytest

from recsys.monitoring.device_idle import DeviceIdle
from recsys.monitoring.throughput import Throughput
from tests.monitoring.queued_work import QueuedWork


def test_each_reading_begins_anew_and_pauses_do_not_count():
    clock = iter([0.0, 4.0, 5.0, 15.0, 25.0]).__next__
    throughput = Throughput(rows=1000, wait_seconds=7.0, idle=DeviceIdle(None), clock=clock)  # a resumed run

    first = throughput.read(rows=1400, wait_seconds=9.0)  # at second 4
    with throughput.paused():  # from second 5 to 15
        pass
    second = throughput.read(rows=1510, wait_seconds=9.0)  # at second 25, 11 seconds of training later

    assert first == (100.0, 0.5, None)
    assert second == (10.0, 0.0, None)


def test_the_time_since_the_last_reading_is_training_time():
    clock = iter([0.0, 4.0, 5.0, 15.0, 25.0]).__next__
    throughput = Throughput(rows=0, wait_seconds=0.0, idle=DeviceIdle(None), clock=clock)

    throughput.read(rows=1, wait_seconds=0.0)
    with throughput.paused():
        pass

    assert throughput.seconds() == 11.0


def test_a_clock_too_coarse_for_a_step_gives_no_infinite_speed():
    throughput = Throughput(0, 0.0, DeviceIdle(None), clock=lambda: 1.0)
    assert throughput.read(rows=10, wait_seconds=0.0) == (0.0, 0.0, None)


def test_a_device_is_idle_between_steps_while_it_waits_for_a_batch_or_for_the_host():
    device = QueuedWork()
    idle = DeviceIdle(device.new_event)

    for wait, work in ((7, 30), (10, 20), (0, 20)):  # before the first step there is nothing to be between
        device.compute(wait)
        with idle.step():
            device.compute(work)
    device.catch_up()

    assert idle.read() == pytest.approx(10 / 80)
    assert idle.read() is None  # no step since


def test_steps_that_the_device_has_not_ended_are_not_waited_for_and_count_next_time():
    device = QueuedWork()
    idle = DeviceIdle(device.new_event)

    with idle.step():
        device.compute(10)
    device.catch_up()
    device.compute(30)
    with idle.step():
        device.compute(10)

    assert idle.read() == 0.0
    device.catch_up()
    assert idle.read() == 30 / 40


def test_what_a_device_does_in_a_pause_is_neither_idle_nor_training():
    device = QueuedWork()
    idle = DeviceIdle(device.new_event)
    throughput = Throughput(0, 0.0, idle)

    for _ in range(2):
        with idle.step():
            device.compute(10)
        with throughput.paused():
            device.compute(1000)
        with idle.step():
            device.compute(10)
        device.compute(10)
    device.catch_up()

    assert throughput.read(0, 0.0)[2] == 10 / 50
