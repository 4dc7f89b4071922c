"""A made-up study in a tracking store: four arms, two seeds, the study's own run, and curves as real ones have them."""

import math

import numpy as np

from recsys.tracking import names
from recsys.tracking.chart_views import study_views
from recsys.tracking.figures import arm_colours, auc_by_segment, gradient_norms, learning_curves
from recsys.tracking.run import DatasetUse, TrackedRun, start_run
from recsys.tracking.store import TrackingStore

ABLATION_ID = "frozen_vs_finetuned-1"
ARMS = tuple((mode, join) for mode in ("frozen_tower", "end_to_end") for join in ("parallel", "conditional"))
SEGMENTS = ("new", "light", "regular", "heavy")
PARTS = ("embedding_tower", "interaction_network", "composition", "head")
_STEPS = range(10, 1001, 10)
_TRAIN = DatasetUse("simulated", "train", "sha256:" + "ab" * 32, "data/encoded/simulated", {"price": "float"}, 90_000)
_TEST = DatasetUse("simulated test", "test", "sha256:" + "cd" * 32, "data/encoded/simulated", {"price": "float"}, 9_000)


def log_made_up_study(store: TrackingStore) -> None:
    """Log every arm's runs and the study's run."""
    colours = arm_colours(["/".join(arm) for arm in ARMS])
    for seed in (0, 1):
        for number, (mode, composition) in enumerate(ARMS):
            _log_arm(store, mode, composition, seed, colours[f"{mode}/{composition}"], quality=number)
    tags = {names.TAG_KIND: "study", names.TAG_ABLATION_ID: ABLATION_ID, names.TAG_VERDICT: "frozen is better by 0.004"}
    with start_run(store, "study/frozen_vs_finetuned", {}, tags) as run:
        for view in study_views(ABLATION_ID, made_up_metrics(), {names.TRAIN_LOSS: [0.43, 0.71]}):
            run.save_chart_view(view)
        run.attach("report.md", "# Frozen or fine-tuned?\n\nFrozen, by 0.004 AUC.\n")


def made_up_metrics() -> list[str]:
    """Names of all metrics that an arm logs."""
    training = names.training_metrics(
        loss=0.0,
        gradient_norms=dict.fromkeys((*PARTS, names.WHOLE), 0.0),
        learning_rates={"dense": 0.0, "tables": 0.0},
        rows_seen=0,
        epoch=0,
        rows_per_second=0.0,
        data_wait_share=0.0,
        gpu_idle_share=None,
        skipped_batches=0,
    )
    scores = dict.fromkeys(("auc", "log_loss", "normalised_entropy", "calibration"), 0.0)
    by_segment = {segment: {"auc": 0.0} for segment in SEGMENTS}
    return [
        *training,
        *names.evaluation_metrics(names.VALIDATION, dict.fromkeys(("auc", "log_loss"), 0.0), by_segment),
        *names.evaluation_metrics(names.TEST, scores, by_segment),
    ]


def _log_arm(store: TrackingStore, mode: str, composition: str, seed: int, colour: str, quality: int) -> None:
    arm = f"{mode}/{composition}"
    params = {
        **dict(
            zip(names.GROUPING_PARAMS, (arm, mode, composition, "two_tower", "cross", seed, "simulated"), strict=True)
        ),
        "training.batch_size": 4096,
    }
    tags = {names.TAG_KIND: "arm", names.TAG_ABLATION_ID: ABLATION_ID, names.TAG_ARM: arm, names.TAG_COLOUR: colour}
    with start_run(store, names.run_name(mode, composition, seed=seed), params, tags, [_TRAIN, _TEST]) as run:
        rng = np.random.default_rng(seed * 10 + quality)
        curves = {step: _point(step, mode, quality, rng) for step in _STEPS}
        for step, (training, validation) in curves.items():
            run.log_step(step, training)
            if step % 100 == 0:
                run.log_step(step, validation)
        segments = {name: {"auc": 0.70 + 0.02 * place + 0.004 * quality} for place, name in enumerate(SEGMENTS)}
        overall = {"auc": 0.74 + 0.004 * quality, "log_loss": 0.47, "normalised_entropy": 0.9, "calibration": 1.01}
        run.log_final(names.evaluation_metrics(names.TEST, overall, segments), _TEST)
        _attach_figures(run, arm, {step: training for step, (training, _) in curves.items()}, segments)


def _point(step: int, mode: str, quality: int, rng: np.random.Generator) -> tuple[dict[str, float], dict[str, float]]:
    fading = math.exp(-step / (200 + 60 * quality))
    norms = {part: 0.4 / place * (fading + 0.1) * rng.lognormal(0, 0.2) for place, part in enumerate(PARTS, start=1)}
    if mode == "frozen_tower":
        norms["embedding_tower"] = 0.0
    loss, auc = 0.45 + 0.24 * fading + rng.normal(0, 0.008), 0.74 - 0.2 * fading + 0.004 * quality
    training = names.training_metrics(
        loss=loss,
        gradient_norms={**norms, names.WHOLE: math.sqrt(sum(norm**2 for norm in norms.values()))},
        learning_rates={"dense": 1e-3 * (1 - step / 1100), "tables": 0.02},
        rows_seen=step * 4096,
        epoch=step // 500,
        rows_per_second=90_000 + 5_000 * rng.random(),
        data_wait_share=0.05 * rng.random(),
        gpu_idle_share=None,
        skipped_batches=0,
    )
    by_segment = {name: {"auc": auc - 0.05 + 0.03 * place} for place, name in enumerate(SEGMENTS)}
    return training, names.evaluation_metrics(names.VALIDATION, {"auc": auc, "log_loss": loss + 0.02}, by_segment)


def _attach_figures(
    run: TrackedRun, arm: str, training: dict[int, dict[str, float]], segments: dict[str, dict[str, float]]
) -> None:
    def curve(metric: str) -> tuple[list[int], list[float]]:
        return list(training), [point[metric] for point in training.values()]

    run.attach(names.LEARNING_CURVES_FILE, learning_curves({names.TRAIN_LOSS: {arm: [curve(names.TRAIN_LOSS)]}}))
    run.attach(
        names.GRADIENT_NORMS_FILE, gradient_norms({part: {arm: [curve(names.grad_norm(part))]} for part in PARTS})
    )
    intervals = {name: (score["auc"], score["auc"] - 0.01, score["auc"] + 0.01) for name, score in segments.items()}
    run.attach(names.AUC_BY_SEGMENT_FILE, auc_by_segment({arm: intervals}))
