"""Training jobs: the operations that create, show, stop, change and delete them. `lifecycle.training` runs them."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import false
from sqlalchemy.exc import IntegrityError

from clary.services.listing import Listing
from clary.services.registry import Answer, Context, operation
from clary.services.tags import check_tags
from clary.services.training_defaults import queue_deadline, with_defaults
from clary.services.training_description import SUMMARISED, describe, summarise
from clary.services.training_validation import check_request, check_storage, check_training_image
from clary.state import changes, tags
from clary.state.database import now
from clary.state.training_jobs import (
    TERMINAL_STATUSES,
    TrainingJob,
    find_training_job,
    move_to,
    read_training_job,
    request_stop,
)
from clary.wire.errors import ResourceInUse, ValidationError

KIND = "training-job"
_RELEASE_SECONDS = 15.0
_JOBS = TrainingJob.__table__.c
_LISTING = Listing(
    sort_keys={"Name": _JOBS.name, "CreationTime": _JOBS.creation_time, "Status": _JOBS.status},
    tie=_JOBS.id,
    equals={"StatusEquals": _JOBS.status, "WarmPoolStatusEquals": _JOBS.warm_pool_status},
    times={"LastModifiedTime": _JOBS.last_modified_time},
)


@operation(
    "sagemaker",
    accepted_without_effect=(
        "AlgorithmSpecification.EnableSageMakerMetricsTimeSeries",
        "AlgorithmSpecification.TrainingImageConfig",
        "DebugHookConfig.S3OutputPath",
        "DebugRuleConfigurations",
        "EnableInterContainerTrafficEncryption",
        "ExperimentConfig",
        "InfraCheckConfig",
        "OutputDataConfig.KmsKeyId",
        "ProfilerConfig",
        "ProfilerRuleConfigurations",
        "ResourceConfig.InstancePlacementConfig",
        "ResourceConfig.KeepAlivePeriodInSeconds",
        "ResourceConfig.VolumeKmsKeyId",
        "SessionChainingConfig",
        "VpcConfig",
    ),
)
async def create_training_job(context: Context, params: dict[str, Any]) -> Answer:
    """Check all that can be checked before the job runs, then record it; the controller takes it from there."""
    check_tags(params.get("Tags", ()))
    check_request(params)
    name = params["TrainingJobName"]
    arn = context.settings.arn(f"{KIND}/{name}")
    if read_training_job(context.database, name) is not None:
        raise _name_taken(arn)
    await check_training_image(context, params)
    await check_storage(context, params)
    await asyncio.to_thread(_record, context, params, arn)
    changes.announce(context.database, KIND, name)
    return {"TrainingJobArn": arn}


@operation("sagemaker")
def describe_training_job(context: Context, params: dict[str, Any]) -> Answer:
    row = read_training_job(context.database, params["TrainingJobName"])
    if row is None:
        raise _not_found()
    return describe(row)


@operation("sagemaker")
def list_training_jobs(context: Context, params: dict[str, Any]) -> Answer:
    # There are no training plans here, so no job has one.
    where = (false(),) if "TrainingPlanArnEquals" in params else ()
    page = _LISTING.page(context.database, SUMMARISED, params, *where)
    return {"TrainingJobSummaries": [summarise(row) for row in page.rows], **page.token_field()}


@operation("sagemaker")
def stop_training_job(context: Context, params: dict[str, Any]) -> Answer:
    """Order every host to stop. A job that is stopping already is left to it; one that has ended is refused."""
    name = params["TrainingJobName"]
    with context.database.transaction() as session:
        job = find_training_job(session, name, for_update=True)
        if job is None:
            raise _not_found()
        if job.status in TERMINAL_STATUSES:
            raise ValidationError(f"The request was rejected because the training job is in status {job.status}.")
        if job.status != "Stopping":
            at = now()
            request_stop(session, job, "Stopped", at)
            move_to(job, "Stopping", "Stopping the training job", at, status="Stopping")
    changes.announce(context.database, KIND, name)
    return {}


@operation(
    "sagemaker",
    accepted_without_effect=("ProfilerConfig", "ProfilerRuleConfigurations", "ResourceConfig.KeepAlivePeriodInSeconds"),
)
def update_training_job(context: Context, params: dict[str, Any]) -> Answer:
    """Change what may be changed of a job that is running: the profiler's configuration and the time kept alive."""
    if params.get("RemoteDebugConfig", {}).get("EnableRemoteDebug"):
        raise ValidationError("Clary does not offer remote debugging. Remove RemoteDebugConfig or set it to false.")
    with context.database.transaction() as session:
        job = find_training_job(session, params["TrainingJobName"], for_update=True)
        if job is None:
            raise _not_found()
        if job.status != "InProgress":
            raise ValidationError(f"The request was rejected because the training job is in status {job.status}.")
        request = dict(job.request)
        if "ProfilerConfig" in params:
            request["ProfilerConfig"] = {**request.get("ProfilerConfig", {}), **params["ProfilerConfig"]}
        if "ProfilerRuleConfigurations" in params:
            request["ProfilerRuleConfigurations"] = params["ProfilerRuleConfigurations"]
        if "ResourceConfig" in params:
            request["ResourceConfig"] = {**request["ResourceConfig"], **params["ResourceConfig"]}
        job.request = request
        job.warm_pool_status = _warm_pool_status(request)
        job.last_modified_time = now()
        return {"TrainingJobArn": job.arn}


