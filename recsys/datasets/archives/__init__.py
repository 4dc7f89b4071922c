"""Data sets as their publishers ship them -> plain Parquet files, which the `table:` of a schema file then reads.

`release_layouts` and `movielens_release` read MovieLens in its three layouts, `retail_transactions` reads Online Retail
from the publisher's zip, workbook or csv, `zip_members` takes files out of zips. What the columns mean, which rows are
kept and what is counted of them stands in the schema files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from recsys.datasets.archives.movielens_release import unpack_release
from recsys.datasets.archives.retail_transactions import unpack_transactions
from recsys.progress import Progress

_READERS: Mapping[str, Callable[[Path, Path, Progress], None]] = {
    "movielens": unpack_release,
    "online_retail": unpack_transactions,
}


def unpack(archive: str, raw: Path, target: Path, progress: Progress) -> None:
    """Write what the publisher's archive holds as Parquet files into the folder `target`, in bounded memory.

    Equal archives become files of equal bytes.

    Args:
        archive: the publisher's form, a `table.archive` of a schema file.
        raw: the archive, or a folder that holds it or what was unpacked from it.

    Raises:
        DataError: nothing of this form lies there, or it is damaged; names the user's own file.
    """
    _READERS[archive](raw, target, progress)
