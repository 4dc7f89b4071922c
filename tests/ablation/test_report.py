"""What the report promises: every figure of a study in tables that read the same in a terminal and in Markdown."""

import pytest

from recsys.ablation.comparison import Verdict
from recsys.ablation.report import ArmResult, Table, arms_table, differences_table, markdown_report, mean_costs
from tests.ablation.studies_by_hand import RULES, comparison, difference

RESULTS = [
    ArmResult("frozen", 0, {"auc/all": 0.70, "auc/cold": 0.6}, {"seconds_per_step": 0.012, "trained_parameters": 1e6}),
    ArmResult("frozen", 1, {"auc/all": 0.72}, {"seconds_per_step": 0.014, "trained_parameters": 1e6}),
    ArmResult("end_to_end", 0, {"auc/all": 0.68, "ndcg_20/all": 0.25}),
    ArmResult("popular, 14 days", 0, {"ndcg_20/all": 0.0981}),
]


def test_the_arms_table_gives_mean_and_deviation_over_seeds_and_a_dash_for_what_is_missing():
    table = arms_table(RESULTS, ["auc", "ndcg_20", "recall_20"])
    assert table.header == ("arm", "seeds", "AUC", "ndcg 20", "seconds per step", "trained parameters")
    assert table.rows == (
        ("frozen", "2", "0.7100 ± 0.0141", "-", "0.013", "1,000,000"),
        ("end_to_end", "1", "0.6800", "0.2500", "-", "-"),
        ("popular, 14 days", "1", "-", "0.0981", "-", "-"),
    )


def test_the_arms_table_of_a_segment_says_whose_it_is():
    table = arms_table(RESULTS, ["auc"], segment="cold")
    assert table.title.endswith("cold users")
    assert table.rows[0][2] == "0.6000"


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
    assert "a\\|b" in Table("t", ("x",), (("a|b",),)).to_markdown()


def test_costs_are_means_over_the_arms_that_have_them():
    assert mean_costs(RESULTS)["frozen"]["seconds_per_step"] == pytest.approx(0.013)
    assert mean_costs(RESULTS)["end_to_end"] == {}


def test_the_report_puts_the_verdict_first_and_says_what_was_held_equal():
    study = comparison(difference(Verdict.BETTER, 0.001, 0.007))
    text = markdown_report("Frozen or fine-tuned?", [study], RESULTS, ["auc", "ndcg_20"], RULES, ["same seeds: 0, 1"])
    places = [
        text.index(words)
        for words in ("# Frozen or fine-tuned?", "freeze the tower", "## Arms", "## Paired", "same seeds: 0, 1")
    ]
    assert places == sorted(places)
    assert "the margin (0.002 AUC)" in text
    assert "Paired differences in ndcg" not in text