@operation("sagemaker")
async def delete_training_job(context: Context, params: dict[str, Any]) -> Answer:
    """Forget a job that has ended. Its logs, metrics and artifacts stay."""
    deadline = asyncio.get_running_loop().time() + _RELEASE_SECONDS
    while not await asyncio.to_thread(_delete, context, params["TrainingJobName"]):
        if asyncio.get_running_loop().time() > deadline:
            raise ResourceInUse("The training job's hosts are still being cleaned away. Try again in a few seconds.")
        await asyncio.sleep(0.02)
    return {}


def _delete(context: Context, name: str) -> bool:
    """Delete the job's rows; False while its hosts are being released, which takes a moment after the end."""
    with context.database.transaction() as session:
        job = find_training_job(session, name, for_update=True)
        if job is None:
            raise _not_found()
        if job.status not in TERMINAL_STATUSES:
            raise ResourceInUse(
                f"Training job {name} is in status {job.status}. Only a job that is Completed, Failed or Stopped "
                "can be deleted: stop it first."
            )
        if job.stage == "settled":
            tags.remove_all(session, job.arn)
            session.delete(job)
        return job.stage == "settled"


def _record(context: Context, params: dict[str, Any], arn: str) -> None:
    at = now()
    request = with_defaults(params)
    job = TrainingJob(
        name=params["TrainingJobName"],
        arn=arn,
        status="InProgress",
        secondary_status="Starting",
        creation_time=at,
        last_modified_time=at,
        warm_pool_status=_warm_pool_status(request),
        request=request,
        transitions=[],
        queue_deadline=queue_deadline(request, at),
    )
    move_to(job, "Starting", "Starting the training job", at)
    try:
        with context.database.transaction() as session:
            session.add(job)
            session.flush()
            tags.put(session, arn, params.get("Tags", ()))
    except IntegrityError:
        raise _name_taken(arn) from None


def _warm_pool_status(request: dict[str, Any]) -> str | None:
    return "InUse" if request["ResourceConfig"].get("KeepAlivePeriodInSeconds") else None


def _name_taken(arn: str) -> ResourceInUse:
    return ResourceInUse(
        "Training job names must be unique within an AWS account and region, "
        f"and a training job with this name already exists ({arn})"
    )


def _not_found() -> ValidationError:
    return ValidationError("Requested resource not found.")
