"""The exit codes that schedulers act on are promises."""

from recsys import errors


def test_every_kind_of_failure_keeps_its_exit_code() -> None:
    kinds = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.RecsysError)
    }
    assert kinds == {
        "RecsysError": 70,
        "UsageError": 2,
        "DataError": 65,
        "ServiceError": 69,
        "TrainingError": 70,
        "CannotWriteError": 73,
        "BusyError": 75,
    }
