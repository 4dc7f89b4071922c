"""Write lists of recommendations by a finished run, and say where they are."""

import argparse
from pathlib import Path

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.run import recommend

from .console import console, progress_bars


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Recommend, and say for how many users, how many rows, and where."""
    request = recommend.Request(
        date=arguments.date,
        users=_users(arguments.users),
        top=_number("--top", arguments.top, least=1),
        retrieve=_number("--retrieve", arguments.retrieve, least=0),
        is_new_only=arguments.new_only,
    )
    with progress_bars() as progress:
        found = recommend.run(config, Path(arguments.run), request, Path(arguments.output), progress)
    what = f"{found.rows:,} recommendations for {found.users:,} users"
    console.print(f"{what}: {found.path}" + ("" if found.was_run else " (up to date)"), soft_wrap=True)
    if request.users and found.users < len(request.users):
        console.print(f"{len(request.users) - found.users:,} of the users asked for have no event before then.")


def _users(given: str) -> tuple[str, ...] | None:
    if given == "all":
        return None
    text = Path(given).read_text(encoding="utf-8").replace("\n", ",") if Path(given).is_file() else given
    ids = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if not ids:
        raise UsageError(
            f"--users is {given!r}; expected all, a file with one id a line, or ids with commas between them."
        )
    return ids


def _number(flag: str, given: str, least: int) -> int:
    if not given.isascii() or not given.isdigit() or int(given) < least:
        raise UsageError(f"{flag} is {given!r}; expected a whole number from {least} up.")
    return int(given)
