"""`recsys <command> [options] [key=value ...]`: the command line, its help, its dry run and its exit codes.

Exit codes: 0 done or up to date, 2 usage or configuration, 65 bad data, 69 a needed service, 70 our bug or diverged
training, 73 cannot write, 75 busy, 130 Ctrl-C, 143 SIGTERM.
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

from pipelines.commands import COMMANDS
from recsys.errors import RecsysError, UsageError

_OVERRIDES_HELP = "configuration overrides: a group's choice (data=online_retail) or a value (training.epochs=2)"
_BY_NAME = {command.name: command for command in COMMANDS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every expected failure is one message, never a traceback."""
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return _run(arguments)
    except RecsysError as error:
        print(f"recsys {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"recsys {arguments.command}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except Terminated:
        print(f"recsys {arguments.command}: stopped by SIGTERM", file=sys.stderr)
        return 143
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:
        traceback.print_exc()
        print(
            f"recsys {arguments.command}: this is a bug of ours; please report it with the lines above.",
            file=sys.stderr,
        )
        return 70


class Terminated(BaseException):
    """SIGTERM arrived where nothing has to be finished first; no `except Exception` may take it for a failure."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _run(arguments: argparse.Namespace) -> int:
    from pipelines.compose import compose_config
    from pipelines.overrides import on_top_of, require_effect
    from pipelines.run_folder import load_config
    from recsys.config import config_document

    _require_one_process()
    command = _BY_NAME[arguments.command]
    if folder := getattr(arguments, command.run_option, ""):
        what = f"`recsys {command.name} --{command.run_option} {folder}`"
        config = on_top_of(load_config(Path(folder)), arguments.overrides, command.may_differ, what)
    else:
        config = compose_config(arguments.overrides)
        require_effect(command, arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(config_document(config), indent=2))
        print(
            f"Dry run: the configuration above is sound; `recsys {arguments.command}` would use it. Nothing was done."
        )
        if command.plans:
            importlib.import_module(command.module).plan(config, arguments)
        return 0
    module = importlib.import_module(command.module)
    result: int | None = module.main(config, arguments)
    return result or 0


def _require_one_process() -> None:
    """Refuse torchrun: the library trains in several processes, the commands do not divide their other work yet.

    Every process would prepare the same data and record a run of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: the commands run in one process so far. Start this one without "
            "torchrun; `recsys.sharding` and `recsys.training` are what a script of your own can run on several."
        )


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
    # argparse takes a list of positionals only where they stand together; overrides may stand between options too.
    arguments, rest = parser.parse_known_args(words)
    arguments.overrides = [*arguments.overrides, *rest]
    if unknown := [word for word in arguments.overrides if word.startswith("-") or "=" not in word]:
        parser.exit(
            2,
            f"recsys {arguments.command}: unknown argument `{unknown[0]}`. Options are in `recsys {arguments.command} "
            "--help`; overrides look like training.epochs=2, without blanks around the `=`.\n",
        )
    return arguments


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
        if command.positional:
            one.add_argument(command.positional, help=command.positional_help)
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
