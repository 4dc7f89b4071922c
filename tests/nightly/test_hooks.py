"""Hooks get the event, and none of them can change what a run did."""

import http.server
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.nightly.hooks import call_hook
from recsys.nightly.nightly_log import DayOutcome, NightlyEvent

EVENT = NightlyEvent(
    "2011-09-01T03:00:00+00:00", "2011-09-01", "promote", DayOutcome.PROMOTED, "Better.", "2011-09-01-0a", 1, "here"
)


@pytest.fixture
def posted() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    found: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", found
    server.shutdown()
    server.server_close()


def test_a_command_reads_the_event_on_standard_input(tmp_path: Path) -> None:
    call_hook(f"cat > '{tmp_path}/told.json'", EVENT)
    assert json.loads((tmp_path / "told.json").read_text()) == json.loads(EVENT.to_json())


def test_an_address_is_posted_the_event(posted: tuple[str, list[tuple[str, bytes]]]) -> None:
    address, found = posted
    call_hook(f"{address}/told", EVENT)
    ((kind, body),) = found
    assert kind == "application/json"
    assert json.loads(body)["message"] == "Better."


def test_no_hook_is_no_call() -> None:
    call_hook(None, EVENT)
    call_hook("", EVENT)


@pytest.mark.parametrize("hook", ["exit 3", "no-such-command-anywhere 2>/dev/null"])
def test_a_command_that_fails_is_a_warning(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "recsys.nightly"):
        call_hook(hook, EVENT)
    assert "`promoted` of 2011-09-01 ended with" in caplog.text
    assert hook.split(maxsplit=1)[0] not in caplog.text or "exit" in hook


def test_an_address_that_does_not_answer_is_a_warning_without_its_secret(
    posted: tuple[str, list[tuple[str, bytes]]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "recsys.nightly"):
        call_hook("http://127.0.0.1:9/hooks?token=hidden", EVENT)
        call_hook(f"{posted[0]}/broken", EVENT)
    assert caplog.text.count("failed") == 2
    assert "hidden" not in caplog.text
