"""Names: what MLflow takes, what turns back, and what every run has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from recsys.errors import UsageError
from recsys.tracking import names


@given(st.text(min_size=1, max_size=20))
def test_every_segment_name_becomes_a_key_that_mlflow_takes_and_turns_back(segment: str):
    key = names.auc(names.TEST, segment)

    _validate_metric_name(names.checked_key(key))
    assert names.unescaped(key.split("/")[1]) == segment


@pytest.mark.parametrize("segment", ["a/b", "é", "日本", "👍", "it's", ":3a:", ".."])
def test_awkward_segments_stay_apart(segment: str):
    assert names.unescaped(names.escaped(segment)) == segment


def test_a_key_that_mlflow_would_refuse_is_refused_when_it_is_written():
    with pytest.raises(UsageError, match=r"'recall@20' cannot be tracked.*letters, digits"):
        names.checked_key("recall@20")
    with pytest.raises(UsageError, match="at most 250"):
        names.checked_key("a" * 251)


def test_every_part_gets_its_gradient_norm_and_a_frozen_tower_gets_zero():
    metrics = names.training_metrics(
        loss=0.5,
        gradient_norms={"embedding_tower": 0.0, "interaction_network": 1.5, "whole": 1.5},
        learning_rates={"dense": 0.001, "tables": 0.02},
        rows_seen=100,
        epoch=0,
        rows_per_second=10.0,
        data_wait_share=0.1,
        gpu_idle_share=None,
        skipped_batches=0,
    )

    assert metrics["grad_norm/embedding_tower"] == 0.0
    assert {"grad_norm/whole", "train/loss", "train/lr_dense", "train/lr_tables", "perf/rows_per_second"} <= set(
        metrics
    )


def test_an_evaluation_becomes_an_auc_section_by_segment_and_a_section_of_the_rest():
    metrics = names.evaluation_metrics(
        names.TEST, {"auc": 0.7, "log_loss": 0.5}, {"new": {"auc": 0.6, "log_loss": 0.6}, "heavy": {"log_loss": 0.4}}
    )

    # The heavy segment has one class only, so its AUC is undefined and absent; 0 or 0.5 would be read as a finding.
    assert metrics == {"test_auc/all": 0.7, "test/log_loss": 0.5, "test_auc/new": 0.6}


def test_what_is_not_finite_is_counted_and_not_logged():
    finite, dropped = names.split_finite({"a": 1.0, "b": float("inf"), "c": float("nan")})

    assert finite == {"a": 1.0}
    assert dropped == 2
