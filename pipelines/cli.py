"""`recsys <command> [options] [key=value ...]`: the command line, its help, its dry run and its exit codes.

Exit codes: 0 done or up to date, 2 usage or configuration, 65 bad data, 69 a needed service, 70 our bug or diverged
training, 73 cannot write, 75 busy, 130 Ctrl-C, 143 SIGTERM. `recsys daily` ends with 10 where its work is done and the
weekly study's verdict has changed for somebody.
"""

import argparse
import difflib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from recsys.errors import CannotWriteError, RecsysError, UsageError
from recsys.files import home_expanded
from recsys.machine_faults import machine_fault

from . import output
from .command import Command
from .commands import COMMANDS

if TYPE_CHECKING:
    from recsys.config import RunConfig

_OVERRIDES_HELP = "configuration overrides: a group's choice (data=online_retail) or a value (training.epochs=2)"
_FROM_STUDY = "training_mode=from_study"
_BY_NAME = {command.name: command for command in COMMANDS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every expected failure is one message, never a traceback."""
    # Arrow's allocator would give memory back to the system 10 ms after it is freed, and a stream of batches would
    # fetch fresh pages for every row group: a fifth of its processor time, a half on a busy machine. Arrow reads this
    # when it is loaded, which is after this line.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
    output.make_safe()
    command = "recsys"
    try:
        arguments = _parse(argv)
        command = f"recsys {arguments.command}"
        signal.signal(signal.SIGTERM, _terminated)
        code = _run(arguments)
    except SystemExit:
        if (unwritable := output.fault()) is None:
            raise
        return _without_output(command, unwritable)
    except BaseException as error:
        code = _failed(command, error)
    if (unwritable := output.fault()) is not None and code == 0:
        return _without_output(command, unwritable)
    return code


def _failed(command: str, error: BaseException) -> int:
    """Say what ended the command, and return the exit code."""
    match error:
        case RecsysError():
            output.print_error(f"{command}: {error}")
            return error.exit_code
        case KeyboardInterrupt():
            output.print_error(f"{command}: stopped by Ctrl-C")
            return 130
        case Terminated():
            output.print_error(f"{command}: stopped by SIGTERM")
            return 143
        # What DuckDB makes of whatever a signal's handler raises while a query runs.
        case RuntimeError(args=("Query interrupted",)):
            return _failed(command, Terminated() if Terminated.has_come else KeyboardInterrupt())
        case BrokenPipeError():
            return _without_output(command, output.fault() or error)
        # Without buffering nothing is left of what could not be written, and the error does not say where to.
        case OSError(filename=None) if (unwritable := output.fault(probe="\n")) is not None:
            return _without_output(command, unwritable)
    if (fault := machine_fault(error)) is not None:
        output.print_error(f"{command}: {fault}")
        return fault.exit_code
    output.print_error("".join(traceback.format_exception(error)).rstrip())
    output.print_error(f"{command}: this is a bug of ours; please report it with the lines above.")
    return 70


def _without_output(command: str, unwritable: OSError) -> int:
    if isinstance(unwritable, BrokenPipeError):
        # The reader of our output (`| head`) has gone, having read what it wanted.
        return 141
    output.print_error(f"{command}: Cannot write to standard output: {unwritable.strerror}. Send it elsewhere.")
    return CannotWriteError.exit_code


class Terminated(BaseException):
    """SIGTERM arrived where nothing has to be finished first; no `except Exception` may take it for a failure."""

    has_come = False


def _terminated(number: int, frame: FrameType | None) -> None:
    Terminated.has_come = True
    raise Terminated


def _run(arguments: argparse.Namespace) -> int:
    from recsys.config import config_document

    command = _BY_NAME[arguments.command]
    _require_processes(command)
    _require_working_folder()
    config = _configured(command, arguments)
    rank = int(os.environ.get("RANK", "0"))
    if arguments.dry_run:
        if rank:
            return 0
        print(json.dumps(config_document(config), indent=2))
        print(
            f"Dry run: the configuration above is sound; `recsys {arguments.command}` would use it. Nothing was done."
        )
        if command.plans:
            importlib.import_module(command.module).plan(config, arguments)
        return 0
    module = importlib.import_module(command.module)

    def work(is_first: bool) -> int:
        if is_first:
            importlib.import_module(".console", __package__).show_notices()
        result: int | None = module.main(config, arguments)
        return result or 0

    if "RANK" not in os.environ:
        return work(True)
    together = importlib.import_module(".torchrun", __package__).together
    code: int = together(config, work, f"recsys {command.name}")
    return code


def _configured(command: Command, arguments: argparse.Namespace) -> "RunConfig":
    from recsys.config.compose import compose_config
    from recsys.config.overrides import on_top_of
    from recsys.run.folder import load_config

    if folder := getattr(arguments, command.run_option, ""):
        what = f"`recsys {command.name} --{command.run_option} {folder}`"
        return on_top_of(load_config(Path(folder)), arguments.overrides, command.may_differ, what)
    config = compose_config(arguments.overrides)
    _require_effect(command, arguments.overrides)
    return config


def _require_effect(command: Command, overrides: Sequence[str]) -> None:
    """Refuse an override that bears on nothing that the command does.

    Raises:
        UsageError: names the override, what the command takes, and the commands that take this one.
    """
    from recsys.config.compose import keys_of
    from recsys.config.overrides import is_taken, listed

    for word in overrides:
        keys = keys_of(word)
        if any(is_taken(key, command.takes) for key in keys):
            continue
        others = [f"`recsys {each.name}`" for each in COMMANDS if any(is_taken(key, each.takes) for key in keys)]
        raise UsageError(
            f"`{word}` has no effect on `recsys {command.name}`, which takes {listed(command.takes)}. "
            + (f"It is for {', '.join(others)}." if others else "No command takes it.")
        )


def _require_processes(command: Command) -> None:
    """Refuse several processes where a command has no work for them, and half of a launcher's variables."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return
    if not command.is_spread:
        spread = ", ".join(f"`recsys {each.name}`" for each in COMMANDS if each.is_spread)
        raise UsageError(
            f"WORLD_SIZE is {size}, but `recsys {command.name}` {command.why_alone}. Start it without torchrun; "
            f"{spread} run in several processes."
        )
    if "RANK" not in os.environ:
        raise UsageError(
            f"WORLD_SIZE is {size}, but RANK is not set. Start several processes with `torchrun --nproc-per-node "
            f"{size} -m recsys {command.name} ...`, or unset WORLD_SIZE to run one."
        )


def _require_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError("The working folder is not there any more. Go to one that is (`cd`), and repeat.") from error


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2, "\nrecsys: no command was given; start with `recsys demo`.\n")
    if words[0] not in _BY_NAME and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], list(_BY_NAME), n=1)
        hint = f"did you mean `recsys {near[0]}`?" if near else f"the commands are {', '.join(_BY_NAME)}."
        parser.exit(2, f"recsys: there is no command `{words[0]}`; {hint}\n")
    _refuse_unreadable(words, parser)
    # argparse takes a list of positionals only where they stand together; overrides may stand between options too.
    arguments, rest = parser.parse_known_args(words)
    arguments.overrides = [*arguments.overrides, *rest]
    if unknown := [word for word in arguments.overrides if word.startswith("-") or "=" not in word]:
        parser.exit(
            2,
            f"recsys {arguments.command}: unknown argument `{unknown[0]}`. Options are in `recsys {arguments.command} "
            "--help`; overrides look like training.epochs=2, without blanks around the `=`.\n",
        )
    _expand_paths(arguments)
    if arguments.command == "train" and _FROM_STUDY in arguments.overrides:
        # No mode with values of its own: which rungs it stands for, the study says.
        study = [word for word in arguments.overrides if word.startswith("study=")]
        if len(study) != 1:
            parser.exit(2, f"recsys train: {_FROM_STUDY} needs one study: add study=ID, as `recsys ablate` printed.\n")
        arguments.from_study = study[0].partition("=")[2]
        arguments.overrides = [word for word in arguments.overrides if word not in (_FROM_STUDY, *study)]
    return arguments


