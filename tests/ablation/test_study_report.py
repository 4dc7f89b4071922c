"""What the report promises: every figure of a study in tables that read the same in a terminal and in Markdown."""

import re

import pytest

from recsys.ablation.comparison import Verdict
from recsys.ablation.page import Report, ReportTable
from recsys.ablation.study_report import Evidence, study_report
from recsys.ablation.study_tables import arms_table, costs_table, differences_table, mean_costs
from recsys.tracking import names
from tests.ablation.studies_by_hand import RULES, comparison, difference

SCORES = {
    "frozen": [{"auc/all": 0.70, "auc/cold": 0.6}, {"auc/all": 0.72}],
    "end_to_end": [{"auc/all": 0.68, "ndcg_20/all": 0.25}],
    "popular, 14 days": [{"ndcg_20/all": 0.0981}],
}
COSTS = {
    "frozen": [{"seconds_per_step": seconds, "trained_parameters": 1e6} for seconds in (0.012, 0.014)],
    "end_to_end": [{}],
}


def test_the_arms_table_gives_mean_and_deviation_over_seeds_and_a_dash_for_what_is_missing():
    table = arms_table(SCORES, ["auc", "ndcg_20", "recall_20"])
    assert table.header == ("arm", "seeds", "AUC", "ndcg 20")
    assert table.rows == (
        ("frozen", "2", "0.7100 ± 0.0141", "-"),
        ("end_to_end", "1", "0.6800", "0.2500"),
        ("popular, 14 days", "1", "-", "0.0981"),
    )


def test_the_costs_table_leaves_out_what_cost_nothing():
    table = costs_table(COSTS)
    assert table.header == ("arm", "ms per step", "trained parameters")
    assert table.rows == (("frozen", "13", "1,000,000"),)


def test_the_differences_table_has_a_row_for_each_segment_with_interval_p_value_and_verdict():
    study = comparison(
        difference(Verdict.BETTER, 0.001, 0.007, p_value=0.0004),
        difference(Verdict.OPEN, -0.01, 0.03, segment="cold", p_value=0.3),
    )
    table = differences_table([study], "auc", RULES)
    assert table.rows[0][1:] == (
        "all", "20,000", "5,412", "3", "0.7040", "0.7000", "+0.0040", "+0.0010 to +0.0070", "< 0.001", "better",
    )  # fmt: skip
    assert table.rows[1][7:] == ("+0.0100", "-0.0100 to +0.0300", "0.300", "not enough evidence")


def test_markdown_escapes_what_would_break_a_table():
    assert "a\\|b" in ReportTable("t", ("x",), (("a|b",),)).to_markdown()


def test_costs_are_means_over_the_arms_that_have_them():
    assert mean_costs(COSTS)["frozen"]["seconds_per_step"] == pytest.approx(0.013)
    assert mean_costs(COSTS)["end_to_end"] == {}


CURVE = ([0, 10, 20], [0.7, 0.6, 0.5])
DRIFT = {"cosine_distance": 0.25, "neighbours_lost": 0.5, "norm_change": 0.01}
EVIDENCE = Evidence(
    scores=SCORES,
    costs=COSTS,
    curves={names.TRAIN_LOSS: {"frozen": [CURVE, ([0, 10], [0.8, 0.7])], "end_to_end": [CURVE]}},
    norms={"embedding_tower": {"frozen": [([0, 10], [0.0, 0.0])], "end_to_end": [CURVE]}},
    calibration={"frozen": [(0.1, 0.12, 50.0), (0.4, 0.38, 50.0)]},
    auc_by_segment={"frozen": {"all": (0.7, 0.69, 0.71)}},
    drift={"end_to_end": {"all": {"all, by rows": DRIFT}}},
    held_equal=["same seeds: 0, 1"],
    reproduce="recsys ablate experiment=<mine>",
    facts=[("code", "1a2b")],
)


def written() -> Report:
    """A study whose answer is that freezing is better, as a report."""
    study = comparison(difference(Verdict.BETTER, 0.001, 0.007))
    return study_report("Frozen or fine-tuned?", [study], ["auc", "ndcg_20"], RULES, EVIDENCE)


def test_the_report_puts_the_verdict_first_then_what_bears_it_out_then_how_to_do_it_again():
    text = written().to_markdown()
    places = [
        text.index(words)
        for words in (
            "# Frozen or fine-tuned?",
            "freeze the tower",
            "**better** (+0.0040 AUC, 95% interval +0.0010 to +0.0070)",
            "](plots/forest.png)",
            "### Paired differences in AUC",
            "## The arms",
            "](plots/learning_curves.png)",
            "](plots/gradient_norms.png)",
            "](plots/calibration.png)",
            "| end_to_end | all, by rows | 0.7500 | 50.0% | 1.0% |",
            "](plots/drift.png)",
            "## What it costs",
            "same seeds: 0, 1",
            "recsys ablate experiment=<mine>",
            "| code | 1a2b |",
        )
    ]
    assert places == sorted(places)
    assert "the margin (0.002 AUC)" in text
    assert "Paired differences in ndcg" not in text


def test_the_html_page_says_the_same_and_loads_nothing():
    report = written()
    page = report.to_html()
    # Pictures are inside of it, and neither a style, a script nor a font comes from anywhere else.
    assert page.count("data:image/svg+xml;base64,") == len(report.pictures) == 6
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    for words in ("freeze the tower", "+0.0010 to +0.0070", "same seeds: 0, 1", "<td>1a2b</td>"):
        assert words in page


def test_what_a_user_typed_is_shown_on_the_page_and_never_run():
    assert "recsys ablate experiment=&lt;mine&gt;" in written().to_html()
    assert "<mine>" not in written().to_html()


def test_the_page_is_the_same_text_every_time_it_is_made():
    assert written().to_html() == written().to_html()
