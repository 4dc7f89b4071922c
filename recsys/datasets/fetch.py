"""Public data sets from their publishers: downloaded whole, checked against a known size and SHA-256, or not at all.

Bytes arrive in a `.partial` file beside the final one; a download that was cut goes on from there. The final name
stands only on a file whose digest is right.
"""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.errors import CannotWriteError, DataError, ServiceError, UsageError
from recsys.files import ensure_writable, sha256_of_file
from recsys.progress import Progress, silent

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 30
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Publication:
    """A file that a publisher offers; its name is the last part of the URL.

    Attributes:
        size_bytes, sha256: of the file as it is known; another file under the same URL is refused.
    """

    url: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The name under which it is kept."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1])


# Sizes and digests of MovieLens: the checksum list of TensorFlow Datasets (`url_checksums/movielens.txt`). Of Online
# Retail II: equal in several independent projects that recorded what the repository served them.
FETCHABLE = {
    "online_retail": Publication(
        "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip",
        45_622_418,
        "572e36277c2390fbfde10664750731e0a86f55e33470d91919085f0408e67bfb",
    ),
    "movielens-100k": Publication(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "movielens-1m": Publication(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "movielens-20m": Publication(
        "https://files.grouplens.org/datasets/movielens/ml-20m.zip",
        198_702_078,
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "movielens-25m": Publication(
        "https://files.grouplens.org/datasets/movielens/ml-25m.zip",
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "movielens-latest-small": Publication(
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        978_202,
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
}


def fetch(source: str, target: Path, progress: Progress = silent, url: str = "") -> Path:
    """Download a public data set into the folder `target`; return the file's path.

    A file that stands there and has the right digest is not downloaded again.

    Args:
        source: one of `FETCHABLE`.
        url: a mirror that serves the same bytes; the publisher's own where empty.

    Raises:
        UsageError: the source is unknown, or the URL is not http or https.
        ServiceError: the server did not answer, refused, or cut the line too often; what arrived is kept.
        DataError: what was received is not the known file; it is removed.
        CannotWriteError: the folder cannot be written or the disk is full.
    """
    if source not in FETCHABLE:
        raise UsageError(f"Unknown source {source!r}; expected one of {', '.join(FETCHABLE)}.")
    known = FETCHABLE[source]
    final = target / known.file_name
    return download(replace(known, url=url) if url else known, final, progress)


def download(publication: Publication, final: Path, progress: Progress = silent) -> Path:
    """Download one publication to `final`, resuming what an earlier attempt left; see `fetch`."""
    if urllib.parse.urlsplit(publication.url).scheme not in ("http", "https"):
        raise UsageError(f"Cannot fetch {publication.url!r}; expected an address with http:// or https://.")
    ensure_writable(final.parent)
    partial = final.with_name(f"{final.name}.partial")
    if final.exists():
        _require_digest(final, publication, "Move it away, and fetch again.")
        return final
    try:
        _receive(publication, partial, progress)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {partial}: {error.strerror or error}. What arrived is kept.") from error
    try:
        _require_digest(
            partial, publication, "It was removed; fetch again. If it differs again, the publisher changed it."
        )
    except DataError:
        partial.unlink()
        raise
    partial.rename(final)
    return final


def _receive(publication: Publication, partial: Path, progress: Progress) -> None:
    """Fill `partial` up to the known size, going on where a cut line left it."""
    reason = "the line was cut"
    for attempt in range(_ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        if have == publication.size_bytes:
            return
        if have > publication.size_bytes:
            partial.unlink()
            have = 0
        time.sleep(_PAUSE_SECONDS * attempt)
        try:
            with _open_at(publication.url, have) as response:
                _append(response, publication, partial, have, progress)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise ServiceError(
                    f"{publication.url} answered {error.code} {error.reason}. Expected the file: look for its new "
                    "address at the publisher's, or name a mirror."
                ) from error
            reason = f"the server answered {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    have = partial.stat().st_size if partial.exists() else 0
    if have < publication.size_bytes:
        raise ServiceError(
            f"{publication.url}: received {have} of {publication.size_bytes} bytes in {_ATTEMPTS} attempts ({reason}). "
            f"They are kept in {partial}: fetch again to go on from there."
        )


def _open_at(url: str, offset: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "recsys", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    return response


def _append(
    response: http.client.HTTPResponse, publication: Publication, partial: Path, have: int, progress: Progress
) -> None:
    # A server without ranges answers 200 with the whole file, whatever was asked for.
    is_rest = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    start = have if is_rest else 0
    declared = response.headers.get("Content-Length")
    if declared is not None and start + int(declared) != publication.size_bytes:
        raise DataError(
            f"{publication.url} offers {start + int(declared)} bytes; expected {publication.size_bytes}. The publisher "
            "changed the file, or this is no mirror of it; nothing was kept of it."
        )
    received = start
    with partial.open("ab" if is_rest else "wb") as stream:
        while block := response.read(min(_BLOCK_BYTES, publication.size_bytes - received + 1)):
            received += len(block)
            if received > publication.size_bytes:
                stream.truncate(0)
                raise DataError(
                    f"{publication.url} sends more than {publication.size_bytes} bytes, which is what was expected. "
                    "Nothing was kept of it; look for the file's address at the publisher's."
                )
            stream.write(block)
            progress("downloading", received, publication.size_bytes)


def _require_digest(path: Path, publication: Publication, remedy: str) -> None:
    found = sha256_of_file(path).removeprefix("sha256:")
    if found != publication.sha256:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes with SHA-256 {found}; expected {publication.size_bytes} bytes with "
            f"{publication.sha256}. {remedy}"
        )
