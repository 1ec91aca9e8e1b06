"""`clary jobs`, `clary logs`, `clary stop`: training jobs, seen through the API."""

from __future__ import annotations

import datetime as dt
import time
from typing import Annotated, Any

import typer

from clary.cli import endpoints
from clary.cli.client import aws_errors, client, client_of
from clary.cli.log_follower import LogFollower
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, print_columns, say, working
from clary.cli.server_process import RunningServer

app = typer.Typer(
    help="List and describe training jobs.", invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None
)

ENDED = ("Completed", "Failed", "Stopped")
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_COLOURS = {"Completed": "green", "Failed": "red", "Stopped": "yellow", "Stopping": "yellow", "InProgress": "cyan"}

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's name, or a part of it that only one has.")]
LimitOption = Annotated[int, typer.Option(help="How many, newest first.", min=1)]
StatusOption = Annotated[
    str | None, typer.Option(help="Only InProgress, Completed, Failed, Stopping or Stopped.", show_default=False)
]


@app.callback()
def jobs(context: typer.Context, home: HomeOption = None, limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List training jobs, newest first; `clary jobs describe JOB` shows one."""
    if context.invoked_subcommand is None:
        list_jobs(home, limit, None, None, as_json)


@app.command("list")
def list_jobs(
    home: HomeOption = None,
    limit: LimitOption = 20,
    status: StatusOption = None,
    name: Annotated[str | None, typer.Option(help="Only names that contain this.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List training jobs, newest first."""
    sagemaker = client("sagemaker", resolve_home(home))
    wanted: dict[str, str] = {}
    if status:
        wanted["StatusEquals"] = _status_word(status)
    if name:
        wanted["NameContains"] = name
    with aws_errors():
        found = newest(sagemaker, limit, **wanted)
    if as_json:
        emit_json(found)
        return
    if not found:
        say("No training jobs yet." if not wanted else "No training job matches.")
        return
    rows = [("name", "status", "created", "took")]
    for job in found:
        words = job["TrainingJobStatus"]
        if words == "InProgress" and job.get("SecondaryStatus"):
            words += f" ({job['SecondaryStatus']})"
        took = duration(job["CreationTime"], job.get("TrainingEndTime"))
        rows.append((job["TrainingJobName"], words, _local_time(job["CreationTime"]), took))
    print_columns(rows, colour=_COLOURS)


@app.command("describe")
def describe(job: JobArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one training job: where it is, what it was given, what came out."""
    sagemaker = client("sagemaker", resolve_home(home))
    found = described(sagemaker, job)
    if as_json:
        emit_json(found)
        return
    _print_description(found)


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends; exit 1 if it failed.")] = False,
    host: Annotated[str | None, typer.Option(help="Only this host, for instance algo-1.", show_default=False)] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Begin lines with their time.")] = False,
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print what a training job or an endpoint wrote, from its beginning."""
    folder = resolve_home(home)
    sagemaker, cloudwatch_logs = client("sagemaker", folder), client("logs", folder)
    try:
        description = described(sagemaker, job)
    except CliError:
        endpoint = endpoints.found_by_name(sagemaker, job)
        if endpoint is None:
            raise
        endpoints.follow_logs(
            cloudwatch_logs, sagemaker, endpoint, follow=follow, host=host, timestamps=timestamps, as_json=as_json
        )
        return
    name = description["TrainingJobName"]
    follower = LogFollower(cloudwatch_logs, LOG_GROUP, name, host=host, timestamps=timestamps, as_json=as_json)
    pace = 0.1
    with aws_errors():
        while True:
            # Describe before reading: what an ended job wrote is complete, so nothing after the last look is missed.
            ended = description["TrainingJobStatus"] in ENDED
            printed = follower.print_new()
            if ended or not follow:
                break
            pace = 0.1 if printed else min(pace * 1.3, 1.0)
            time.sleep(pace)
            description = sagemaker.describe_training_job(TrainingJobName=name)
    if follow and description["TrainingJobStatus"] == "Failed":
        raise CliError(f"{name} failed: {description.get('FailureReason', 'no reason was recorded')}")


def stop(
    job: JobArgument,
    home: HomeOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has stopped.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Stop a training job. Its script has two minutes to end; what it saved is uploaded."""
    sagemaker = client("sagemaker", resolve_home(home))
    name = described(sagemaker, job)["TrainingJobName"]
    with aws_errors():
        sagemaker.stop_training_job(TrainingJobName=name)
        if wait:
            with working(f"Stopping {name}"):
                _wait_until_ended(sagemaker, name)
        description = sagemaker.describe_training_job(TrainingJobName=name)
    if as_json:
        emit_json({"name": name, "status": description["TrainingJobStatus"]})
    else:
        say(f"{name}: {description['TrainingJobStatus']}")


def newest(sagemaker: Any, limit: int, **wanted: str) -> list[dict[str, Any]]:
    """Summaries of up to `limit` training jobs, newest first, over as many pages as that takes."""
    found: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while len(found) < limit:
        page = sagemaker.list_training_jobs(
            MaxResults=min(100, limit - len(found)), SortBy="CreationTime", SortOrder="Descending", **wanted, **token
        )
        found += page["TrainingJobSummaries"]
        if not page.get("NextToken"):
            break
        token = {"NextToken": page["NextToken"]}
    return found[:limit]


def described(sagemaker: Any, job: str) -> dict[str, Any]:
    """One job's description, by its name or by a part of it that only one job has."""
    from botocore.exceptions import ClientError

    with aws_errors():
        try:
            return _plain(sagemaker.describe_training_job(TrainingJobName=job))
        except ClientError:
            pass  # not the whole name: look for it as a part
        names = [summary["TrainingJobName"] for summary in newest(sagemaker, 6, NameContains=job)]
        if len(names) == 1:
            return _plain(sagemaker.describe_training_job(TrainingJobName=names[0]))
    if names:
        raise CliError(f"Several jobs have {job!r} in their names: {', '.join(names)}.", "Give more of the name.")
    raise CliError(f"There is no training job {job!r}.", "`clary jobs` lists them.")


def summary(server: RunningServer) -> dict[str, Any]:
    """Counts of jobs, and those in progress, for `clary status`."""
    sagemaker = client_of("sagemaker", server)
    with aws_errors():
        in_progress = newest(sagemaker, 100, StatusEquals="InProgress")
        details = [sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"]) for job in in_progress[:20]]
        ended = sum(len(newest(sagemaker, 1000, StatusEquals=status)) for status in ENDED)
    rows = [
        {
            "name": detail["TrainingJobName"],
            "secondary_status": detail["SecondaryStatus"],
            "instances": _instances(detail),
        }
        for detail in details
    ]
    queued = sum(row["secondary_status"] in ("Starting", "Pending") for row in rows)
    return {"running": len(in_progress) - queued, "queued": queued, "ended": ended, "in_progress": rows}


def names_in_progress(server: RunningServer) -> list[str]:
    """The jobs that have not ended."""
    with aws_errors():
        found = newest(client_of("sagemaker", server), 100, StatusEquals="InProgress")
    return [job["TrainingJobName"] for job in found]


def stop_all(server: RunningServer) -> list[str]:
    """Stop every job in progress and wait until they have; answers those that would not."""
    sagemaker = client_of("sagemaker", server)
    names = names_in_progress(server)
    with aws_errors(), working(f"Stopping {len(names)} jobs"):
        for name in names:
            sagemaker.stop_training_job(TrainingJobName=name)
        for name in names:
            _wait_until_ended(sagemaker, name)
    return names_in_progress(server)


def duration(start: dt.datetime, end: dt.datetime | None) -> str:
    """How long from start to end, or until now: "1:02:03", "4:05", "6 s"."""
    seconds = int(((end or dt.datetime.now(dt.UTC)) - start).total_seconds())
    minutes, hours = seconds // 60 % 60, seconds // 3600
    if hours:
        return f"{hours}:{minutes:02}:{seconds % 60:02}"
    return f"{minutes}:{seconds % 60:02}" if minutes else f"{seconds} s"


def _wait_until_ended(sagemaker: Any, name: str) -> None:
    deadline = time.monotonic() + 180  # a script has 120 seconds, then it is killed
    while sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] not in ENDED:
        if time.monotonic() > deadline:
            raise CliError(f"{name} has not stopped after three minutes.", "See `clary logs` and `clary status`.")
        time.sleep(0.3)


def _status_word(status: str) -> str:
    known = {word.lower(): word for word in _COLOURS}
    word = known.get(status.lower())
    if word is None:
        raise CliError(f"{status!r} is not a status.", f"Give one of {', '.join(known.values())}.", exit_code=2)
    return word


def _plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def _instances(description: dict[str, Any]) -> str:
    resources = description.get("ResourceConfig", {})
    groups = resources.get("InstanceGroups") or [resources]
    return ", ".join(f"{group.get('InstanceCount', 1)} × {group.get('InstanceType', '?')}" for group in groups)


def _local_time(moment: dt.datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return moment.astimezone().strftime(form)


def _print_description(job: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [
        ("name", job["TrainingJobName"]),
        ("status", f"{job['TrainingJobStatus']} ({job['SecondaryStatus']})"),
        ("reason", job.get("FailureReason")),
        ("image", job["AlgorithmSpecification"].get("TrainingImage")),
        ("instances", _instances(job)),
        ("created", _local_time(job["CreationTime"])),
        ("took", duration(job["CreationTime"], job.get("TrainingEndTime"))),
    ]
    for channel in job.get("InputDataConfig", []):
        source = channel.get("DataSource", {}).get("S3DataSource", {})
        rows.append((f"input {channel['ChannelName']}", source.get("S3Uri")))
    for name, value in sorted(job.get("HyperParameters", {}).items()):
        if not name.startswith("sagemaker_"):
            rows.append((f"parameter {name}", value))
    for metric in job.get("FinalMetricDataList", []):
        rows.append((f"metric {metric['MetricName']}", f"{metric['Value']:.6g}"))
    rows.append(("model", job.get("ModelArtifacts", {}).get("S3ModelArtifacts")))
    for change in job.get("SecondaryStatusTransitions", []):
        rows.append((f"{_local_time(change['StartTime'], '%H:%M:%S')} {change['Status']}", change.get("StatusMessage")))
    shown = [(heading, str(value)) for heading, value in rows if value not in (None, "")]
    print_columns(shown, bold_first=True)
