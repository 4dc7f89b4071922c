"""Telling others: a shell command that reads the event on standard input, or an http address that it is posted to.

A hook that fails is a warning. It never changes what a run did, nor its exit code.
"""

import logging
import subprocess
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from recsys.nightly.nightly_log import NightlyEvent

_PATIENCE_SECONDS = 30.0
logger = logging.getLogger("recsys.nightly")


def call_hook(hook: str | None, event: NightlyEvent) -> None:
    """Hand the event, as one line of JSON, to the hook; None: to nobody."""
    if not hook:
        return
    is_address = hook.startswith(("http://", "https://"))
    try:
        _post(hook, event) if is_address else _run(hook, event)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # An address may hold a secret, and so may a command: neither is repeated.
        where = f"at {urlsplit(hook).hostname}" if is_address else "(a shell command)"
        reason = error.reason if isinstance(error, urllib.error.URLError) else type(error).__name__
        logger.warning("The hook %s for `%s` of %s failed: %s", where, event.outcome, event.date, reason)


def _post(address: str, event: NightlyEvent) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, event.to_json().encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS):
        return


def _run(command: str, event: NightlyEvent) -> None:
    done = subprocess.run(
        command, shell=True, input=event.to_json() + "\n", text=True, timeout=_PATIENCE_SECONDS, check=False
    )
    if done.returncode:
        logger.warning(
            "The hook (a shell command) for `%s` of %s ended with %d", event.outcome, event.date, done.returncode
        )
