"""A publisher's archive as raw data: unpacked once, into the plain files that the schema's table reads."""

from pathlib import Path

from recsys.datasets.archives import unpack
from recsys.datasets.table_layout import TableLayout
from recsys.errors import DataError
from recsys.progress import Progress
from recsys.run.result_keys import code_of
from recsys.scheduling.stage import Stage, input_fingerprint, is_up_to_date, run_stage

_FILES = "files"


def holds_archive(layout: TableLayout, raw: Path) -> bool:
    """Whether `raw` is to be unpacked: the schema names an archive, and the table's own files are not there."""
    patterns = [pattern for several in layout.files.values() for pattern in several]
    return bool(layout.archive) and not (raw.is_dir() and any(any(raw.glob(pattern)) for pattern in patterns))


def unpacked_archive(layout: TableLayout, raw: Path, below: Path, progress: Progress) -> Path:
    """Return the folder of what an archive holds, unpacked again only where the archive changed.

    Raises:
        DataError: there is no such archive, it is damaged, or it lacks a table that the schema joins.
        CannotWriteError: `below` cannot be written.
    """
    stage, final = _place(layout, raw, below)

    def work(folder: Path) -> None:
        target = folder / _FILES
        target.mkdir()
        unpack(layout.archive, raw, target, progress)

    files = run_stage(stage, final, work).path / _FILES
    for name, rule in layout.tables.items():
        if absent := [pattern for pattern in rule.files if not any(files.glob(pattern))]:
            raise DataError(
                f"{raw}: this release tells nothing of its {name} (no {absent[0]} is made of it), which the schema "
                "joins as a side table. Set `data.schema_path` to a schema without it, such as "
                "data/schemas/movielens_csv.yaml."
            )
    return files


def unpacked_before(layout: TableLayout, raw: Path, below: Path) -> Path | None:
    """Return the folder of what the archive holds if it was unpacked already; nothing is made."""
    stage, final = _place(layout, raw, below)
    return final / _FILES if is_up_to_date(stage, final) else None


def _place(layout: TableLayout, raw: Path, below: Path) -> tuple[Stage, Path]:
    inputs = {"archive": input_fingerprint(raw)}
    stage = Stage("unpack", inputs=inputs, parameters={"form": layout.archive}, code_version=code_of(unpack))
    return stage, below / f"raw-{stage.key}"
