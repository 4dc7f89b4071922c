"""A Spark session with a folder for its tables: started where there is none, and stopped again."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from recsys.datasets.database import OtherEngine
from recsys.errors import ServiceError, UsageError


@dataclass(frozen=True)
class SparkSettings:
    """Where Spark is.

    Attributes:
        master: as Spark writes it: "local[*]", "spark://host:7077", "yarn", ...
        memory: what a Spark inside this process may hold, such as "4GB"; elsewhere it is the cluster's to say.
    """

    master: str
    memory: str

    @property
    def is_local(self) -> bool:
        """Whether Spark runs on this machine, beside us."""
        return self.master.startswith("local")


class SparkEngine(OtherEngine):
    """Keeps tables as Parquet in a folder that every one of Spark's machines sees."""

    def __init__(self, session: Any, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._backend = ibis.pyspark.connect(session)

    def store(self, name: str, rows: ir.Table) -> ir.Table:
        """Run `rows` once, keep the result as Parquet, and return it as a table."""
        self.write(rows, self._folder / name)
        return self.read(name, self._folder / name)

    def write(self, rows: ir.Table, path: Path) -> None:
        """Run `rows` and write them as the Parquet folder `path`."""
        self._session.sql(self._backend.compile(rows)).write.parquet(_uri(path))

    def read(self, name: str, path: Path) -> ir.Table:
        """A Parquet file or folder as a table."""
        self._session.read.parquet(_uri(path)).createOrReplaceTempView(name)
        return self._backend.table(name)


@contextmanager
def spark_session(settings: SparkSettings, folder: Path) -> Iterator[Any]:
    """Yield the session of this process, if it has one already, else one that is started here and stopped at the end.

    Args:
        folder: where a Spark on this machine spills.

    Raises:
        UsageError: PySpark or Java is missing, or the folder's name would be a pattern to Spark.
        ServiceError: Spark did not start, or gave up.
    """
    if find_spec("pyspark") is None:
        raise UsageError(
            "`data.engine=spark` needs PySpark, which is not installed. Install it (pip install 'recsys[spark]') and a "
            "Java runtime (apt-get install openjdk-17-jre-headless), or set data.engine=duckdb."
        )
    if re.search(r"[*?\[\]{}\\,]", str(folder)):
        raise UsageError(
            f"Spark takes the folder {folder} for a pattern, as it holds one of `*?[]{{}}\\,`. Set runtime.encoded to "
            "another folder, or data.engine=duckdb."
        )
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    try:
        session = _configured(active.newSession() if active else _started(settings, folder))
        yield session
    except (PySparkException, Py4JError) as error:
        what = " ".join(str(error).splitlines()[:2])
        raise ServiceError(
            f"Spark ({settings.master}) gave up: {what}. Each of its machines must see {folder} under that name, and "
            "have memory and disk enough (spark-defaults.conf; of a Spark on this machine, runtime.memory_limit). Mend "
            "that, or set data.engine=duckdb."
        ) from error
    finally:
        if active is None and (started := SparkSession.getActiveSession()):
            started.stop()


def _started(settings: SparkSettings, folder: Path) -> Any:
    from pyspark.sql import SparkSession

    _require_java(settings)
    builder = SparkSession.builder.appName("recsys prepare").master(settings.master)
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    if settings.is_local:
        # By loopback, as a laptop's own name may lead nowhere; all else that can be set is in spark-defaults.conf.
        own = {
            "spark.driver.memory": f"{_megabytes(settings.memory)}m",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.local.dir": str(folder),
        }
        for key, value in own.items():
            builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _configured(session: Any) -> Any:
    session.conf.set("spark.sql.session.timeZone", "UTC")
    # A number that is too large for its type stops the work, and is not quietly no value.
    session.conf.set("spark.sql.ansi.enabled", "true")
    # Spark's own default is a form of 96 bits, which does not say the zone.
    session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    return session


def _require_java(settings: SparkSettings) -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") or (home and Path(home, "bin", "java").exists()):
        return
    raise UsageError(
        f"`data.engine=spark` ({settings.master}) needs a Java runtime, and there is no `java` on the PATH or below "
        "JAVA_HOME. Install one (apt-get install openjdk-17-jre-headless), or set data.engine=duckdb."
    )


def _megabytes(limit: str) -> int:
    return int(float(limit[:-2]) * (1000 if limit.endswith("GB") else 1))


def _uri(path: Path) -> str:
    # Without the scheme a cluster may look in a file system of its own.
    return f"file://{path.absolute()}"
