"""Serve MLflow on loopback over the recorded runs, and lead straight to a study's chart page."""

import argparse
import webbrowser

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.run.record import recorded_store
from recsys.tracking.ui_server import address_of, chart_pages, running_server

from .console import console, warn


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print the addresses, and serve until interrupted; a server that runs already is only pointed to.

    Raises:
        DataError: nothing has been recorded yet, or no such study.
        UsageError: the port is no port.
        BusyError: another program listens on the port; names it.
        ServiceError: the server did not start, or ended.
    """
    store = recorded_store(config)
    if not arguments.port.isdecimal() or not 0 < int(arguments.port) < 65536:
        raise UsageError(f"--port is {arguments.port!r}; expected a number from 1 to 65535.")
    base = address_of(store, int(arguments.port))
    pages = chart_pages(store, base, arguments.study)
    console.print(f"MLflow: {base}{'' if store.is_server else '  (Ctrl-C ends it)'}", soft_wrap=True, markup=False)
    for name, address in pages.items():
        console.print(f"{name}: {address}", soft_wrap=True, markup=False)
    page = next(iter(pages.values()), base) if arguments.open else ""
    if store.is_server:
        _open(page)
        return
    with running_server(store, int(arguments.port)) as server:
        _open(page)
        server.wait()


def _open(page: str) -> None:
    if page and not webbrowser.open(page):
        warn(f"No browser could be started here; open {page} in one.")
