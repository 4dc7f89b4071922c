"""Where runs are recorded: a SQLite file in a folder, or a tracking server.

MLflow's file store refuses to start, and several processes that create a fresh SQLite store at once crash each other;
so the store is named once here, and opened under a lock.
"""

import logging
import os
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from recsys.errors import CannotWriteError, ServiceError, UsageError
from recsys.locks import held_lock
from recsys.tracking import names

# A server that is up answers its health page in milliseconds; a user waits this long to hear that it is not.
_PROBE_SECONDS = 3.0
_SQLITE = "sqlite:///"
# Without the first, MLflow's pages take the experiment for one of prompts and traces; the second is the metric that its
# overviews put first; the third is what a newcomer reads on the experiment's page.
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": names.auc(names.TEST),
    names.TAG_NOTE: (
        "Arms of one study share the tag `ablation_id`; the study's own run carries the verdict and the report. The "
        "menu Views has a prepared chart page per study.\n\n"
        "`valid_auc`: by step, overall and per user segment. `test_auc`, `test`, `ranking`: final scores. "
        "`grad_norm`: L2 norm of each part's gradient before clipping, 0 where the part is frozen; `grad_norm_tables` "
        "and `grad_norm_dense` are its halves, `grad_norm_expert` that of each segment's own layers. `segment_share`: "
        "each segment's share of the tower's gradient; `segment_cosine`: how far it agrees with the others' (below 0 "
        "they pull the tower apart). `gate_<branch>`: how much of a branch each segment lets through. "
        "`train`: loss and learning rates. `perf`: throughput.\n"
    ),
}

# "Creating initial database tables" is no news to somebody who asked for a training run; and errors are raised to us,
# who say them in a line where MLflow prints sixty.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True)
class TrackingStore:
    """A tracking store, the experiment that runs belong to, and the folder of their local spools.

    Attributes:
        uri: `sqlite:///<path>` or `http(s)://<server>`.
        experiment: name; created where it is absent.
        spool_directory: one folder per run is kept in it.

    >>> store = TrackingStore.in_folder(Path("/tmp/runs"), experiment="online_retail")
    >>> store.uri, store.is_server
    ('sqlite:////tmp/runs/mlflow.db', False)
    >>> store = TrackingStore.in_folder(Path("/tmp/100%25 mine?"), experiment="online_retail")
    >>> store.uri, str(store.database)
    ('sqlite:////tmp/100%2525 mine%3F/mlflow.db', '/tmp/100%25 mine?/mlflow.db')
    """

    uri: str
    experiment: str
    spool_directory: Path

    def __post_init__(self) -> None:
        if not self.uri.startswith((_SQLITE, "http://", "https://")):
            raise UsageError(
                f"The tracking address {self.public_uri!r} is of no known kind; expected `sqlite:///<path>` or "
                "`http://<host>:<port>`. Leave `tracking.uri` null for a SQLite store in the runs folder."
            )

    @classmethod
    def in_folder(cls, folder: Path, experiment: str, uri: str | None = None) -> "TrackingStore":
        """A store with its spools in `folder`; without a `uri`, its SQLite file and artifacts are there too."""
        folder = folder.absolute()
        return cls(uri or _address_of(folder / "mlflow.db"), experiment, folder / "spool")

    @property
    def is_server(self) -> bool:
        """Whether the store is reached over a network, and so may be away."""
        return not self.uri.startswith(_SQLITE)

    @property
    def public_uri(self) -> str:
        """The address without any user name and password, fit for messages and files."""
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.username else self.uri

    @property
    def database(self) -> Path:
        """The SQLite file; only where the store is no server."""
        return Path(unquote(self.uri.removeprefix(_SQLITE).partition("?")[0])).absolute()

    def open(self) -> MlflowClient:
        """Return a client of the store, which is created where it is absent.

        Raises:
            ServiceError: the server does not answer, said within seconds.
            CannotWriteError: the SQLite file's folder cannot be written.
        """
        if self.is_server:
            require_answer(self)
            return MlflowClient(self.uri)
        # Two processes that create a fresh database at once crash each other; the second waits, however long.
        with held_lock(self.database.parent / ".mlflow.lock", f"The run store {self.database}", wait_seconds=-1):
            try:
                if not self.database.exists():
                    _create(self.database)
                return MlflowClient(self.uri)
            except MlflowException as error:
                raise CannotWriteError(f"The run store {self.database} cannot be opened: {error.message}") from error
            finally:
                # MLflow makes the folder that the address would name if nothing in it stood for another character.
                if (literal := Path(self.uri.removeprefix(_SQLITE)).parent) != self.database.parent:
                    with suppress(OSError):
                        os.removedirs(literal)

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the id of the experiment, which is created where it is absent.

        Raises:
            ServiceError: the experiment was deleted in the store; nothing can be logged to it.
        """
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            found = self._created(client)
        if found.lifecycle_stage == LifecycleStage.DELETED:
            raise ServiceError(
                f"The experiment {self.experiment!r} in {self.public_uri} is deleted. Restore it with `mlflow "
                f"experiments restore --experiment-id {found.experiment_id}`, or set `tracking.experiment` to another."
            )
        return found.experiment_id

    def _created(self, client: MlflowClient) -> mlflow.entities.Experiment:
        # A server has a place for artifacts; beside a SQLite file they would land in the working folder.
        folder = f"{self.database.parent.as_uri()}/artifacts/{quote(self.experiment, safe='')}"
        location = None if self.is_server else folder
        try:
            created = client.create_experiment(self.experiment, artifact_location=location, tags=_EXPERIMENT_TAGS)
            return client.get_experiment(created)
        except MlflowException:
            # Another process was faster, which is as good; any other trouble shows again here.
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found


def _create(database: Path) -> None:
    """Make the SQLite file of a new store, whole or not at all.

    MLflow makes its tables in dozens of transactions, and a store that was killed between two of them it refuses for
    ever after.
    """
    work = database.with_name(f".{database.name}.partial")
    for leftover in (work, work.with_name(f"{work.name}-journal")):
        leftover.unlink(missing_ok=True)
    make_tables(work)
    os.replace(work, database)


def make_tables(path: Path) -> None:
    """Write an empty store's tables to a file that is not there yet.

    Raises:
        MlflowException: the file cannot be written.
    """
    # Late, as they take a second that commands without a new store need not wait.
    from mlflow.store.db import utils
    from sqlalchemy.exc import SQLAlchemyError

    engine = utils.create_sqlalchemy_engine_with_retry(_address_of(path))
    try:
        utils._initialize_tables(engine)
    except SQLAlchemyError as error:
        raise MlflowException(str(error)) from error
    finally:
        engine.dispose()


def _address_of(database: Path) -> str:
    # The two characters that an address would take for something else than a name's.
    return _SQLITE + str(database).replace("%", "%25").replace("?", "%3F")


def require_answer(store: TrackingStore) -> None:
    """Ask the server whether it is up: MLflow's client would retry for minutes before it said so.

    Raises:
        ServiceError: no answer within 3 seconds.
    """
    try:
        with urllib.request.urlopen(f"{store.uri.rstrip('/')}/health", timeout=_PROBE_SECONDS):
            return
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ServiceError(
            f"The tracking server {store.public_uri} does not answer ({reason}). Start it, or correct `tracking.uri`."
        ) from error
