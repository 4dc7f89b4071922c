"""Sending spooled lines to a tracking store: exactly once, however often it is interrupted.

How far the lines were sent is kept on disk and moved only after the store has answered. A batch whose answer was lost
is therefore sent again, and that is harmless: the store keeps one point per (key, value, timestamp, step), params, tags
and files simply come out the same, and runs and models carry the spool's id and are looked up before they are made.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException

from recsys.errors import BusyError, ServiceError
from recsys.files import clear_leftovers, write_text_atomically
from recsys.tracking import names
from recsys.tracking.spool import FILES, Line, Spool, discard_files, last_line, lines_size, read_lines, spools_in
from recsys.tracking.store import TrackingStore

# What one `log_batch` takes of each; MLflow's server refuses more.
_METRICS_PER_REQUEST = 1000
_PARAMS_PER_REQUEST = 100
# A line has one metric at least, so no request needs more lines; a spool of a long run is never read whole.
_LINES_READ_AHEAD = 1000
_DELIVERY, _REFUSED = "delivery.json", "refused.jsonl"
# Sent again these would be refused again, so they must not hold up what comes behind them.
_FINAL_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")

logger = logging.getLogger("recsys.tracking")


@dataclass
class _Progress:
    """What is known of one spool in one store, as kept in `delivery.json`."""

    uri: str
    offset: int = 0
    run_id: str | None = None
    experiment_id: str | None = None
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did.

    Attributes:
        delivered: spools of which every line is in the store now.
        lines: lines that were sent in this call.
        busy: spools whose run is alive and sends its lines itself.
        refused: lines that the store will not take; `refused.jsonl` of their spool keeps them.
    """

    delivered: int
    lines: int
    busy: int
    refused: int


