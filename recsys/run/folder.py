"""What a run is called, where it keeps what it leaves behind, and how that is read back."""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from recsys.ablation.pairing import RunRecord
from recsys.config import RunConfig, config_from, with_own_knobs
from recsys.config.kinds import UnknownKindError
from recsys.errors import DataError, UsageError
from recsys.monitoring.cost import Cost
from recsys.sharding.first_process import by_first
from recsys.tracking import names

CONFIG, RESULT, CHECKPOINTS = "config.json", "result.json", "checkpoints"
PREDICTIONS, QUERIES = "predictions", "queries"
TABLE_PLAN = "table_plan.json"
"""Where the run's tables lie, as `recsys plan --json` prints it; absent where no plan was made."""
_Record = TypeVar("_Record")
ARM, DAILY, TRAIN = "arm", "daily", "train"
"""The kinds of runs: of a study; scheduled; and of one outside of both."""


@dataclass(frozen=True)
class RunIdentity:
    """What a run is called and which study it belongs to.

    Attributes:
        folder: where it keeps its checkpoints, predictions and result.
        arm: what runs that differ in their seed alone share; runs are grouped by it.
        ablation_id: empty for a run outside of a study.
        colour: "#rrggbb" of its lines on the chart page; empty for MLflow's choice.
        notes: texts to attach to it, by the name of the file.
    """

    folder: Path
    name: str
    arm: str
    kind: str
    ablation_id: str = ""
    colour: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def unused(self) -> tuple[str, ...]:
        """The groups of the configuration that its run has no use for."""
        return (*(() if self.kind == DAILY else ("daily",)), *(() if self.ablation_id else ("ablation",)))

    def tags(self) -> dict[str, str]:
        """The run's tags in the tracking store."""
        tags = {names.TAG_KIND: self.kind, names.TAG_ARM: self.arm}
        tags |= {names.TAG_ABLATION_ID: self.ablation_id} if self.ablation_id else {}
        return tags | ({names.TAG_COLOUR: self.colour} if self.colour else {})


def new_run(config: RunConfig) -> RunIdentity:
    """Return the name and the folder, which does not exist yet, of a run outside of any study that begins now."""
    arm = f"{config.training_mode.name}/{config.composition.name}"
    name = names.run_name(arm, seed=config.training.seed)
    # Two that start within one second must not write into one folder; the processes of one run must.
    stamp = by_first(lambda: f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    folder = config.runtime.runs / config.data.name / f"{stamp}-{name.replace('/', '-')}"
    return RunIdentity(folder, name, arm, TRAIN)


@dataclass(frozen=True)
class RunResult:
    """What a finished run left behind, as `result.json` keeps it.

    Attributes:
        scores: every final score as "<metric>/<segment>", "all" being every row.
        frozen_proof: per frozen part, that it is unchanged; {} where nothing was frozen.
        learning_parameters: numbers that some optimizer steps, tables included.
        cost: of its training, all parts of a run that was stopped and resumed together.
        baselines: the baselines' scores on the same rows, by name, as `scores`.
        optimizers: for each stage that this process trained, which optimizer steps what: "stage", "mode", "rows" (cells
            under `optimizer_contract.SUMMARY_HEADER`) and "shared", sentences on shared parameters.
        record: what a study checks its pairs by, steps and budget among it.
    """

    name: str
    spool_id: str
    scores: dict[str, float]
    frozen_proof: dict[str, Any]
    best_step: int
    learning_parameters: int
    cost: Cost
    record: RunRecord
    baselines: dict[str, dict[str, float]]
    optimizers: list[dict[str, Any]]

    def to_json(self) -> str:
        """Return the text that `load_result` reads back."""
        return json.dumps(asdict(self), indent=2) + "\n"


def load_result(folder: Path) -> RunResult | None:
    """Return the result of the run that finished in `folder`; None where none has.

    Raises:
        DataError: the file is damaged or of another version.
    """
    path = folder / RESULT
    return read_record(path, _result_of) if path.is_file() else None


def has_checkpoint(folder: Path) -> bool:
    """Whether the run in a folder came as far as a checkpoint, whole or not."""
    return any((folder / CHECKPOINTS).glob("step-*"))


def _result_of(text: str) -> RunResult:
    document = json.loads(text)
    return RunResult(**document | {"cost": Cost(**document["cost"]), "record": RunRecord(**document["record"])})


def load_config(folder: Path) -> RunConfig:
    """Return the configuration of the run that was started in `folder`.

    Raises:
        DataError: there is no run, or its file is damaged or of another version.
    """
    if not (folder / CONFIG).exists():
        inside = sorted(folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
        hint = f" It holds runs, such as {inside[0].parent}: name one of them." if inside else ""
        raise DataError(f"{folder} holds no run. Expected a folder that `recsys train` printed.{hint}")
    return read_record(folder / CONFIG, lambda text: config_from(with_own_knobs(json.loads(text))))


def read_record(path: Path, read: Callable[[str], _Record]) -> _Record:
    """Return what `read` makes of the text of a JSON file that a run or a study left.

    Raises:
        DataError: the file cannot be read, is torn, or was written by another version; names it.
        UnknownKindError: a kind in it is of a user's module that cannot be imported.
    """
    try:
        return read(path.read_text(encoding="utf-8"))
    except UnknownKindError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise DataError(
            f"{path} cannot be used ({type(error).__name__}: {error}). It is damaged, or another version wrote it: put "
            "back a copy, or remove the run's folder and run it again."
        ) from error
