"""Downloads against a server on this machine, which cuts lines and lies on demand."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import recsys.datasets.fetch as module
from recsys.datasets.fetch import FETCHABLE, Publication, download, fetch
from recsys.errors import CannotWriteError, DataError, ServiceError, UsageError

CONTENT = bytes(range(256)) * 400  # 102,400 bytes


@dataclass
class Behaviour:
    """What the server does; `requests` collects the Range header of each request."""

    content: bytes = CONTENT
    cut_after: list[int] = field(default_factory=list)  # bytes to send before the n-th request's line is cut
    has_ranges: bool = True
    status: int = 0  # answered to all, unless 0
    is_silent_about_length: bool = False
    requests: list[str] = field(default_factory=list)


@dataclass
class Server:
    url: str
    behaviour: Behaviour

    def publication(self, content: bytes = CONTENT) -> Publication:
        return Publication(f"{self.url}/sets/my+set.zip", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            behaviour.requests.append(wanted)
            if behaviour.status:
                self.send_error(behaviour.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and behaviour.has_ranges else 0
            body = behaviour.content[start:]
            self.send_response(206 if start else 200)
            if start:
                total = len(behaviour.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if not behaviour.is_silent_about_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            number = len(behaviour.requests) - 1
            self.wfile.write(body[: behaviour.cut_after[number]] if number < len(behaviour.cut_after) else body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{http.server_port}", behaviour)
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_file_arrives_whole_with_its_progress_and_nothing_beside_it(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = download(server.publication(), tmp_path / "new" / "set.zip", lambda *step: steps.append(step))

    assert path.read_bytes() == CONTENT
    assert steps[-1] == ("downloading", len(CONTENT), len(CONTENT))
    assert [file.name for file in path.parent.iterdir()] == ["set.zip"]


def test_a_cut_line_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after = [1000, 500]

    assert download(server.publication(), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.behaviour.requests == ["", "bytes=1000-", "bytes=1500-"]


def test_a_line_cut_too_often_keeps_what_arrived_and_the_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after = [100, 100, 100, 100]
    with pytest.raises(ServiceError, match=r"received 400 of 102400 bytes in 4 attempts.*fetch again to go on"):
        download(server.publication(), tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()

    assert download(server.publication(), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.behaviour.requests[-1] == "bytes=400-"


def test_a_server_without_ranges_sends_all_again_and_the_file_is_still_right(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after, server.behaviour.has_ranges = [1000], False

    assert download(server.publication(), tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_file_that_stands_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(CONTENT)

    download(server.publication(), tmp_path / "set.zip")
    assert server.behaviour.requests == []


def test_a_standing_file_of_another_content_is_refused_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"set.zip: 4 bytes with SHA-256 .* expected 102400 bytes.*Move it away"):
        download(server.publication(), tmp_path / "set.zip")
    assert (tmp_path / "set.zip").read_bytes() == b"mine"


def test_a_changed_byte_is_noticed_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    server.behaviour.content = b"\1" + CONTENT[1:]
    with pytest.raises(DataError, match=r"SHA-256 .*expected .*It was removed"):
        download(server.publication(), tmp_path / "set.zip")
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_refused_before_it_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.behaviour.content = CONTENT + b"more"
    with pytest.raises(DataError, match=r"offers 102404 bytes; expected 102400"):
        download(server.publication(), tmp_path / "set.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_tells_no_length_cannot_send_more_than_is_known(server: Server, tmp_path: Path) -> None:
    server.behaviour.content, server.behaviour.is_silent_about_length = CONTENT * 20, True
    with pytest.raises(DataError, match="sends more than 102400 bytes"):
        download(server.publication(), tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()


def test_a_missing_file_is_said_at_once_with_its_address(server: Server, tmp_path: Path) -> None:
    server.behaviour.status = 404
    with pytest.raises(ServiceError, match=r"/sets/my\+set.zip answered 404"):
        download(server.publication(), tmp_path / "set.zip")
    assert len(server.behaviour.requests) == 1


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.behaviour.status = 503
    with pytest.raises(ServiceError, match=r"received 0 of 102400 bytes in 4 attempts \(the server answered 503"):
        download(server.publication(), tmp_path / "set.zip")
    assert len(server.behaviour.requests) == 4


def test_no_server_is_a_missing_service(server: Server, tmp_path: Path) -> None:
    nobody = Publication("http://127.0.0.1:9/set.zip", 10, "0" * 64)
    with pytest.raises(ServiceError, match="received 0 of 10 bytes"):
        download(nobody, tmp_path / "set.zip")


def test_an_unwritable_folder_is_said_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(CannotWriteError, match="taken"):
        download(server.publication(), tmp_path / "taken" / "set.zip")
    assert server.behaviour.requests == []


def test_a_mirror_serves_a_known_source_under_the_publishers_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Publication("https://publisher.example/files/my+set.zip", len(CONTENT), server.publication().sha256)
    monkeypatch.setitem(FETCHABLE, "mine", known)

    assert fetch("mine", tmp_path, url=f"{server.url}/mirror").name == "my+set.zip"


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'netflix'; expected one of online_retail, movielens-100k"):
        fetch("netflix", tmp_path)


def test_an_address_that_is_no_web_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an address with http"):
        fetch("movielens-100k", tmp_path, url="file:///etc/passwd")


@pytest.mark.parametrize("name", FETCHABLE)
def test_every_publication_has_a_plain_name_a_size_and_a_sha256(name: str) -> None:
    known = FETCHABLE[name]
    assert known.url.startswith("https://")
    assert known.file_name.endswith(".zip")
    assert known.size_bytes > 0
    assert len(bytes.fromhex(known.sha256)) == 32
