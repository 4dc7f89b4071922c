"""Checkpoints are written while steps are taken: one at a time, of the step that they are named after."""

import threading

import pytest

from recsys.artifacts.checkpoint import save_checkpoint
from recsys.artifacts.checkpoint_writer import CheckpointWriter
from recsys.errors import CannotWriteError
from recsys.training.snapshot import state_dict
from tests.small_model import small_contract
from tests.training.saved_runs import differing, everything, resume_run
from tests.training.small_run import small_run
from tests.waiting import wait_until

SAVE = "recsys.artifacts.checkpoint_writer.save_checkpoint"


def save(writer, run):
    loop = run.state.to_document()
    writer.save(
        run.state.step,
        lambda: state_dict(run.ranker, run.optimizers, run.stream, run.best, loop),
        {"stages": None},
    )


@pytest.fixture
def held_back(monkeypatch):
    """Lets no checkpoint be written until it is set; what began and ended is in `events`."""
    may_go_on, events = threading.Event(), []

    def slow(folder, step, *rest):
        events.append(f"begin {step}")
        assert may_go_on.wait(30)
        save_checkpoint(folder, step, *rest)
        events.append(f"end {step}")

    monkeypatch.setattr(SAVE, slow)
    may_go_on.events = events
    yield may_go_on
    may_go_on.set()


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_none_of_theirs(context, tmp_path, held_back):
    run = small_run(context)
    run.train(3, validate_every=2)
    before = everything(run)
    with CheckpointWriter(tmp_path, small_contract(), 2, context) as writer:
        save(writer, run)
        run.train(7, validate_every=2)  # better weights are kept meanwhile as well
        run.best.keep()
        assert held_back.events == ["begin 3"]
        held_back.set()

    assert held_back.events == ["begin 3", "end 3"]
    resumed = small_run(context)
    resume_run(resumed, tmp_path)
    assert differing(everything(resumed), before) == []
    assert len(differing(everything(run), before)) > 10
    assert (resumed.state.step, resumed.stream.state_dict()) == (3, {"epoch": 0, "consumed": 3})


def test_a_second_checkpoint_waits_for_the_first(context, tmp_path, held_back):
    run = small_run(context)
    with CheckpointWriter(tmp_path, small_contract(), 2, context) as writer:
        save(writer, run)
        threading.Timer(0.2, held_back.set).start()
        run.train(1)
        save(writer, run)
        assert held_back.events[:2] == ["begin 0", "end 0"]

    assert held_back.events == ["begin 0", "end 0", "begin 1", "end 1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000000", "step-00000001"]


def failing(*arguments):
    raise CannotWriteError("The disk is full.")


def test_what_goes_wrong_is_raised_at_the_next_step_and_once(context, tmp_path, monkeypatch):
    monkeypatch.setattr(SAVE, failing)
    run = small_run(context)
    with CheckpointWriter(tmp_path, small_contract(), 2, context) as writer:
        assert writer.went_well()
        save(writer, run)
        writer._thread.join()
        with pytest.raises(CannotWriteError, match="The disk is full"):
            writer.went_well()
        assert writer.went_well()


def test_what_goes_wrong_with_the_last_one_is_raised_at_the_end(context, tmp_path, monkeypatch):
    monkeypatch.setattr(SAVE, failing)
    with (
        pytest.raises(CannotWriteError, match="The disk is full"),
        CheckpointWriter(tmp_path, small_contract(), 2, context) as writer,
    ):
        save(writer, small_run(context))


def save_and_end(context, folder, error):
    with CheckpointWriter(folder, small_contract(), 2, context) as writer:
        save(writer, small_run(context))
        raise error


def test_a_run_that_fails_leaves_the_checkpoint_that_was_under_way_and_says_why_it_failed(
    context, tmp_path, held_back, monkeypatch, caplog
):
    threading.Timer(0.2, held_back.set).start()
    with pytest.raises(ZeroDivisionError):
        save_and_end(context, tmp_path, ZeroDivisionError())

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]
    monkeypatch.setattr(SAVE, failing)
    with pytest.raises(ZeroDivisionError):
        save_and_end(context, tmp_path, ZeroDivisionError())
    assert "The last checkpoint was not written: The disk is full." in caplog.text


def test_a_process_that_is_told_twice_to_end_does_not_wait(context, tmp_path, held_back):
    with pytest.raises(SystemExit):
        save_and_end(context, tmp_path, SystemExit(143))

    assert "end 0" not in held_back.events
    held_back.set()
    wait_until(lambda: "end 0" in held_back.events)
