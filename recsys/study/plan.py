"""What a study consists of: its arms with their whole configurations, the keys by which finished ones are found again.

An arm is known by a key of everything that its result follows from. A study is known by what its arms have in common;
seeds, the values of its axes, and how many arms run at once are no part of that, so a study can grow and move.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys.ablation.arms import Arm, Contrast, contrasts, expand_grid, study_id
from recsys.ablation.trial_sampling import Trial, best_trial, next_values
from recsys.config import RunConfig, config_document
from recsys.config.compose import compose_config
from recsys.config.overrides import override, require_unset
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import UsageError
from recsys.files import fingerprint_of
from recsys.run import pretrain
from recsys.run.folder import RunResult, load_result
from recsys.run.result_keys import code_of, rows_of, settings_of
from recsys.run.streams import RANKING_TEST, TEST, TRAIN, VALIDATION
from recsys.run.train import fit_and_measure
from recsys.study.tuning import Search, load_trials, ranges_of, try_values, with_values

SEED_KEY = "training.seed"
TUNING = "tuning"
SHORT_WORDS = {"frozen_tower": "frozen", "end_to_end": "end-to-end", "parallel_conditional": "parallel+conditional"}
# The study's own settings and those of scheduled runs; data and tower count by their contents.
_NO_EFFECT_ON_ARM = ("ablation", "daily", "data", "tower")
# Trials are judged on validation, and rank nothing.
_NO_EFFECT_ON_TRIAL = (*_NO_EFFECT_ON_ARM, "evaluation.ranking")


@dataclass(frozen=True)
class PlannedArm:
    """An arm, its whole configuration, and where its run is kept."""

    arm: Arm
    config: RunConfig
    folder: Path

    @property
    def result(self) -> RunResult | None:
        """What its run left behind; None until it has finished."""
        return load_result(self.folder)


class StudyGrid:
    """The arms of a study and their configurations; nothing of the data is looked at.

    Args:
        overrides: as on the command line; an arm is these and its own.

    Raises:
        UsageError: the grid, a condition's configuration or the tuning cannot be used.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = tuple(overrides)
        self.config = compose_config(overrides)
        ablation = self.config.ablation
        self.arms = expand_grid(ablation.grid, ablation.seeds, SHORT_WORDS)
        require_unset(overrides, list(ablation.grid), "`ablation.grid` has the values that the study's arms take of it")
        require_unset(overrides, [SEED_KEY], "a study trains every arm with each of `ablation.seeds`; set those")
        self.questions: tuple[Contrast, ...] = contrasts(self.arms, ablation.contrast)
        self.composed = {arm.name: self._composed(arm) for arm in self.arms}
        self._require_ranges()

    @cached_property
    def conditions(self) -> dict[str, Arm]:
        """Condition -> its first arm."""
        first: dict[str, Arm] = {}
        for arm in self.arms:
            first.setdefault(arm.condition, arm)
        return first

    def _composed(self, arm: Arm) -> RunConfig:
        own = [override(key, value) for key, value in {**arm.choices, SEED_KEY: arm.seed}.items()]
        return compose_config([*self.overrides, *own])

    def _require_ranges(self) -> None:
        ablation = self.config.ablation
        if not ablation.tune.trials:
            return
        searched = ablation.tune.searched
        if ablation.tune.seed in ablation.seeds:
            raise UsageError(
                f"`ablation.tune.seed` is {ablation.tune.seed}, which is one of `ablation.seeds`: its arms would be "
                "tuned for that very seed. Give the trials one of their own."
            )
        known = {key for config in self.composed.values() for key in ranges_of(config, searched)}
        if unknown := [key for key in searched if key not in known]:
            raise UsageError(
                f"`ablation.tune.ranges` names `{unknown[0]}`, which is a number in no arm's configuration. "
                "Expected a key of conf/ such as training.learning_rate."
            )
        if both := [key for key in searched if key in ablation.grid]:
            raise UsageError(f"`{both[0]}` is varied by the grid and tuned as well; take it out of one of the two.")
        for condition, arm in self.conditions.items():
            if not ranges_of(self.composed[arm.name], searched):
                raise UsageError(f"There is nothing to tune for {condition}: it has none of {', '.join(searched)}.")


