"""Pictures of a study in MLflow's own pages, taken by a headless Chromium at 1600 x 1150.

    python -m tests.browser.screenshots --uri http://127.0.0.1:5000 --experiment online_retail \\
        --ablation-id frozen_vs_finetuned-1 --out docs/pictures

Each picture is taken once the words that it is about are on the page.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from recsys.tracking import names
from recsys.tracking.chart_views import ChartView, study_views
from tests.browser.webdriver import Browser

WIDTH, HEIGHT = 1600, 1150
# Turns MLflow's side bar from prompts and traces to training.
_TRAINING = "workflowType=machine_learning"
# Lines are drawn after the words are there.
_DRAWING_SECONDS = 3.0
_TIDY = """
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
# Tools that appear under the mouse on a desktop stand on every chart where there is no mouse; the last one here is the
# button of MLflow's assistant, which covers the corner.
_HIDE_TOOLS = """
    const style = document.createElement('style');
    style.textContent = '.modebar, .modebar-container, [data-assistant-ui] { display: none !important }';
    document.head.appendChild(style);
"""
_COLOURS = 256


@dataclass(frozen=True)
class Study:
    """A study's arms in a tracking server."""

    uri: str
    experiment_id: str
    ablation_id: str
    runs: Sequence[Run]

    @property
    def views(self) -> tuple[ChartView, ChartView]:
        """Its prepared chart pages, arms first."""
        return study_views(self.ablation_id, {metric for run in self.runs for metric in run.data.metrics}, {})

    @property
    def one_run_per_arm(self) -> list[Run]:
        """The first seed's run of each arm."""
        by_arm: dict[str, Run] = {}
        for run in sorted(self.runs, key=lambda run: run.data.params[names.PARAM_SEED]):
            by_arm.setdefault(run.data.tags[names.TAG_ARM], run)
        return list(by_arm.values())

    @property
    def arms(self) -> list[str]:
        """Their names."""
        return [run.data.tags[names.TAG_ARM] for run in self.one_run_per_arm]


def find_study(uri: str, experiment: str, ablation_id: str) -> Study:
    """Look a study up; SystemExit with what there is if there is none."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    condition = f"tags.{names.TAG_KIND} = 'arm' and tags.{names.TAG_ABLATION_ID} = '{ablation_id}'"
    runs = list(client.search_runs([found.experiment_id], condition)) if found else []
    if not runs:
        known = [known.name for known in client.search_experiments()]
        raise SystemExit(f"No arms of {ablation_id!r} in experiment {experiment!r} at {uri}; experiments: {known}")
    return Study(uri.rstrip("/"), found.experiment_id, ablation_id, runs)


def take_all(browser: Browser, study: Study, out: Path) -> list[Path]:
    """Take every picture and return the files."""
    browser.open(study.uri)
    browser.run(_TIDY)
    by_arm, by_run = study.views
    pictures = {
        "arms": lambda: chart_page(browser, study, by_arm, f"{names.auc(names.VALIDATION)}", *study.arms),
        "gradient_norms": lambda: section(browser, "grad_norm", names.grad_norm("embedding_tower")),
        "runs": lambda: chart_page(browser, study, by_run, names.TRAIN_LOSS),
        "compare": lambda: compare_scores(browser, study),
        "difference": lambda: difference(browser),
        "run": lambda: run_page(browser, study),
        "plots": lambda: artifact_page(browser, study, names.GRADIENT_NORMS_FILE),
    }
    files = []
    for name, go in pictures.items():
        go()
        browser.run(_HIDE_TOOLS)
        time.sleep(_DRAWING_SECONDS)
        files.append(out / f"{name}.png")
        browser.screenshot(files[-1])
        # A third of the size, and no difference to the eye.
        with Image.open(files[-1]) as picture:
            picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(files[-1], optimize=True)
    return files


def chart_page(browser: Browser, study: Study, view: ChartView, *words: str) -> None:
    """Open a prepared chart page."""
    browser.open(view.address(study.uri, study.experiment_id))
    browser.wait_for_words(*words)
    browser.dismiss("shared view")


def section(browser: Browser, name: str, *words: str) -> None:
    """Bring a section of the open chart page to the top."""
    browser.scroll_to(name)
    browser.wait_for_words(*words)


def compare_page(browser: Browser, study: Study) -> None:
    """Open the comparison of one run per arm."""
    runs = json.dumps([run.info.run_id for run in study.one_run_per_arm])
    experiments = json.dumps([study.experiment_id])
    browser.open(f"{study.uri}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}&{_TRAINING}")
    browser.wait_for_words("Run details", *(run.info.run_name for run in study.one_run_per_arm))


def compare_scores(browser: Browser, study: Study) -> None:
    """On the comparison, plot the test AUC by what the arms differ in; MLflow takes the first of the alphabet."""
    compare_page(browser, study)
    browser.choose(names.PARAM_ARM, names.PARAM_MODE, names.PARAM_COMPOSITION)
    browser.choose(names.TRAIN_LOSS, names.auc(names.TEST))


def difference(browser: Browser) -> None:
    """On the open comparison, show only the params that differ."""
    browser.switch_on("Show diff only")
    browser.scroll_to("Run details")
    browser.wait_for_words("training_mode")


def run_page(browser: Browser, study: Study) -> None:
    """Open the first arm's run."""
    run = study.one_run_per_arm[0]
    browser.open(
        f"{study.uri}/#/experiments/{study.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning"
    )
    browser.wait_for_words(run.info.run_name, "Datasets", study.ablation_id)


def artifact_page(browser: Browser, study: Study, file: str) -> None:
    """Open one of the figures of the last arm's run."""
    run = study.one_run_per_arm[-1]
    browser.open(f"{study.uri}/#/experiments/{study.experiment_id}/runs/{run.info.run_id}/artifacts/{file}?{_TRAINING}")
    browser.wait_for_words(Path(file).name)


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--uri", "--experiment", "--ablation-id", "--out"):
        parser.add_argument(flag, required=True)
    arguments = parser.parse_args()
    study = find_study(arguments.uri, arguments.experiment, arguments.ablation_id)
    with Browser(WIDTH, HEIGHT) as browser:
        for file in take_all(browser, study, Path(arguments.out)):
            print(file)


if __name__ == "__main__":
    main()
