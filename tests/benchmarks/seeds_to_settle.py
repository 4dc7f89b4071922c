"""Does the number of seeds that an open verdict asks for bring a verdict? And the plain number, would it?

    python tests/benchmarks/seeds_to_settle.py --studies 400 --json

Paired differences are drawn as a study would measure them: the true difference, what the test users add to every seed
alike, and each seed's own luck. Studies that are open with the first seeds are run on with the number that is asked for
(`recsys/ablation/planning.py`), and with the plain one: that at which the present interval would shrink to what it must
exclude. Minutes on one core; nothing is trained.
"""

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from recsys.ablation.intervals import Spread, joined_half_width, spread_of
from recsys.ablation.planning import MOST_SEEDS, seeds_to_settle

LEVEL, MARGIN = 0.05, 0.002
EFFECTIVE_USERS, RESAMPLES = 200.0, 60
MOST_PLAIN_SEEDS = 400
# True difference; deviation over seeds; that users make for all seeds alike, and for each seed.
WORLDS = (
    (0.005, 0.005, 0.0005, 0.001),
    (0.01, 0.01, 0.002, 0.002),
    (0, 0.001, 0.0002, 0.0003),
    (0.001, 0.002, 0.0003, 0.0005),
    (0.003, 0.003, 0.0008, 0.0015),
    (0, 0.002, 0.0003, 0.001),
    (0.002, 0.003, 0.0005, 0.001),
    (0.001, 0.002, 0.0004, 0.001),
    (0.004, 0.004, 0.001, 0.001),
)


class Study:
    """One study, to which seeds can be added; its users stay the same."""

    def __init__(self, world: tuple[float, float, float, float], random: np.random.Generator) -> None:
        self._difference, self._deviation, self._shared, self._own = world
        self._random = random
        self._of_users = self._shared * random.normal()
        self._of_resamples = self._shared * random.normal(size=RESAMPLES)
        self._pairs = np.empty((0, 1 + RESAMPLES))

    def run_on(self, seeds: int) -> Spread:
        """Measure with that many seeds in all; further ones of an earlier call are drawn anew."""
        more = seeds - len(self._pairs)
        luck = self._own * self._random.normal(size=more) + self._deviation * self._random.normal(size=more)
        real = (self._difference + self._of_users + luck)[:, None]
        resampled = real + self._of_resamples + self._own * self._random.normal(size=(more, RESAMPLES))
        pairs: NDArray[np.float64] = np.concatenate([self._pairs, np.concatenate([real, resampled], axis=1)])
        if not len(self._pairs):
            self._pairs = pairs
        spread = spread_of(pairs, EFFECTIVE_USERS)
        assert spread is not None
        return spread


def is_settled(spread: Spread) -> bool:
    """Whether the verdict is any but "not enough evidence"."""
    half_width, p_value = spread.half_width(LEVEL), spread.p_value()
    assert half_width is not None
    assert p_value is not None
    return abs(spread.difference) + half_width < MARGIN or p_value < LEVEL


def plain_number(spread: Spread) -> int | None:
    """Seeds with which the interval, all else staying what it is, would exclude 0 or fit into the margin."""
    wanted = max(abs(spread.difference), MARGIN - abs(spread.difference))
    counts = np.arange(spread.seeds + 1, MOST_PLAIN_SEEDS)
    assert spread.shared_user_deviation is not None
    widths = joined_half_width(spread.seed_deviation, counts, spread.shared_user_deviation, EFFECTIVE_USERS, LEVEL)
    return int(counts[np.argmax(widths < wanted)]) if (widths < wanted).any() else None


def row(world: tuple[float, float, float, float], seeds: int, studies: int) -> dict[str, float]:
    """Run the world's studies; shares are of those for which a number was given."""
    random = np.random.default_rng(1)
    asked, settled, settled_plainly = [], [], []
    still_open = 0
    for _ in range(studies):
        study = Study(world, random)
        spread = study.run_on(seeds)
        if is_settled(spread):
            continue
        still_open += 1
        needed, plain = seeds_to_settle(spread, MARGIN, LEVEL, tests=1), plain_number(spread)
        if needed is not None and needed < MOST_SEEDS:
            asked.append(needed)
            settled.append(is_settled(study.run_on(needed)))
        if plain is not None:
            settled_plainly.append(is_settled(study.run_on(plain)))
    names = ("difference", "seed_deviation", "users_for_all_seeds", "users_for_each_seed")
    return {
        **dict(zip(names, world, strict=True)),
        "seeds": seeds,
        "open": still_open,
        "given_a_number": len(asked),
        "median_number": float(np.median(asked)),
        "settled": round(float(np.mean(settled)), 2),
        "settled_with_the_plain_number": round(float(np.mean(settled_plainly)), 2),
    }


def main() -> None:
    """Print a row per world and number of first seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="in each world, for each number of first seeds")
    parser.add_argument("--json", action="store_true", help="end with all rows as one JSON object")
    arguments = parser.parse_args()
    rows = []
    for seeds in (2, 3, 5):
        for world in WORLDS:
            rows.append(row(world, seeds, arguments.studies))
            print(" ".join(f"{name}={value:g}" for name, value in rows[-1].items()), flush=True)
    print(f"settled: {np.mean([each['settled'] for each in rows]):.2f} on average, ", end="")
    print(f"with the plain number {np.mean([each['settled_with_the_plain_number'] for each in rows]):.2f}")
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
