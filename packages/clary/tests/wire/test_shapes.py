"""Constraints are reported in AWS's own sentences; wrong types are serialization errors."""

from __future__ import annotations

import datetime as dt

import pytest
from botocore.model import ServiceModel

from clary.wire.constraints import Invalid, matcher
from clary.wire.errors import AwsError
from clary.wire.services import model
from clary.wire.shapes import Compiler, timestamp


@pytest.fixture(scope="module")
def create_training_job():
    return Compiler().compile(model("sagemaker").operation_model("CreateTrainingJob").input_shape)


def a_job(**changes):
    job = {
        "TrainingJobName": "a-job",
        "AlgorithmSpecification": {"TrainingImage": "an-image", "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::000000000000:role/ClaryExecutionRole",
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    return {name: value for name, value in {**job, **changes}.items() if value is not ...}


def refusal(check, value) -> str:
    with pytest.raises(Invalid) as caught:
        check(value)
    return caught.value.error("ValidationException").message


def with_resources(**changes):
    return a_job(ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1, **changes})


def test_a_number_below_its_least_is_told_as_aws_tells_it(create_training_job):
    assert refusal(create_training_job, with_resources(VolumeSizeInGB=-1)) == (
        "1 validation error detected: Value '-1' at 'resourceConfig.volumeSizeInGB' failed to satisfy constraint: "
        "Member must have value greater than or equal to 0"
    )


def test_a_missing_member_is_null(create_training_job):
    assert refusal(create_training_job, a_job(RoleArn=...)) == (
        "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null"
    )


def test_json_null_counts_as_missing(create_training_job):
    assert "Value null at 'roleArn'" in refusal(create_training_job, a_job(RoleArn=None))
    assert "Tags" not in create_training_job(a_job(Tags=None))


def test_several_problems_are_told_together(create_training_job):
    text = refusal(
        create_training_job, a_job(TrainingJobName="-", RoleArn=..., StoppingCondition={"MaxRuntimeInSeconds": 0})
    )
    assert text.startswith("3 validation errors detected: ")
    assert text.count("; Value") == 2
    assert (
        "Value '-' at 'trainingJobName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}" in text
    )


def test_a_long_name_is_told_by_its_length(create_training_job):
    text = refusal(create_training_job, a_job(TrainingJobName="a" * 64))
    assert text.endswith(
        "at 'trainingJobName' failed to satisfy constraint: Member must have length less than or equal to 63"
    )


def test_an_enum_lists_its_values(create_training_job):
    text = refusal(create_training_job, a_job(AlgorithmSpecification={"TrainingInputMode": "Floppy"}))
    assert text == (
        "1 validation error detected: Value 'Floppy' at 'algorithmSpecification.trainingInputMode' failed to satisfy "
        "constraint: Member must satisfy enum value set: [Pipe, File, FastFile]"
    )


def test_instance_types_are_open(create_training_job):
    job = create_training_job(with_resources(InstanceType="ml.p3.xlarge"))
    assert job["ResourceConfig"]["InstanceType"] == "ml.p3.xlarge"


def test_problems_inside_lists_name_the_element(create_training_job):
    text = refusal(create_training_job, a_job(Tags=[{"Key": "a", "Value": "b"}, {"Key": "c"}]))
    assert "Value null at 'tags.2.member.value' failed to satisfy constraint: Member must not be null" in text


def test_lists_of_scalars_are_told_as_a_whole(create_training_job):
    text = refusal(create_training_job, a_job(VpcConfig={"Subnets": ["ok", "no!"], "SecurityGroupIds": ["sg"]}))
    assert text == (
        "1 validation error detected: Value '[ok, no!]' at 'vpcConfig.subnets' failed to satisfy constraint: "
        "Member must satisfy constraint: [Member must have length less than or equal to 32, "
        "Member must have length greater than or equal to 0, "
        "Member must satisfy regular expression pattern: [-0-9a-zA-Z]+]"
    )


def test_map_values_are_told_at_the_map(create_training_job):
    text = refusal(create_training_job, a_job(HyperParameters={"k": "v" * 2501}))
    assert "at 'hyperParameters' failed to satisfy constraint: Map value must satisfy constraint: [Member must" in text


def test_map_keys_are_told_at_the_map(create_training_job):
    text = refusal(create_training_job, a_job(Environment={"1-x": "v"}))
    assert "Value '{1-x=v}' at 'environment' failed to satisfy constraint: Map keys must satisfy constraint:" in text


def test_null_elements_are_refused(create_training_job):
    assert "at 'tags.1.member'" in refusal(create_training_job, a_job(Tags=[None]))
    assert "Member must not be null" in refusal(create_training_job, a_job(HyperParameters={"k": None}))


def test_unknown_members_are_ignored(create_training_job):
    assert "Colour" not in create_training_job(a_job(Colour="red"))


def test_secret_values_are_not_repeated():
    shapes = {
        "Input": {"type": "structure", "members": {"Password": {"shape": "Secret"}}},
        "Secret": {"type": "string", "min": 8, "sensitive": True},
    }
    check = Compiler().compile(ServiceModel({"metadata": {}, "shapes": shapes}).shape_for("Input"))
    text = refusal(check, {"Password": "hunter2"})
    assert "hunter2" not in text
    assert "Value at 'password' failed" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"TrainingJobName": 1}, "NUMBER_VALUE can not be converted to a String"),
        ({"TrainingJobName": True}, "TRUE_VALUE can not be converted to a String"),
        ({"TrainingJobName": {}}, "Start of structure or map found where not expected."),
        ({"TrainingJobName": []}, "Start of list found where not expected"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": "60"}}, "STRING_VALUE can not be converted to an Integer"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 1.5}}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 1e300}}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 2**31}}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"StoppingCondition": []}, "Start of list found where not expected"),
        ({"StoppingCondition": "x"}, "Unexpected field type"),
        ({"Tags": {}}, "Start of structure or map found where not expected."),
        ({"EnableManagedSpotTraining": "true"}, "STRING_VALUE can not be converted to a Boolean"),
    ],
)
def test_wrong_types_are_serialization_errors(create_training_job, changes, text):
    with pytest.raises(AwsError) as caught:
        create_training_job(a_job(**changes))
    assert (caught.value.code, caught.value.message) == ("SerializationException", text)


