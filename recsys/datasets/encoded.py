"""An encoded folder, opened: the contract it was made under, its rows, its vocabularies.

A folder is whole or it is refused: a file that the manifest names and the folder lacks, or that has another size, stops
here with its name rather than later as missing rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.datasets.manifest import (
    CONTRACT_NAME,
    MANIFEST_NAME,
    VOCABULARY_FOLDER,
    Manifest,
    part_path,
)
from recsys.errors import DataError
from recsys.features.contract import FeatureContract
from recsys.features.vocabulary import Vocabulary
from recsys.files import fingerprint_of, sha256_of_file
from recsys.progress import Progress, silent


@dataclass(frozen=True)
class EncodedDataset:
    """What `encode` published at `root`."""

    root: Path
    contract: FeatureContract
    manifest: Manifest

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows."""
        return tuple(self.manifest.splits)

    def rows(self, split: str) -> int:
        """Number of rows of a split; 0 for a split that the folder does not have."""
        return sum(self.manifest.splits.get(split, {}).values())

    def days(self, split: str) -> dict[str, int]:
        """Rows of each UTC day of a split, in the order of the days.

        Raises:
            DataError: the split has no rows; names those that have.
        """
        if not self.rows(split):
            raise DataError(
                f"0 rows for split `{split}` in {self.root}; found {_split_rows(self.manifest)}. Every split needs "
                "rows: check the dates, values or files by which the data are split, and the days that the data cover."
            )
        return dict(self.manifest.splits[split])

    def profile(self, split: str) -> Counter[str]:
        """What was counted in a split's rows while they were encoded; see `RowEncoder.profile`."""
        parts = (self.manifest.files[part_path(split, day)].profile for day in self.days(split))
        return sum(map(Counter, parts), Counter[str]())

    def files(self, split: str) -> tuple[Path, ...]:
        """The split's Parquet files, day after day.

        Raises:
            DataError: the split has no rows.
        """
        return tuple(self.root / part_path(split, day) for day in self.days(split))

    def digest(self, split: str, days: Sequence[str] = ()) -> str:
        """16 hexadecimal digits that name the split's rows and their order, wherever the folder lies.

        Args:
            days: those of the split whose rows are meant; () for all.

        Raises:
            DataError: the split has no rows.
        """
        names = [part_path(split, day) for day in days or self.days(split)]
        return fingerprint_of({name: self.manifest.files[name].sha256 for name in names})

    def vocabulary(self, table: str) -> Vocabulary:
        """The ids of one embedding table.

        Raises:
            DataError: no such table, or its file is torn or belongs to another contract.
        """
        if table not in self.contract.table_rows:
            raise DataError(
                f"{self.root} has no vocabulary for table `{table}`; its tables are "
                f"{', '.join(sorted(self.contract.table_rows))}."
            )
        path = self.root / VOCABULARY_FOLDER / f"{table}.parquet"
        vocabulary = Vocabulary.load(path)
        expected = self.contract.vocabulary_fingerprints[table]
        if vocabulary.fingerprint != expected:
            raise DataError(
                f"{path} has fingerprint {vocabulary.fingerprint}, but its contract names {expected}: the rows of the "
                "table would stand for other ids. Prepare the data again."
            )
        return vocabulary

    def require_intact(self, progress: Progress = silent) -> None:
        """Read every file and compare its digest with the manifest's.

        Raises:
            DataError: names the first file that differs.
        """
        for done, (name, entry) in enumerate(self.manifest.files.items()):
            progress("verify the encoded files", done, len(self.manifest.files))
            found = sha256_of_file(self.root / name)
            if found != entry.sha256:
                raise DataError(
                    f"sha256 mismatch in {self.root / name}: found {found}, the manifest says {entry.sha256}. The file "
                    f"was changed or damaged after it was made: remove the folder {self.root} and prepare the data "
                    "again."
                )
        progress("verify the encoded files", len(self.manifest.files), len(self.manifest.files))


def open_encoded(root: Path) -> EncodedDataset:
    """Open an encoded folder.

    Raises:
        DataError: the folder is missing or incomplete, or holds another contract than its manifest names.
    """
    if not root.is_dir():
        raise DataError(f"There is no encoded data at {root}. Make it with `recsys prepare`, or mend the path.")
    manifest_path, contract_path = root / MANIFEST_NAME, root / CONTRACT_NAME
    for path in (manifest_path, contract_path):
        if not path.is_file():
            raise DataError(
                f"{root} is no complete encoded folder: {path.name} is missing. Expected what `recsys prepare` "
                "publishes whole; prepare the data again, or mend the path."
            )
    manifest = Manifest.from_json(manifest_path.read_bytes(), manifest_path)
    contract = FeatureContract.from_json(contract_path.read_bytes())
    if contract.fingerprint != manifest.contract:
        raise DataError(
            f"{contract_path} is contract {contract.fingerprint}, but the manifest beside it was written for "
            f"{manifest.contract}: two preparations were mixed. Prepare the data again."
        )
    _require_sizes(root, manifest)
    return EncodedDataset(root, contract, manifest)


def _split_rows(manifest: Manifest) -> str:
    """Such as "train 90 (2011-01-01 to 2011-03-31)"."""
    spans = [(split, sum(days.values()), min(days), max(days)) for split, days in manifest.splits.items() if days]
    return ", ".join(f"{split} {rows} ({first} to {last})" for split, rows, first, last in spans)


def _require_sizes(root: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = root / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry.bytes:
            raise DataError(
                f"{path} {'is missing' if found is None else f'has {found} bytes'}; the manifest says "
                f"{entry.bytes} bytes with {entry.rows} rows. Copy the folder whole, or prepare the data again."
            )