class Delivery:
    """Sends one spool's lines in order; whoever makes one must hold the spool's lock.

    Args:
        folder: the spool's.
        store: where to; another store than last time gets everything from the first line on.
        client: an open client of the store.
    """

    def __init__(self, folder: Path, store: TrackingStore, client: MlflowClient) -> None:
        self.folder = folder
        self.refused = 0
        self._store = store
        self._client = client
        # Nobody else writes here under the spool's lock: what a killed sender had under way belongs to nobody.
        clear_leftovers(folder)
        self._progress = self._saved_progress()
        self._send: dict[str, Callable[[Line], None]] = {
            "run": self._send_run,
            "resumed": self._send_resumed,
            "metrics": lambda line: self._send_metrics([line]),
            "params": self._send_params,
            "tags": self._send_tags,
            "dataset": self._send_dataset,
            "file": self._send_file,
            "model": self._send_model,
            "view": self._send_view,
            "end": self._send_end,
        }

    @property
    def run_id(self) -> str | None:
        """The run's id in the store; None until its first line was sent."""
        return self._progress.run_id

    def advance(self) -> int:
        """Send the next batch and return the number of lines in it; 0 where nothing is left.

        Raises:
            MlflowException, OSError: the store did not take it; nothing was lost, and the next call sends it again.
        """
        batch = self._next_batch()
        if not batch:
            return 0
        lines = [line for line, _ in batch]
        try:
            if len(lines) > 1:
                self._send_metrics(lines)
            else:
                self._send[lines[0]["kind"]](lines[0])
        except MlflowException as error:
            # A refused run is no line to pass over: all lines behind it are its own.
            if error.error_code not in _FINAL_REFUSALS or self._progress.run_id is None:
                raise
            self._refuse(lines, error)
        # Only now: a process that dies before this line sends the batch again, which changes nothing in the store.
        self._progress.offset = batch[-1][1]
        self._save_progress()
        return len(lines)

    def drain(self) -> int:
        """Send everything that the spool holds and return the number of lines."""
        total = 0
        while sent := self.advance():
            total += sent
        return total

    def _next_batch(self) -> list[tuple[Line, int]]:
        """The next line, or as many metric lines in a row as fit into one request."""
        batch: list[tuple[Line, int]] = []
        room = _METRICS_PER_REQUEST
        for line, end in islice(read_lines(self.folder, self._progress.offset), _LINES_READ_AHEAD):
            if line["kind"] != "metrics":
                return batch or [(line, end)]
            room -= len(line["metrics"])
            if room < 0 and batch:
                return batch
            batch.append((line, end))
        return batch

    def _send_run(self, line: Line) -> None:
        self._progress.experiment_id = replace(self._store, experiment=line["experiment"]).experiment_id(self._client)
        found = self._client.search_runs(
            [self._progress.experiment_id], f"tags.{names.TAG_SPOOL_ID} = '{line['spool_id']}'", max_results=1
        )
        run = (
            found[0]
            if found
            else self._client.create_run(
                self._progress.experiment_id,
                start_time=line["time"],
                run_name=line["name"],
                tags={**line["tags"], names.TAG_SPOOL_ID: line["spool_id"]},
            )
        )
        self._progress.run_id = run.info.run_id

    def _send_resumed(self, line: Line) -> None:
        self._client.update_run(self.run_id, status="RUNNING")
        self._client.set_tag(self.run_id, names.TAG_END_REASON, "none: it was resumed")

    def _send_metrics(self, lines: list[Line]) -> None:
        metrics = [
            Metric(
                name,
                value,
                line["time"],
                line["step"],
                model_id=self._progress.models.get(line.get("model", "")),
                dataset_name=line.get("dataset_name"),
                dataset_digest=line.get("dataset_digest"),
                run_id=self.run_id,
            )
            for line in lines
            for name, value in line["metrics"].items()
        ]
        for start in range(0, len(metrics), _METRICS_PER_REQUEST):
            batch = metrics[start : start + _METRICS_PER_REQUEST]
            self._client.log_batch(self.run_id, metrics=batch, synchronous=True)

    def _send_params(self, line: Line) -> None:
        params = [Param(name, value) for name, value in line["params"].items()]
        for start in range(0, len(params), _PARAMS_PER_REQUEST):
            self._client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_REQUEST], synchronous=True)

    def _send_tags(self, line: Line) -> None:
        tags = [RunTag(name, value) for name, value in line["tags"].items()]
        self._client.log_batch(self.run_id, tags=tags, synchronous=True)

    def _send_dataset(self, line: Line) -> None:
        described = {key: line[key] for key in ("name", "digest", "source_type", "source", "schema", "profile")}
        use = DatasetInput(Dataset(**described), tags=[InputTag("mlflow.data.context", line["context"])])
        self._client.log_inputs(self.run_id, datasets=[use])

    def _send_file(self, line: Line) -> None:
        place = self.folder / line["place"]
        if place.exists():
            self._client.log_artifact(self.run_id, str(place), line["folder"] or None)
        else:
            logger.warning("%s was sent to another store before and is not kept here any more", line["place"])

    def _send_model(self, line: Line) -> None:
        place = self.folder / line["place"]
        tags = {names.TAG_SPOOL_ID: f"{self.folder.name}/{line['name']}"}
        found = self._client.search_logged_models(
            [self._progress.experiment_id], f"tags.{names.TAG_SPOOL_ID} = '{tags[names.TAG_SPOOL_ID]}'", max_results=1
        )
        model = (
            found[0]
            if found
            else self._client.create_logged_model(
                self._progress.experiment_id,
                name=line["name"],
                source_run_id=self.run_id,
                tags=tags,
                model_type="ranker",
            )
        )
        self._progress.models[line["name"]] = model.model_id
        if place.exists():
            # The model's own file says which logged model it is; loading by `models:/<id>` relies on it.
            description = yaml.safe_load((place / "MLmodel").read_text())
            description |= {"model_id": model.model_id, "run_id": self.run_id, "artifact_path": model.artifact_location}
            write_text_atomically(place / "MLmodel", yaml.safe_dump(description, sort_keys=False))
            self._client.log_model_artifacts(model.model_id, str(place))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        # A run that died after this line and was resumed writes it once more, and a store refuses the second output.
        outputs = self._client.get_run(self.run_id).outputs
        if not outputs or model.model_id not in [output.model_id for output in outputs.model_outputs]:
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=line["step"])])

    def _send_view(self, line: Line) -> None:
        self._client.set_experiment_tag(self._progress.experiment_id, line["key"], line["value"])

    def _send_end(self, line: Line) -> None:
        if line["reason"]:
            self._client.set_tag(self.run_id, names.TAG_END_REASON, line["reason"])
        self._client.set_terminated(self.run_id, status=line["status"], end_time=line["time"])

    def _refuse(self, lines: list[Line], error: MlflowException) -> None:
        if len(lines) > 1:
            # One bad line must not take its batch with it.
            for line in lines:
                try:
                    self._send_metrics([line])
                except MlflowException as one:
                    if one.error_code not in _FINAL_REFUSALS:
                        raise
                    self._refuse([line], one)
            return
        path = self.folder / _REFUSED
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"error": error.message, "line": lines[0]}) + "\n")
        if self.refused == 0:
            reason = error.message.split("\n")[0]
            logger.warning("The tracking store refuses a line (%s); such lines are kept in %s", reason, path)
        self.refused += 1

    def _saved_progress(self) -> _Progress:
        path = self.folder / _DELIVERY
        if path.exists():
            saved = _Progress(**json.loads(path.read_text()))
            if saved.uri == self._store.public_uri:
                return saved
        return _Progress(self._store.public_uri)

    def _save_progress(self) -> None:
        write_text_atomically(self.folder / _DELIVERY, json.dumps(asdict(self._progress)))


