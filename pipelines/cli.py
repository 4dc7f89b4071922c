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
from dataclasses import dataclass
from types import FrameType

from recsys.errors import RecsysError, UsageError

_OVERRIDES_HELP = "configuration overrides: a group's choice (data=online_retail) or a value (training.epochs=2)"


@dataclass(frozen=True)
class Option:
    """One option of a command beside the overrides."""

    flag: str
    help: str
    required: bool = False
    default: str | None = None
    is_switch: bool = False


@dataclass(frozen=True)
class Command:
    """One word of the command line; its module in `pipelines` has `main(config, arguments)`.

    Attributes:
        plans: whether the module has `plan(config, arguments)`, which says what would be done.
    """

    name: str
    summary: str
    example: str
    options: tuple[Option, ...] = ()
    positional: str | None = None
    positional_help: str = ""
    plans: bool = False

    @property
    def module(self) -> str:
        """The module under `pipelines` that holds it."""
        return f"pipelines.{self.name}"


STUDY = "id of a study, or the beginning of one"
AS_JSON = Option("--json", "print JSON with the numbers in full, and no tables", is_switch=True)
RUN = Option("--run", "folder of a finished run, as `recsys train` printed it", required=True)
COMMANDS = (
    Command("demo", "simulate a world and answer the project's question on it", "recsys demo"),
    Command(
        "fetch",
        "download a public data set from its publisher, checked and resumable",
        "recsys fetch online_retail",
        (Option("--to", "target folder (data/raw/<source>)"),),
        positional="source",
        positional_help="online_retail, movielens-100k, movielens-1m, movielens-20m, movielens-25m or "
        "movielens-latest-small",
    ),
    Command(
        "inspect",
        "what Parquet files hold, what the loader would do with them, and how to write them better",
        "recsys inspect path/to/folder",
        (AS_JSON,),
        positional="path",
        positional_help="a Parquet file, or a folder with some anywhere below it",
    ),
    Command(
        "prepare",
        "raw rows -> encoded Parquet, everything fitted on the training split",
        "recsys prepare data=online_retail data.raw=path/to/folder",
    ),
    Command("pretrain", "pre-train or import the embedding tower", "recsys pretrain data=online_retail"),
    Command(
        "audit",
        "does every segment's loss reach every part that it should, and no other? Before a run, in a second",
        "recsys audit data=online_retail composition=conditional training_mode=frozen_tower",
        (Option("--json", "file to write the report to"),),
    ),
    Command(
        "train",
        "one run: one composition, one training mode, one seed",
        "recsys train data=online_retail composition=conditional training_mode=frozen_tower",
        (Option("--resume", "folder of a run that was stopped; goes on from its newest complete checkpoint"),),
    ),
    Command(
        "evaluate",
        "measure a finished run on a split",
        "recsys evaluate --run runs/online_retail/20260101-120000-e2e --split test",
        (RUN, Option("--split", "split to measure on", default="test")),
    ),
    Command(
        "ablate",
        "train every arm of a study and say which is better, for whom",
        "recsys ablate experiment=frozen_vs_finetuned data=online_retail data.raw=path/to/folder",
        plans=True,
    ),
    Command(
        "compare",
        "a study's arms, differences with intervals, and verdict, from the tracking store",
        "recsys compare --study frozen_vs_finetuned",
        (
            Option("--study", f"{STUDY} (the newest)", default=""),
            Option("--metric", "what to show the differences in", default="auc"),
            AS_JSON,
        ),
    ),
    Command(
        "runs",
        "every recorded run with its status and its test scores, newest first",
        "recsys runs --study frozen_vs_finetuned",
        (Option("--study", f"{STUDY} (every run)", default=""), AS_JSON),
    ),
    Command(
        "score",
        "probabilities for rows in a Parquet file",
        "recsys score --run runs/simulated/20260101-120000-e2e --input rows.parquet --output scores.parquet",
        (
            RUN,
            Option("--input", "Parquet file with the raw columns, as in the files that were prepared", required=True),
            Option("--output", "Parquet file to write: the rows and their `probability`", required=True),
        ),
    ),
    Command(
        "daily",
        "window, prepare, train, evaluate, promote; safe to start twice",
        "recsys daily --date 2011-09-01 data=online_retail data.raw=path/to/folder",
        (Option("--date", "the first day that the run must not see, YYYY-MM-DD", required=True),),
    ),
    Command("sync", "send what was spooled while the tracking server was away", "recsys sync tracking=server"),
    Command(
        "ui",
        "serve MLflow on loopback over the recorded runs, and say where the newest study's chart page is",
        "recsys ui --open",
        (
            Option("--port", "port", default="5000"),
            Option("--study", f"{STUDY} (the newest)", default=""),
            Option("--open", "open the study's chart page in the browser", is_switch=True),
        ),
    ),
)

_NAMES = [command.name for command in COMMANDS]


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
    from recsys.config import config_document

    _require_one_process()
    config = compose_config(arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(config_document(config), indent=2))
        print(
            f"Dry run: the configuration above is sound; `recsys {arguments.command}` would use it. Nothing was done."
        )
        if any(command.name == arguments.command and command.plans for command in COMMANDS):
            importlib.import_module(f"pipelines.{arguments.command}").plan(config, arguments)
        return 0
    module = importlib.import_module(f"pipelines.{arguments.command}")
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
    if words[0] not in _NAMES and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], _NAMES, n=1)
        hint = f"did you mean `recsys {near[0]}`?" if near else f"the commands are {', '.join(_NAMES)}."
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
        one.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=_OVERRIDES_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
