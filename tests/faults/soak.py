"""A soak: two nights that are killed and started again, over and over, against the same two nights unbroken.

    python tests/faults/soak.py [--kills 200] [--at random|writes|both] [--seed 0] [--json]

`random` kills `--kills` times at a random moment. `writes` kills before every kind of write, fsync and rename that a
night makes below its folder, until each was killed at once, or `--kills` times. A kind is the system call with the
file's name, its chance parts left out, and the power of two up to which a process has made it so often. After a kill
the same command is started again until it ends; then everything that the nights left is held against the unbroken ones
(`nightly_outcome`), and the next two nights begin in an empty folder.

Printed last is one JSON object; all but the first four should be 0 or empty:

    kills               processes killed, by `random` and by `writes`
    nights              pairs of nights that came to their end
    kinds, kinds_killed how many kinds of writes the unbroken nights make, and at how many of them one was killed
    lost                what the unbroken nights left and the killed ones did not: files, metric rows, aliases
    differing           what both left and is not the same, or what the killed ones left beside
    failed              starts that ended by themselves with another exit code than 0
    left_running        runs that the store takes to be alive after the last start
    leftovers           unfinished files and folders that nobody cleared away
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults.commands import Commands, Ending
from tests.faults.disk_watch import DiskWatch
from tests.faults.nightly_outcome import Outcome, leftovers_in, outcome_of, runs_left_running
from tests.purchases import Purchases

DATES = ("2024-03-28", "2024-03-29")
# Small windows and steps: a night in seconds, with checkpoints and a validation on the way.
NIGHTLY = [
    *("daily.train_days=14", "daily.warm_days=14", "daily.validation_days=3", "daily.test_days=3"),
    *("ablation.resamples=50", "daily.promotion.golden_rows=5", "daily.promotion.max_calibration_error=1"),
    *("training.batch_size=64", "training.checkpoint_every=2", "training.report_every=1", "runtime.device=cpu"),
    *("tower.epochs=1", "runtime.memory_limit=500MB"),
]
# Names of files that many of a folder differ in: of days, of modules of the code beside a model.
_MANY = re.compile(r"(?<=day=)[-\d]+|(?<=/code/)\S+|split=\w+")
_SHOWN = 20  # of what differs, on standard error
_TRIES = 50  # starts of one night that fail by themselves, before the soak gives up


@dataclass
class Findings:
    """What the soak prints; see this module's description."""

    kills: int = 0
    nights: int = 0
    kinds: int = 0
    kinds_killed: int = 0
    lost: int = 0
    differing: int = 0
    failed: int = 0
    left_running: int = 0
    leftovers: int = 0
    details: list[str] = field(default_factory=list)

    def note(self, what: str, names: Sequence[str]) -> int:
        """Keep the first names for a reader; return how many there are."""
        self.details += [f"{what}: {name}" for name in names[:_SHOWN]]
        return len(names)