def sync(store: TrackingStore) -> SyncReport:
    """Send what the runs under the store's spool directory have not sent yet, and end those whose process died.

    A spool whose lock is free belongs to no living process: if its last event is no end, its run is recorded as KILLED.
    Each run goes to the experiment that it was started in.

    Raises:
        ServiceError: the server does not answer.
        MlflowException: the store failed midway; what was sent stays sent, and a second call goes on from there.
    """
    client = store.open()
    delivered = lines = busy = refused = 0
    for folder in spools_in(store.spool_directory):
        if _is_settled(folder, store):
            delivered += 1
            continue
        try:
            spool = Spool(folder)
        except BusyError:
            busy += 1
            continue
        with spool:
            _end_if_dead(spool)
            delivery = Delivery(folder, store, client)
            lines += delivery.drain()
            refused += delivery.refused
            # Still under the lock: a run that is resumed now would attach files to the folder that is being emptied.
            discard_files(folder)
        delivered += 1
    return SyncReport(delivered, lines, busy, refused)


def settle(store: TrackingStore) -> None:
    """`sync`, for a run that goes on without it: what fails is a notice, and waits for the next time."""
    try:
        sync(store)
    except (ServiceError, MlflowException) as error:
        logger.warning(
            "tracking offline, what was spooled before waits for `recsys sync`: %s", str(error).split("\n")[0]
        )


def _is_settled(folder: Path, store: TrackingStore) -> bool:
    """Whether all of a run's lines, its end among them, are in the store: told by two small reads."""
    try:
        saved = _Progress(**json.loads((folder / _DELIVERY).read_text()))
        return (
            saved.uri == store.public_uri
            and saved.offset == lines_size(folder)
            and last_line(folder).get("kind") == "end"
            and not (folder / FILES).exists()
        )
    except (OSError, ValueError, TypeError):
        return False


def _end_if_dead(spool: Spool) -> None:
    last = last_line(spool.folder)
    if last and last["kind"] != "end":
        # The last sign of life is the best estimate of when it died.
        spool.write(
            "end", {"status": "KILLED", "reason": "the process died before it could record why", "time": last["time"]}
        )
