"""What the credentials of a job may do: read, record its own results, predict; never start, stop or change jobs.

A person's credentials may do everything: who holds the root keys owns the machine.
"""

from __future__ import annotations

import re

from clary.wire.errors import AccessDenied
from clary.wire.messages import Caller
from clary.wire.services import BY_NAME

_READS = "Describe.*|List.*|Get.*|BatchGet.*|BatchDescribe.*|Search|QueryLineage"
_JOB_MAY = {
    "sagemaker": rf"{_READS}|AddTags|((Create|Update)(Experiment|Trial|TrialComponent|Artifact|Context|Action))"
    "|(Associate|Disassociate)TrialComponent|AddAssociation|CreateModelPackage(Group)?",
    "sagemaker-runtime": ".*",
    "sagemaker-metrics": ".*",
    "sagemaker-featurestore-runtime": ".*",
    "logs": rf"{_READS}|FilterLogEvents|StartQuery|StopQuery|CreateLogGroup|CreateLogStream|PutLogEvents",
    "cloudwatch": rf"{_READS}|PutMetricData",
    "sts": "GetCallerIdentity",
    "iam": "GetRole|ListRoles|SimulatePrincipalPolicy",
}
_ALLOWED = {service: re.compile(pattern) for service, pattern in _JOB_MAY.items()}


def check(caller: Caller, service: str, operation: str) -> None:
    """Let an operation pass, or not.

    Raises:
        AccessDenied: the caller is a job, and jobs may not do this.
    """
    if caller.job_name is None:
        return
    allowed = _ALLOWED.get(service)
    if allowed is None or not allowed.fullmatch(operation):
        action = f"{BY_NAME[service].signing_name}:{operation}" if service in BY_NAME else operation
        code = "AccessDenied" if service in ("sts", "iam") else "AccessDeniedException"
        raise AccessDenied(
            f"User: {caller.arn} is not authorized to perform: {action} on resource: * because the credentials of the"
            f" job {caller.job_name} do not allow the {action} action",
            code=code,
            status=403 if service in ("sts", "iam") else 400,
        )
