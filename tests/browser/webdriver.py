"""A headless Chromium, driven through ChromeDriver's own HTTP interface (W3C WebDriver): no package needed."""

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.tracking.servers import free_port

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    # A browser that looks up the addresses of its maker's services at every start waits for them where there is no net.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_SECONDS = 60.0
# Keys, as WebDriver spells them.
_ENTER, _ESCAPE = "\ue007", "\ue00c"


def missing_programs() -> list[str]:
    """Which of the two programs are not installed (Debian: the packages chromium and chromium-driver)."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Browser:
    """One window of a given size; a context manager.

    Args:
        width, height: of the page in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._profile = TemporaryDirectory(prefix="chromium-")
        self._base = f"http://127.0.0.1:{free_port()}"
        port = self._base.rpartition(":")[2]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._session = ""
        try:
            _wait(lambda: self._call("GET", "/status")["ready"], "ChromeDriver did not start")
            arguments = [*_ARGUMENTS, f"--window-size={width},{height}", f"--user-data-dir={self._profile.name}"]
            capabilities = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
            self._session = self._call("POST", "/session", {"capabilities": capabilities})["sessionId"]
            self._resize(width, height)
        except BaseException:
            self.close()
            raise

    def open(self, address: str) -> None:
        """Go to a page and wait until it has loaded; what scripts draw later is waited for by `wait_for_words`."""
        # Pages of one application differ only behind the `#`, and the browser would not load it anew for that.
        self._command("POST", "/url", {"url": "about:blank"})
        self._command("POST", "/url", {"url": address})

    def text(self) -> str:
        """Everything that is written on the page, drawings included."""
        return str(self.run("return document.body.innerText + ' ' + [...document.querySelectorAll('svg text')]"
                            ".map(e => e.textContent).join(' ')"))  # fmt: skip

    def words_in_window(self) -> list[str]:
        """What each element without children reads that stands within the window as it is scrolled now."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('*')].filter(e => !e.children.length && e.textContent.trim())"
            ".filter(e => {const b = e.getBoundingClientRect(); return b.width > 0 && b.top >= 0"
            " && b.bottom <= window.innerHeight && b.right <= window.innerWidth}).map(e => e.textContent.trim())"
        )
        return found

    def chart_axis(self, title: str) -> list[float]:
        """The numbers on the upright axis of the first chart with this title; none while it is being drawn."""
        found = self.run(
            "let e = [...document.querySelectorAll('*')].find(e => !e.children.length && e.textContent.trim() =="
            " arguments[0]); while (e && !e.querySelector('.ytick')) e = e.parentElement;"
            "return e ? [...e.querySelectorAll('.ytick text')].map(e => e.textContent) : []",
            title,
        )
        return [float(number) for number in found]

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for_words(self, *words: str) -> None:
        """Wait until all words are on the page.

        Raises:
            AssertionError: some are not there within a minute; names them, and what is there instead.
        """

        def missing() -> list[str]:
            shown = self.text()
            return [word for word in words if word not in shown]

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while absent := missing():
            if time.monotonic() > deadline:
                raise AssertionError(f"the page does not show {absent}; it shows: {self.text()[:3000]}")
            time.sleep(0.3)

    def click(self, words: str) -> None:
        """Click the innermost element that reads exactly so.

        Raises:
            AssertionError: there is none.
        """
        found = self.run(
            "const e = [...document.querySelectorAll('*')]"
            ".filter(e => e.innerText && e.innerText.trim() === arguments[0]).pop(); return e || null",
            words,
        )
        assert found, f"nothing on the page reads {words!r}"
        # A real click, which menus listen for, and not the script's.
        (reference,) = found.values()
        self._command("POST", f"/element/{reference}/click", {})

    def scroll_to(self, words: str) -> None:
        """Bring the last element that reads exactly so, a number in brackets aside, to the top of the window.

        Raises:
            AssertionError: there is none.
        """
        found = self.run(
            "const e = [...document.querySelectorAll('*')].filter(e => e.innerText"
            " && e.innerText.replace(/\\s*\\(\\d+\\)$/, '').trim() === arguments[0]).pop();"
            # Room for the bar that stands above what scrolls.
            "if (e) { e.style.scrollMarginTop = '64px'; e.scrollIntoView({block: 'start'}) } return !!e",
            words,
        )
        assert found, f"nothing on the page reads {words!r}"

    def switch_on(self, label: str) -> None:
        """Turn on every switch with this label.

        Raises:
            AssertionError: there is none.
        """
        found = self.run(
            "const s = [...document.querySelectorAll('button[role=switch], input[type=checkbox]')]"
            ".filter(e => (e.closest('label, div').parentElement.innerText || '').includes(arguments[0]));"
            "s.filter(e => e.getAttribute('aria-checked') !== 'true' && !e.checked).forEach(e => e.click());"
            "return s.length",
            label,
        )
        assert found, f"no switch on the page reads {label!r}"

    def choose(self, shown: str, *wanted: str) -> None:
        """In the list of choices that begins with one, choose others instead of all that it has.

        Raises:
            AssertionError: there is no such list.
        """
        found = self.run(
            "const s = [...document.querySelectorAll('[class*=select-multiple]')]"
            ".filter(e => e.innerText.trim().startsWith(arguments[0])).pop();"
            "if (!s) return null;"
            "for (let b; (b = s.querySelector('[class*=item-remove]')); ) b.click();"
            "return s.querySelector('input')",
            shown,
        )
        assert found, f"no list of choices on the page begins with {shown!r}"
        (reference,) = found.values()
        for choice in wanted:
            self._command("POST", f"/element/{reference}/value", {"text": choice + _ENTER})
        self._command("POST", f"/element/{reference}/value", {"text": _ESCAPE})

    def dismiss(self, words: str) -> None:
        """Close the notice that holds these words, where there is one."""
        self.run(
            "const n = [...document.querySelectorAll('[role=alert], [role=status], div')].filter(e => e.innerText"
            " && e.innerText.includes(arguments[0]) && e.querySelector('button')).pop();"
            "const b = n && [...n.querySelectorAll('button')].pop(); if (b) b.click()",
            words,
        )

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._command("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            if self._session:
                self._command("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()
            self._profile.cleanup()

    def _resize(self, width: int, height: int) -> None:
        # The window's size includes borders, so the page comes out smaller than asked for.
        inner = self.run("return [window.innerWidth, window.innerHeight]")
        rect = {"width": 2 * width - inner[0], "height": 2 * height - inner[1]}
        self._command("POST", "/window/rect", rect)

    def _command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self._base}{path}",
            method=method,
            data=None if method != "POST" else json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:500]}") from error

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wait(condition: Callable[[], Any], message: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(message)