class StudyPlan:
    """A study over prepared data.

    Raises:
        DataError: an arm's tower is made of vectors that are not there.
    """

    def __init__(self, grid: StudyGrid, encoded: EncodedDataset) -> None:
        self.grid, self.config, self.encoded = grid, grid.config, encoded
        ablation = self.config.ablation
        self.id = study_id(ablation.name, self._fingerprint(), ablation.grid)
        self.folder = self.config.runtime.runs / self.config.data.name / self.id

    def towers(self) -> list[RunConfig]:
        """One configuration for each tower that some arm uses."""
        by_key = {self._tower_key(config): config for config in self.grid.composed.values()}
        return list(by_key.values())

    def searches(self) -> dict[str, Search]:
        """Condition -> its search; empty where nothing is tuned."""
        tuning = self.config.ablation.tune
        if not tuning.trials:
            return {}
        found = {}
        for condition, arm in self.grid.conditions.items():
            config = with_values(self.grid.composed[arm.name], {SEED_KEY: tuning.seed})
            ranges = ranges_of(config, tuning.searched)
            key = fingerprint_of([self._trial_key(config), ranges, tuning.sampler])
            folder = self.folder / TUNING / f"{_as_folder(condition)}-{key[:8]}"
            found[condition] = Search(f"tuning {condition}", config, ranges, tuning.trials, tuning.sampler, folder)
        return found

    def best_trials(self) -> dict[str, Trial]:
        """Condition -> the best of its trials, for those whose budget is spent."""
        spent = {name: load_trials(search.folder)[: search.trials] for name, search in self.searches().items()}
        trials = self.config.ablation.tune.trials
        return {name: best_trial(found) for name, found in spent.items() if len(found) == trials}

    def planned(self) -> list[PlannedArm]:
        """The arms whose configuration is settled: all, or those of the conditions that are tuned."""
        best = self.best_trials()
        is_tuned = bool(self.config.ablation.tune.trials)
        return [
            self._planned(arm, best[arm.condition].values if is_tuned else {})
            for arm in self.grid.arms
            if arm.condition in best or not is_tuned
        ]

    def _planned(self, arm: Arm, tuned: Mapping[str, float]) -> PlannedArm:
        return self.beside(arm, with_values(self.grid.composed[arm.name], tuned))

    def beside(self, arm: Arm, config: RunConfig) -> PlannedArm:
        """Return where an arm of this configuration is kept, one of the grid or one that stands beside it."""
        key = self._arm_key(config)[:8]
        # An arm may have been named otherwise while the grid had fewer axes with two values.
        there = next(self.folder.glob(f"*-{key}"), None)
        return PlannedArm(arm, config, there or self.folder / f"{_as_folder(arm.name)}-{key}")

    @property
    def code(self) -> str:
        """The version of the code that an arm's result follows from."""
        return code_of(fit_and_measure)

    def _arm_key(self, config: RunConfig) -> str:
        settings = settings_of(config, _NO_EFFECT_ON_ARM)
        return fingerprint_of([settings, self._rows, self._tower_key(config), self.code, *self._processes])

    def _trial_key(self, config: RunConfig) -> str:
        settings, rows = settings_of(config, _NO_EFFECT_ON_TRIAL), rows_of(self.encoded, (TRAIN, VALIDATION))
        return fingerprint_of([settings, rows, self._tower_key(config), _code_of_trials(), *self._processes])

    @property
    def _processes(self) -> list[int]:
        """What several processes of an arm add to its key: they share the rows of a step in another way than one."""
        count = self.config.ablation.processes_per_arm
        return [count] if count > 1 else []

    def _tower_key(self, config: RunConfig) -> str:
        """The key of the arm's tower; those of one configuration are read once, as its vectors may be many."""
        settings = [pretrain.tower_settings(config), str(getattr(config.tower, "vectors", ""))]
        if (known := fingerprint_of(settings)) not in self._tower_keys:
            self._tower_keys[known] = pretrain.stage_of(config, self.encoded).key
        return self._tower_keys[known]

    @cached_property
    def _tower_keys(self) -> dict[str, str]:
        return {}

    @cached_property
    def _rows(self) -> dict[str, str]:
        return rows_of(self.encoded, (TRAIN, VALIDATION, TEST, RANKING_TEST))

    def _fingerprint(self) -> str:
        """Of all that the arms have in common."""
        axes, tuning = self.config.ablation.grid, self.config.ablation.tune
        document = settings_of(self.config, _NO_EFFECT_ON_ARM) | {"tower": config_document(self.config)["tower"]}
        document["tower"].pop("vectors", None)
        for key in axes:
            *path, last = key.split(".")
            group: Any = document
            for step in path:
                group = group.get(step, {}) if isinstance(group, dict) else {}
            if isinstance(group, dict):
                group.pop(last, None)
        document["training"].pop("seed")
        # A group that is varied has its values from the grid, but for those that the command line puts on top.
        on_top = sorted(
            word for word in self.grid.overrides if "." in word and word.partition(".")[0].strip("+~") in axes
        )
        searched: list[Any] = []
        if tuning.trials:
            searched = [tuning.trials, tuning.sampler, tuning.seed, tuning.searched, _code_of_trials()]
        return fingerprint_of([document, on_top, searched, self._rows, self.code, *self._processes])


def _code_of_trials() -> str:
    return code_of(try_values, next_values, best_trial)


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.=+-]", "-", name)