def _refuse_unreadable(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    for before, word in zip(["recsys", *words], words, strict=False):
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            what = word if word.strip() else f"what follows `{before}`"
            parser.exit(2, f"recsys: {what} is empty; expected a value (is a variable of the shell not set?).\n")
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            encoding = sys.getfilesystemencoding()
            parser.exit(2, f"recsys: {word!a} cannot be read as {encoding}. Rename the file, or set its locale.\n")


def _expand_paths(arguments: argparse.Namespace) -> None:
    command = _BY_NAME[arguments.command]
    names = {option.flag.removeprefix("--"): option.flag for option in command.options if option.is_path}
    names |= {each.name: each.name for each in command.positionals if each.is_path}
    for name, flag in names.items():
        if value := getattr(arguments, name):
            setattr(arguments, name, home_expanded(value, flag))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys",
        description="Train a pre-trained embedding tower and an interaction network as one ranker, and compare how.",
        epilog="Start with `recsys demo`, then `recsys ui`.\n\n" + (__doc__ or "").split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for positional in command.positionals:
            one.add_argument(positional.name, help=positional.help, choices=positional.choices or None)
        for option in command.options:
            if option.is_switch:
                one.add_argument(option.flag, help=option.help, action="store_true")
            else:
                one.add_argument(option.flag, help=option.help, required=option.required, default=option.default)
        one.add_argument("--dry-run", action="store_true", help="check and print the configuration, do nothing")
        taken = f"{_OVERRIDES_HELP}; of {', '.join(command.takes)}" if command.takes else "none: it takes no overrides"
        one.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=taken)
    return parser


if __name__ == "__main__":
    sys.exit(main())
