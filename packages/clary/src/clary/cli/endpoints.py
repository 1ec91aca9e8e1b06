"""`clary endpoints`, `clary invoke`, and the logs of endpoints, seen through the API."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from clary.cli.client import aws_errors, client, client_of
from clary.cli.log_follower import LogFollower
from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, print_columns, say, working
from clary.cli.server_process import RunningServer

app = typer.Typer(
    help="List, describe and delete endpoints.",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
)

LOG_GROUPS = "/aws/sagemaker/Endpoints/"
_COLOURS = {
    "InService": "green",
    "Failed": "red",
    "Deleting": "yellow",
    "Creating": "cyan",
    "Updating": "cyan",
    "RollingBack": "yellow",
}
_UNDER_WAY = ("Creating", "Updating")
_CONTENT_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".npy": "application/x-npy",
    ".txt": "text/plain",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
}
_DELETE_SECONDS = 150.0

EndpointArgument = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="The endpoint's name, or a part of it that only one has.")
]


@app.callback()
def endpoints(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List endpoints, newest first; `clary endpoints describe ENDPOINT` shows one."""
    if context.invoked_subcommand is None:
        list_endpoints(home, as_json)


@app.command("list")
def list_endpoints(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List endpoints, newest first."""
    sagemaker = client("sagemaker", resolve_home(home))
    with aws_errors():
        pages = sagemaker.get_paginator("list_endpoints").paginate(SortBy="CreationTime", SortOrder="Descending")
        found = [endpoint for page in pages for endpoint in page["Endpoints"]]
    if as_json:
        emit_json(found)
        return
    if not found:
        say("No endpoints yet.")
        return
    rows = [("name", "status", "created", "waiting for")]
    for endpoint in found:
        created = endpoint["CreationTime"].astimezone().strftime("%Y-%m-%d %H:%M:%S")
        name, status = endpoint["EndpointName"], endpoint["EndpointStatus"]
        rows.append((name, status, created, _awaited(sagemaker, name) if status in _UNDER_WAY else ""))
    if not any(waiting for *_, waiting in rows[1:]):
        rows = [row[:3] for row in rows]
    print_columns(rows, colour=_COLOURS)


@app.command("describe")
def describe(endpoint: EndpointArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one endpoint: its variants, how many instances serve, and what is being waited for."""
    found = described(client("sagemaker", resolve_home(home)), endpoint)
    if as_json:
        emit_json(found)
        return
    rows: list[tuple[str, Any]] = [
        ("name", found["EndpointName"]),
        ("status", found["EndpointStatus"]),
        ("reason", found.get("FailureReason")),
        ("configuration", found.get("EndpointConfigName")),
        ("created", found["CreationTime"].astimezone().strftime("%Y-%m-%d %H:%M:%S")),
    ]
    rows += [
        (f"variant {variant['VariantName']}", _of_variant(variant)) for variant in found.get("ProductionVariants", ())
    ]
    pending = found.get("PendingDeploymentSummary", {})
    rows += [
        (f"coming {variant['VariantName']}", _of_variant(variant)) for variant in pending.get("ProductionVariants", ())
    ]
    print_columns([(heading, str(value)) for heading, value in rows if value], bold_first=True)


@app.command("delete")
def delete(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
) -> None:
    """Delete an endpoint. Its model, configuration and logs stay."""
    sagemaker = client("sagemaker", resolve_home(home))
    name = described(sagemaker, endpoint)["EndpointName"]
    with aws_errors():
        sagemaker.delete_endpoint(EndpointName=name)
    if not wait:
        return
    with working(f"Deleting {name}"), aws_errors():
        _wait_until_gone(sagemaker, name)
    say(f"{name} is deleted.")


def invoke(
    endpoint: EndpointArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to send; - is standard input.")],
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="By the file's ending unless given; JSON otherwise.")
    ] = None,
    accept: Annotated[str | None, typer.Option("--accept", help="The answer's content type.")] = None,
    variant: Annotated[str | None, typer.Option("--variant", help="Ask this variant.")] = None,
    attributes: Annotated[str | None, typer.Option("--attributes", help="CustomAttributes, passed on.")] = None,
    home: HomeOption = None,
) -> None:
    """Send a file to an endpoint and print what the model answers."""
    folder = resolve_home(home)
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.", exit_code=2) from None
    name = described(client("sagemaker", folder), endpoint)["EndpointName"]
    guessed = _CONTENT_TYPES.get(Path(file).suffix.lower(), "application/json")
    wanted = {"Accept": accept, "TargetVariant": variant, "CustomAttributes": attributes}
    runtime = client("sagemaker-runtime", folder)
    with aws_errors():
        answer = runtime.invoke_endpoint(
            EndpointName=name,
            Body=body,
            ContentType=content_type or guessed,
            **{member: value for member, value in wanted.items() if value},
        )
        told = answer["Body"].read()
    sys.stdout.buffer.write(told)
    if sys.stdout.isatty() and not told.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()