class Soak:
    """Nights over a small shop, as often as wanted, always in the same folder: paths are part of some keys."""

    def __init__(self, commands: Commands, folder: Path, dates: Sequence[str] = DATES) -> None:
        self._commands, self._log, self._dates = commands, folder / "log", dates
        self._root, self._first = folder / "shop", folder / "first"
        self.shop = Purchases(self._root)
        shutil.copytree(self._root, self._first)
        self.found = Findings()
        self._kinds: dict[str, None] = {}
        self._reference = self._unbroken()

    def at_random(self, kills: int, seed: int) -> None:
        """Kill that often, each time after up to a tenth more than a night takes that nobody breaks or watches."""
        began = time.monotonic()
        self._nights(lambda words: self._commands.run(words, self._log))
        longest = 1.1 * (time.monotonic() - began) / len(self._dates)
        draw, done = random.Random(seed), 0

        def start(words: list[str]) -> Ending:
            nonlocal done
            process = self._commands.start(words, self._log)
            timer = threading.Timer(draw.uniform(0, longest), _kill, [process])
            if done < kills:
                timer.start()
            ending = self._ended(process)
            timer.cancel()
            done += ending.code == -signal.SIGKILL
            return ending

        while done < kills:
            self._nights(start)

    def at_writes(self, kills: int, is_wanted: Callable[[str], bool] | None = None) -> None:
        """Kill once at every kind of write that is wanted, at most that often; without a wish, evenly over the nights.

        With more kills than there are kinds, those count too that only a broken night makes, of a resumed run's say.
        """
        kinds, killed = list(self._kinds), set[str]()
        if is_wanted is None:
            spread = set(kinds[:: -(-len(kinds) // kills)])
            is_wanted = spread.__contains__ if kills < len(kinds) else lambda kind: True
        wanted = is_wanted

        def is_last(what: str) -> bool:
            if what in killed or len(killed) >= kills or not wanted(what):
                return False
            killed.add(what)
            return True

        before = -1
        while before < len(killed) < kills:
            before = len(killed)
            self._nights(lambda words: self._watched(words, is_last))
        self.found.kinds, self.found.kinds_killed = len(kinds), len(killed.intersection(kinds))

    def _unbroken(self) -> Outcome:
        for words in self._each_night():
            ending = self._watched(words, lambda kind: bool(self._kinds.setdefault(kind)))
            if ending.code:
                raise RuntimeError(f"An unbroken night ended with {ending.code}: {ending.printed}")
        return outcome_of(self._root)

    def _nights(self, start: Callable[[list[str]], Ending]) -> None:
        """Start both nights from nothing until they end, and hold what they left against the unbroken ones."""
        shutil.rmtree(self._root)
        shutil.copytree(self._first, self._root)
        failed = 0
        for words in self._each_night():
            while (ending := start(words)).code:
                if ending.code == -signal.SIGKILL:
                    self.found.kills += 1
                    continue
                failed += 1
                self.found.failed += self.found.note(f"exit code {ending.code}", [ending.printed[-2000:]])
                if failed > _TRIES:
                    raise RuntimeError(f"A night does not end any more: {ending.printed}")
        self.found.nights += 1
        self._compare()

    def _compare(self) -> None:
        now, then, found = outcome_of(self._root), self._reference, self.found
        found.left_running += found.note("RUNNING", runs_left_running(self._root))
        found.leftovers += found.note("leftover", leftovers_in(self._root))
        found.lost += found.note("lost", sorted(then.keys() - now.keys()))
        found.differing += found.note("more", sorted(now.keys() - then.keys()))
        both = sorted(now.keys() & then.keys())
        others = [f"{key}: {now[key]!s:.200} for {then[key]!s:.200}" for key in both if now[key] != then[key]]
        found.differing += found.note("differing", others)

    def _each_night(self) -> list[list[str]]:
        return [["daily", "--date", date, *self.shop.overrides, *NIGHTLY] for date in self._dates]

    def _watched(self, words: list[str], is_last: Callable[[str], bool]) -> Ending:
        """Run a command, asking before each write whether it is the last, with the kind of it."""
        times: Counter[str] = Counter()

        def is_last_of(what: str) -> bool:
            alike = _MANY.sub("#", what)
            times[alike] += 1
            return is_last(f"{alike}, for the {_power_of_two(times[alike])}. time")

        with DiskWatch(self._root) as watch:
            process = self._commands.start(words, self._log, watch=watch.place)
            watch.follow(process, is_last_of)
            return self._ended(process)

    def _ended(self, process: int) -> Ending:
        ending = self._commands.wait(process, self._log)
        assert ending is not None
        return ending


def _power_of_two(number: int) -> int:
    """The largest one that is no larger."""
    return 1 << number.bit_length() - 1


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def main() -> None:
    """Soak as the command line says, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200, help="how many kills at random, and at most at writes")
    parser.add_argument("--at", choices=["random", "writes", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--json", action="store_true", help="print nothing but the findings")
    arguments = parser.parse_args()
    # What was found so far is printed also where it is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder, Commands() as commands:
        soak = Soak(commands, Path(folder))
        try:
            if arguments.at != "writes":
                soak.at_random(arguments.kills, arguments.seed)
            if arguments.at != "random":
                soak.at_writes(arguments.kills)
        finally:
            _print(soak.found, None if arguments.json else 2)


def _print(found: Findings, indent: int | None) -> None:
    figures: dict[str, Any] = dict(vars(found))
    print("\n".join(figures.pop("details")), file=sys.stderr)
    print(json.dumps(figures, indent=indent))


if __name__ == "__main__":
    main()
