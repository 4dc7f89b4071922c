"""MLflow's own pages over a study of ours, in a real browser: what a newcomer looks for is there to be read."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.tracking import names
from recsys.tracking.store import TrackingStore
from tests.browser import screenshots
from tests.browser.screenshots import Study, find_study
from tests.browser.study import ABLATION_ID, ARMS, SEGMENTS, log_made_up_study
from tests.browser.webdriver import Browser, missing_programs
from tests.faults.commands import Commands
from tests.tracking.servers import TrackingServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]

ARM_NAMES = ["/".join(arm) for arm in ARMS]


@pytest.fixture(scope="module")
def study(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("study")
    store = TrackingStore.in_folder(folder, "demo")
    log_made_up_study(store)
    with TrackingServer(commands, folder / "server", store=store.database) as server:
        yield find_study(server.uri, "demo", ABLATION_ID)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(screenshots.WIDTH, screenshots.HEIGHT) as window:
        yield window


def test_the_prepared_page_shows_what_an_ablation_is_about_without_a_click(browser: Browser, study: Study):
    by_arm, _ = study.views

    screenshots.chart_page(browser, study, by_arm, "at a glance", *ARM_NAMES)

    wanted = {
        *(names.TRAIN_LOSS, names.auc(names.VALIDATION), names.ROWS_PER_SECOND),
        *(names.auc(names.VALIDATION, segment) for segment in SEGMENTS),
        *(names.grad_norm(part) for part in ("embedding_tower", "interaction_network")),
    }
    browser.wait_for_words(*wanted)
    # Nothing has been clicked or scrolled: their charts begin within the window.
    assert wanted <= set(browser.words_in_window())


def test_curves_of_means_fill_their_chart_instead_of_lying_on_each_other(browser: Browser, study: Study):
    by_arm, _ = study.views
    screenshots.chart_page(browser, study, by_arm, "at a glance", names.TRAIN_LOSS)

    deadline = time.monotonic() + 30
    while not (axis := browser.chart_axis(names.TRAIN_LOSS)) and time.monotonic() < deadline:
        time.sleep(0.2)
    # The lowest loss that there was is 0.43; MLflow's own choice begins at 0.
    assert min(axis) > 0.4


def test_the_validation_auc_of_every_segment_has_a_chart(browser: Browser, study: Study):
    by_arm, _ = study.views
    screenshots.chart_page(browser, study, by_arm, "at a glance")

    screenshots.section(browser, "valid_auc", *(names.auc(names.VALIDATION, segment) for segment in SEGMENTS))


def test_the_page_of_single_runs_lists_every_run_of_the_study_and_not_the_study_itself(browser: Browser, study: Study):
    _, by_run = study.views

    screenshots.chart_page(browser, study, by_run, "8 matching runs")

    assert "study/frozen_vs_finetuned" not in browser.text()


def test_both_prepared_pages_are_offered_by_name(browser: Browser, study: Study):
    browser.open(f"{study.uri}/#/experiments/{study.experiment_id}/runs?workflowType=machine_learning")
    browser.wait_for_words("Views")

    browser.click("Views")

    browser.wait_for_words(*(view.name for view in study.views))


def test_the_compare_page_shows_only_the_params_that_differ(browser: Browser, study: Study):
    screenshots.compare_page(browser, study)
    assert "training.batch_size" in browser.text()

    screenshots.difference(browser)

    browser.wait_for_words(names.PARAM_MODE, names.PARAM_COMPOSITION, "frozen_tower", "end_to_end")
    assert "training.batch_size" not in browser.text()


def test_a_runs_page_names_its_data_with_digest(browser: Browser, study: Study):
    screenshots.run_page(browser, study)

    browser.wait_for_words("simulated", "ab" * 18)


def test_every_picture_for_the_documentation_can_be_taken(
    browser: Browser, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(screenshots, "_DRAWING_SECONDS", 0.2)

    files = screenshots.take_all(browser, study, tmp_path)

    assert {file.name for file in files} >= {"arms.png", "gradient_norms.png", "compare.png", "difference.png"}
    for file in files:
        header = file.read_bytes()[:24]
        width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
        assert (header[:4], width, height) == (b"\x89PNG", screenshots.WIDTH, screenshots.HEIGHT)
