"""Throughput counts training time alone, and only what happened since it was last read."""

from recsys.monitoring.throughput import Throughput


def test_each_reading_begins_anew_and_pauses_do_not_count():
    clock = iter([0.0, 4.0, 5.0, 15.0, 25.0]).__next__
    throughput = Throughput(rows=1000, wait_seconds=7.0, clock=clock)  # a resumed run

    first = throughput.read(rows=1400, wait_seconds=9.0)  # at second 4
    with throughput.paused():  # from second 5 to 15
        pass
    second = throughput.read(rows=1510, wait_seconds=9.0)  # at second 25, 11 seconds of training later

    assert first == (100.0, 0.5)
    assert second == (10.0, 0.0)


def test_a_clock_too_coarse_for_a_step_gives_no_infinite_speed():
    assert Throughput(0, 0.0, clock=lambda: 1.0).read(rows=10, wait_seconds=0.0) == (0.0, 0.0)