def test_whole_floats_are_integers(create_training_job):
    count = create_training_job(with_resources(InstanceCount=2.0))["ResourceConfig"]["InstanceCount"]
    assert count == 2
    assert type(count) is int


def test_a_union_has_one_member():
    shapes = {
        "Either": {"type": "structure", "union": True, "members": {"A": {"shape": "S"}, "B": {"shape": "S"}}},
        "S": {"type": "string"},
    }
    check = Compiler().compile(ServiceModel({"metadata": {}, "shapes": shapes}).shape_for("Either"))
    assert check({"A": "x"}) == {"A": "x"}
    for wrong in ({}, {"A": "x", "B": "y"}):
        with pytest.raises(AwsError, match="exactly one member"):
            check(wrong)


@pytest.mark.parametrize(
    "value",
    [
        1767323045,
        1767323045.0,
        "1767323045",
        "2026-01-02T03:04:05Z",
        "2026-01-02T04:04:05+01:00",
        "Fri, 02 Jan 2026 03:04:05 GMT",
    ],
)
def test_timestamps_in_every_form(value):
    assert timestamp(value) == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "value", ["yesterday", "", 1e40, -1e40, "9" * 30, True, {}, "2026-13-01T00:00:00Z", "99999999999999"]
)
def test_what_is_no_timestamp_is_a_serialization_error(value):
    with pytest.raises(AwsError, match="SerializationException"):
        timestamp(value)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", "grün 1", True),
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", "a$", False),
        (r"\p{ASCII}*", "aé", False),
        (r"\A\S[\p{Print}]*\z", "ab c", True),
        (r"[\w-_]*", "a-_", True),
        (r"[\w-_]*", "é", False),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", "a\U0001f600", True),
        (r"([\p{L}\p{Z}\p{N}_.:\/=+\-@]*)${1,128}", "ab", True),
        (r"\d+", "٣", False),
    ],
)
def test_java_patterns_mean_what_java_means(pattern, text, fits):
    assert bool(matcher(pattern)(text)) is fits


def test_no_pattern_of_the_models_takes_long():
    hostile = [
        "a" * 2000,
        "a-" * 1000,
        "-" * 2000 + "!",
        "https://" + "." * 700 + "\0",
        "a1" * 500 + "!",
        "arn:" + "a:" * 900,
    ]
    for service in ("sagemaker", "logs", "cloudwatch", "sts", "iam", "sagemaker-runtime"):
        shapes = model(service)._service_description["shapes"]
        for pattern in {shape["pattern"] for shape in shapes.values() if "pattern" in shape}:
            for text in hostile:
                started = dt.datetime.now(dt.UTC)
                matcher(pattern)(text)
                assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=2), pattern