def follow_logs(
    logs: Any, sagemaker: Any, name: str, *, follow: bool, host: str | None, timestamps: bool, as_json: bool
) -> None:
    """Print what an endpoint's instances wrote; while following, until it is gone or has failed."""
    follower = LogFollower(logs, LOG_GROUPS + name, None, host=host, timestamps=timestamps, as_json=as_json)
    pace = 0.1
    with aws_errors():
        while True:
            endpoint = _exact(sagemaker, name)
            printed = follower.print_new()
            if not follow or endpoint is None or endpoint["EndpointStatus"] == "Failed":
                break
            pace = 0.1 if printed else min(pace * 1.3, 1.0)
            time.sleep(pace)
    if follow and endpoint is not None:
        raise CliError(f"{name} failed: {endpoint.get('FailureReason', 'no reason was recorded')}")


def names(server: RunningServer) -> list[str]:
    """The endpoints that there are."""
    with aws_errors():
        pages = client_of("sagemaker", server).get_paginator("list_endpoints").paginate()
        return [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]


def delete_all(server: RunningServer) -> list[str]:
    """Delete every endpoint and wait until they are gone; answers those that would not."""
    sagemaker, there = client_of("sagemaker", server), names(server)
    with aws_errors(), working(f"Deleting {len(there)} endpoints"):
        for name in there:
            sagemaker.delete_endpoint(EndpointName=name)
        for name in there:
            _wait_until_gone(sagemaker, name)
    return names(server)


def found_by_name(sagemaker: Any, name: str) -> str | None:
    """The endpoint of exactly this name, or the only one with it in its name."""
    with aws_errors():
        if _exact(sagemaker, name) is not None:
            return name
        names = _names_with(sagemaker, name)
    return names[0] if len(names) == 1 else None


def described(sagemaker: Any, endpoint: str) -> dict[str, Any]:
    """One endpoint's description, by its name or by a part of it that only one has."""
    with aws_errors():
        found = _exact(sagemaker, endpoint)
        names = [] if found else _names_with(sagemaker, endpoint)
        if len(names) == 1:
            found = _exact(sagemaker, names[0])
    if found:
        return found
    if names:
        raise CliError(f"Several endpoints have {endpoint!r} in their names: {', '.join(names)}.", "Give more of it.")
    raise CliError(f"There is no endpoint {endpoint!r}.", "`clary endpoints` lists them.")


def _awaited(sagemaker: Any, name: str) -> str:
    """What an endpoint that is being made or changed is doing, or lacks: an endpoint may wait for a job's memory."""
    with aws_errors():
        coming = (_exact(sagemaker, name) or {}).get("PendingDeploymentSummary", {})
    told = [
        status["StatusMessage"] for v in coming.get("ProductionVariants", ()) for status in v.get("VariantStatus", ())
    ]
    return told[0] if told else ""


def _wait_until_gone(sagemaker: Any, name: str) -> None:
    deadline = time.monotonic() + _DELETE_SECONDS
    while _exact(sagemaker, name) is not None:
        if time.monotonic() > deadline:
            raise CliError(f"{name} is not gone after {_DELETE_SECONDS:.0f} seconds.", "See `clary endpoints`.")
        time.sleep(0.1)


def _exact(sagemaker: Any, name: str) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    try:
        answer = sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException":
            return None
        raise
    return {member: value for member, value in answer.items() if member != "ResponseMetadata"}


def _names_with(sagemaker: Any, part: str) -> list[str]:
    found = sagemaker.list_endpoints(NameContains=part, MaxResults=6)["Endpoints"]
    return [endpoint["EndpointName"] for endpoint in found]


def _of_variant(variant: dict[str, Any]) -> str:
    words = f"{variant.get('CurrentInstanceCount', 0)} of {variant.get('DesiredInstanceCount', 0)} instances serve"
    words += f", weight {variant.get('CurrentWeight', 0):g}"
    images = [image["SpecifiedImage"] for image in variant.get("DeployedImages", ())]
    details = [*images, *(status["StatusMessage"] for status in variant.get("VariantStatus", ()))]
    return "\n".join([words, *details])
