"""A job's credentials read and record; they steer no jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clary.front.permissions import check
from clary.wire.errors import AccessDenied
from clary.wire.messages import Caller

PERSON = Caller("AKIA", "arn:aws:sts::000000000000:assumed-role/R/clary", "AROA:clary", "000000000000", "us-east-1")
JOB = replace(PERSON, job_name="a-job")


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("sagemaker", "DescribeTrainingJob"),
        ("sagemaker", "ListTrainingJobs"),
        ("sagemaker", "Search"),
        ("sagemaker", "CreateExperiment"),
        ("sagemaker", "AssociateTrialComponent"),
        ("sagemaker-metrics", "BatchPutMetrics"),
        ("sagemaker-runtime", "InvokeEndpoint"),
        ("logs", "PutLogEvents"),
        ("cloudwatch", "PutMetricData"),
        ("sts", "GetCallerIdentity"),
    ],
)
def test_a_job_may_read_and_record(service, operation):
    check(JOB, service, operation)


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("sagemaker", "CreateTrainingJob"),
        ("sagemaker", "StopTrainingJob"),
        ("sagemaker", "UpdateTrainingJob"),
        ("sagemaker", "DeleteTrainingJob"),
        ("sagemaker", "DeleteTags"),
        ("sagemaker", "CreateEndpoint"),
        ("logs", "DeleteLogGroup"),
        ("sts", "AssumeRole"),
        ("sts", "GetSessionToken"),
        ("iam", "CreateRole"),
        ("unheard-of", "Anything"),
    ],
)
def test_a_job_may_not_steer(service, operation):
    with pytest.raises(AccessDenied, match="is not authorized to perform"):
        check(JOB, service, operation)
    check(PERSON, service, operation)
