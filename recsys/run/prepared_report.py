"""The report on prepared rows, kept beside them: they are looked at once."""

import json
from contextlib import suppress

from recsys.datasets.encoded import EncodedDataset
from recsys.errors import CannotWriteError
from recsys.files import fingerprint_of, write_text_atomically
from recsys.inspection.prepared_rows import PreparedReport, report_on
from recsys.progress import Progress
from recsys.run.result_keys import code_of, rows_of

REPORT_NAME = "report.json"


def run(encoded: EncodedDataset, progress: Progress) -> PreparedReport:
    """Tell what prepared rows hold, or find it told already.

    Raises:
        DataError: a file of the rows is damaged; names it.
    """
    # Beside the folder of the rows, whose digests name what may lie in it.
    path = encoded.root.parent / REPORT_NAME
    key = fingerprint_of([rows_of(encoded, encoded.splits), dict(encoded.manifest.counts), code_of(report_on)])
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return PreparedReport.from_document(kept["report"])
    except (OSError, ValueError, KeyError, TypeError):
        # None yet, or a torn one.
        pass
    report = report_on(encoded, progress)
    # Rows may lie where they can only be read; the report then is made again the next time.
    with suppress(CannotWriteError):
        write_text_atomically(path, json.dumps({"key": key, "report": report.to_document()}, indent=1) + "\n")
    return report
