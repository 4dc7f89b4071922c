"""Studies whose answer is known: predictions drawn directly, with shared users and seeds that differ in luck."""

from dataclasses import dataclass

import numpy as np

from recsys.ablation.arms import Contrast
from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.metrics.predictions import Predictions

SEGMENTS = ("cold", "light", "heavy")
QUESTION = Contrast("training_mode", "frozen", "end_to_end", "frozen_tower", "end_to_end", {})
RULES = Rules(level=0.05, margins={"auc": 0.002})


@dataclass(frozen=True)
class World:
    """How predictions come about: logit = truth + error, where a larger error makes a lower AUC.

    Attributes:
        error: size of an arm's error in the conditions that the truth is fitted by; what a row's error is made of.
        luck: spread over seeds of the logarithm of the error's size: what makes one seed's AUC better than another's.
        user_error: part of the error that all rows of a user share within a seed.
        user_taste: spread over users of the logarithm of the error's size, drawn for each condition and kept by all its
            seeds: what makes one condition right for some users and the other for others.
        handicap: by how much the second condition's errors are larger, overall and in each segment.
    """

    users: int = 60
    rows_per_user: int = 12
    seeds: int = 3
    error: float = 0.8
    luck: float = 0.1
    user_error: float = 0.3
    user_taste: float = 0.0
    handicap: tuple[float, float, float] = (0.0, 0.0, 0.0)


def simulate(world: World, seed: int) -> dict[tuple[str, int], Predictions]:
    """What both conditions' arms, by condition and seed, say of one sample of users."""
    rng = np.random.default_rng(seed)
    rows_of_user = rng.geometric(1 / world.rows_per_user, size=world.users)
    user = np.repeat(np.arange(world.users), rows_of_user)
    segment_of_user = rng.integers(3, size=world.users)
    # Row noise and a taste per user: rows of one user resemble each other, in label and in how well they are predicted.
    truth = rng.normal(size=len(user)) + rng.normal(size=world.users)[user]
    label = (rng.random(len(user)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    difficulty = np.exp(0.5 * rng.normal(size=world.users))[user]
    arms = {}
    for condition in (QUESTION.first, QUESTION.second):
        handicap = np.array(world.handicap if condition == QUESTION.second else (0.0, 0.0, 0.0))
        taste = np.exp(world.user_taste * rng.normal(size=world.users))[user] if world.user_taste else 1.0
        for arm_seed in range(world.seeds):
            size = world.error * np.exp(world.luck * rng.normal()) * (1 + handicap[segment_of_user])[user]
            error = rng.normal(size=len(user)) + world.user_error * rng.normal(size=world.users)[user]
            logit = (truth + size * taste * difficulty * error).astype(np.float32)
            weight = np.ones(len(user), np.float32)
            arms[condition, arm_seed] = Predictions(logit, label, segment_of_user[user], weight, {"user_key": user})
    return arms


def measured(arms: dict[tuple[str, int], Predictions], samples: int, seed: int) -> list[MeasuredArm]:
    """Every arm on the same bootstrap samples."""
    bootstrap = UserBootstrap(next(iter(arms.values())), {}, samples, seed)
    return [measure_arm(*arm, rows, {}, SEGMENTS, bootstrap) for arm, rows in arms.items()]


def study(world: World, seed: int, samples: int, rules: Rules = RULES) -> Comparison:
    """Simulate, measure and compare."""
    return compare(QUESTION, measured(simulate(world, seed), samples, seed), rules)
