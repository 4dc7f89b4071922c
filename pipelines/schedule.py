"""The nightly run in Dagster: one partition a day, one asset a stage, each of them `recsys daily --stage ...`.

Nothing is computed here. Cron, a person and Dagster start the same command, which is safe to start twice: what an asset
stands for is known by the command, and a stage that is done already is up to date. `make schedule` serves it.

    RECSYS_DAILY        the overrides of the run: "data=online_retail data.raw=/data/sales"
    RECSYS_DAILY_FIRST  the first day that has a partition, YYYY-MM-DD; today less 30 days
    RECSYS_DAILY_CRON   when a day's run starts, UTC; "0 3 * * *"
"""

import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from recsys.errors import UsageError
from recsys.nightly.nightly_log import VERDICT_CHANGED, DailyStage, DayOutcome

_JOB = "nightly"
# Of data that have not arrived, another run that is under way, a machine in trouble. What a person must mend is not
# tried again.
_RETRIES = dg.RetryPolicy(max_retries=3, delay=600, backoff=dg.Backoff.EXPONENTIAL)
_HOPELESS = (2, 65)
_SAID = {
    DailyStage.PREPARE: "encoded rows of the window before the day after",
    DailyStage.PRETRAIN: "the embedding tower, pre-trained or the champion's",
    DailyStage.TRAIN: "the challenger, trained and measured",
    DailyStage.EVALUATE: "challenger and champion on the same newest rows",
    DailyStage.PROMOTE: "the decision, and the champion after it",
}


def definitions(overrides: Sequence[str], first: datetime.date, cron: str) -> dg.Definitions:
    """Return assets, check, job and schedule of one data set's nightly run."""
    days = dg.DailyPartitionsDefinition(start_date=first.isoformat())
    assets: list[dg.AssetsDefinition] = []
    for stage in _SAID:
        assets.append(_asset(stage, overrides, days, assets[-1:]))
    job = dg.define_asset_job(_JOB, dg.AssetSelection.all(), partitions_def=days, executor_def=dg.in_process_executor)

    @dg.schedule(job=job, cron_schedule=cron, default_status=dg.DefaultScheduleStatus.RUNNING)  # type: ignore[untyped-decorator]
    def every_night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Start the run of the day that has just ended."""
        day = context.scheduled_execution_time.astimezone(datetime.UTC).date() - datetime.timedelta(days=1)
        return dg.RunRequest(run_key=day.isoformat(), partition_key=day.isoformat())

    return dg.Definitions(
        assets=assets,
        asset_checks=[_check(overrides, assets[0])],
        jobs=[job],
        schedules=[every_night],
        executor=dg.in_process_executor,
    )


def _asset(
    stage: DailyStage,
    overrides: Sequence[str],
    days: dg.DailyPartitionsDefinition,
    above: Sequence[dg.AssetsDefinition],
) -> dg.AssetsDefinition:
    @dg.asset(  # type: ignore[untyped-decorator]
        name=_asset_name(stage),
        description=f"{_SAID[stage]} (`recsys daily --stage {stage}`)",
        deps=above,
        partitions_def=days,
        retry_policy=_RETRIES,
        group_name=_JOB,
    )
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata=_run(context, context.partition_key, stage, overrides))

    return made


def _check(overrides: Sequence[str], asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name="newest_day", blocking=True)  # type: ignore[untyped-decorator]
    def newest_day(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Hold the newest day's rows against the weeks before (`recsys daily --stage check`)."""
        try:
            metadata = _run(context, context.partition_key, DailyStage.CHECK, overrides)
        except dg.Failure as failure:
            return dg.AssetCheckResult(passed=False, description=failure.description)
        warnings = str(metadata.get(DayOutcome.WARNING, ""))
        return dg.AssetCheckResult(
            passed=not warnings, severity=dg.AssetCheckSeverity.WARN, description=warnings, metadata=metadata
        )

    return newest_day


def _asset_name(stage: DailyStage) -> str:
    return {"prepare": "rows", "pretrain": "tower", "train": "challenger", "evaluate": "comparison"}.get(
        stage, "champion"
    )


def command(date: datetime.date, stage: DailyStage, overrides: Sequence[str]) -> list[str]:
    """The command of a stage, as cron would start it."""
    options = ["--date", date.isoformat(), "--stage", str(stage), "--json"]
    return [sys.executable, "-m", f"{__package__}.cli", "daily", *options, *overrides]


def _run(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    partition: str,
    stage: DailyStage,
    overrides: Sequence[str],
) -> Mapping[str, str]:
    """Run a stage's command and return what it decided, by outcome.

    Raises:
        Failure: it failed, or has to wait; whether it is tried again depends on why.
    """
    # A partition is the day whose rows have arrived; a run's date is the first day that it must not see.
    date = datetime.date.fromisoformat(partition) + datetime.timedelta(days=1)
    told = dict[str, str]()
    process = subprocess.Popen(
        command(date, stage, overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line.strip() or last
            event = _event(line)
            context.log.info(event.get("message", line.rstrip()))
            if event:
                before = told.get(event["outcome"])
                told[event["outcome"]] = f"{before} {event['message']}" if before else event["message"]
        code = process.wait()
    finally:
        # Whoever ends the Dagster run ends the command; it writes a checkpoint first.
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code not in (0, VERDICT_CHANGED):
        raise dg.Failure(f"exit code {code}: {last}", allow_retries=code not in _HOPELESS)
    if waits := told.get(DayOutcome.WAITING):
        raise dg.Failure(waits)
    return told


def _event(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"outcome", "message"} <= set(found) else {}


def _from_environment() -> dg.Definitions:
    overrides = shlex.split(os.environ.get("RECSYS_DAILY", ""))
    if not overrides:
        raise UsageError(
            "RECSYS_DAILY is not set; expected the overrides of the nightly run, such as "
            'RECSYS_DAILY="data=online_retail data.raw=/data/sales".'
        )
    a_month_ago = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=30)
    text = os.environ.get("RECSYS_DAILY_FIRST") or a_month_ago.isoformat()
    try:
        first = datetime.date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"RECSYS_DAILY_FIRST is {text!r}; expected a day as YYYY-MM-DD.") from error
    return definitions(overrides, first, os.environ.get("RECSYS_DAILY_CRON") or "0 3 * * *")


if "RECSYS_DAILY" in os.environ:
    defs = _from_environment()
