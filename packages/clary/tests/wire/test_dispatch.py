"""The dispatcher answers every request in its protocol: results, AWS's errors, and Clary's own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import pytest
from botocore.eventstream import EventStream
from botocore.parsers import create_parser

from clary.wire.dispatch import Dispatcher
from clary.wire.errors import AwsError, ResourceNotFound
from clary.wire.messages import WireRequest
from clary.wire.services import model


def dispatch(request, person, handlers=None):
    return asyncio.run(Dispatcher(handlers or {}, "us-east-1").handle(request, person))


def raising(error):
    def handler(call):
        raise error

    return handler


def test_handlers_may_answer_at_once_or_later(wire, person):
    async def later(call):
        await asyncio.sleep(0)
        return {"TrainingJobArn": call.params["TrainingJobName"]}

    request = wire.request("sagemaker", "DescribeTrainingJob", {"TrainingJobName": "a"})
    for handler in (later, lambda call: {"TrainingJobArn": call.params["TrainingJobName"]}):
        response = dispatch(request, person, {("sagemaker", "DescribeTrainingJob"): handler})
        assert wire.reply("sagemaker", "DescribeTrainingJob", response)["TrainingJobArn"] == "a"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/x-amz-json-1.1", "image/png"])
def test_inference_takes_any_content_type(wire, person, kind):
    params = {"EndpointName": "e", "Body": b"Action=Nonsense", "ContentType": kind}
    seen = {}

    def handler(call):
        seen.update(call.params)
        return {"Body": b"\x00\xff", "ContentType": "application/x-image"}

    request = wire.request("sagemaker-runtime", "InvokeEndpoint", params)
    response = dispatch(request, person, {("sagemaker-runtime", "InvokeEndpoint"): handler})
    assert seen == params
    assert (response.body, response.headers["content-type"]) == (b"\x00\xff", "application/x-image")


def test_members_that_are_none_are_left_out(wire, person):
    request = wire.request("sagemaker", "DescribeTrainingJob", {"TrainingJobName": "a"})
    handler = {
        ("sagemaker", "DescribeTrainingJob"): lambda call: {"FailureReason": None, "OutputDataConfig": {"KmsKeyId": ""}}
    }
    assert json.loads(dispatch(request, person, handler).body) == {"OutputDataConfig": {"KmsKeyId": ""}}


def test_the_answer_is_in_the_requests_json_version(wire, person):
    request = wire.request("cloudwatch", "ListMetrics", {})
    response = dispatch(request, person, {("cloudwatch", "ListMetrics"): lambda call: {"Metrics": []}})
    assert response.headers["content-type"] == request.headers["content-type"] == "application/x-amz-json-1.0"


@pytest.mark.parametrize(
    ("service", "operation", "params", "code"),
    [
        ("sagemaker", "DescribeTrainingJob", {"TrainingJobName": "-"}, "ValidationException"),
        ("logs", "DescribeLogStreams", {"logGroupName": "?"}, "InvalidParameterException"),
        ("sts", "AssumeRole", {"RoleArn": "x", "RoleSessionName": "ab"}, "ValidationError"),
        ("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "-", "Body": b""}, "ValidationError"),
    ],
)
def test_each_service_has_its_code_for_validation(wire, person, service, operation, params, code):
    response = dispatch(wire.request(service, operation, params), person, {(service, operation): lambda call: {}})
    error = wire.reply(service, operation, response)["Error"]
    assert error["Code"] == code
    assert "1 validation error detected: Value " in error["Message"]
    assert response.headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    ("service", "operation", "params"),
    [
        ("sagemaker", "CreateApp", {}),
        ("iam", "ListUsers", {}),
        ("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "e", "Body": b""}),
    ],
)
def test_an_operation_without_handler_is_named(wire, person, service, operation, params):
    response = dispatch(wire.request(service, operation, params), person)
    error = wire.reply(service, operation, response)["Error"]
    assert response.status == 400
    assert error["Code"] == "UnsupportedOperation"
    assert operation in error["Message"]


@pytest.mark.parametrize("target", ["SageMaker.Nonsense", "Nobody.ListTrainingJobs", "", "SageMaker", "."])
def test_an_unknown_target_is_an_unknown_operation(person, target):
    headers = {"x-amz-target": target, "content-type": "application/x-amz-json-1.1"}
    response = dispatch(WireRequest("POST", "/", "", headers, b"{}"), person)
    assert json.loads(response.body)["__type"] == "UnknownOperationException"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"Action=Nonsense&Version=2011-06-15", "InvalidAction"),
        (b"Action=GetCallerIdentity", "InvalidAction"),
        (b"Version=2011-06-15", "MissingAction"),
        (b"", "MissingAction"),
        (b"\xff\xfe", "MalformedQueryString"),
        (b"Action=GetRole&Version=2010-05-08&RoleName=%ff", "MalformedQueryString"),
    ],
)
def test_a_broken_form_is_told_in_xml(person, body, code):
    request = WireRequest("POST", "/", "", {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}, body)
    response = dispatch(request, person)
    document = ElementTree.fromstring(response.body)
    assert document.tag.endswith("ErrorResponse")
    assert [node.text for node in document.iter() if node.tag.endswith("Code")] == [code]


@pytest.mark.parametrize(
    ("signed_for", "method_path", "headers", "body", "named"),
    [
        ("ecr", ("POST", "/"), {"x-amz-target": "Registry_V1.DescribeRepositories"}, b"{}", "DescribeRepositories"),
        (
            "sns",
            ("POST", "/"),
            {"content-type": "application/x-www-form-urlencoded"},
            b"Action=ListTopics",
            "ListTopics",
        ),
        ("lambda", ("GET", "/2015-03-31/functions"), {}, b"", "GET /2015-03-31/functions"),
    ],
)
def test_a_request_for_a_service_that_is_not_there_is_told_so_by_name(
    person, signed_for, method_path, headers, body, named
):
    scope = f"AWS4-HMAC-SHA256 Credential=AKID/20260102/us-east-1/{signed_for}/aws4_request, SignedHeaders=host"
    response = dispatch(WireRequest(*method_path, "", {**headers, "authorization": scope}, body), person)
    assert response.status == 400
    text = response.body.decode()
    assert "UnsupportedOperation" in text + str(response.headers)
    assert signed_for in text
    assert named in text
    assert "sagemaker" in text


def test_a_wrong_operation_of_a_service_that_is_there_stays_unknown(person):
    scope = "AWS4-HMAC-SHA256 Credential=AKID/20260102/us-east-1/sagemaker/aws4_request, SignedHeaders=host"
    headers = {"x-amz-target": "SageMaker.Nonsense", "authorization": scope}
    response = dispatch(WireRequest("POST", "/", "", headers, b"{}"), person)
    assert json.loads(response.body)["__type"] == "UnknownOperationException"


@pytest.mark.parametrize("method_path", [("GET", "/endpoints/e/invocations"), ("POST", "/nothing")])
def test_an_unknown_path_is_an_unknown_operation(person, method_path):
    response = dispatch(WireRequest(*method_path, "", {}, b""), person)
    assert response.status == 404
    assert response.headers["x-amzn-errortype"] == "UnknownOperationException"


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"1", b"nonsense", b"\xff", b'{"a":' * 2000, b"NaN", b'{"TrainingJobName": "a\\u0000"}']
)
def test_a_body_that_is_no_object_is_a_serialization_error(person, body):
    headers = {"x-amz-target": "SageMaker.DescribeTrainingJob", "content-type": "application/x-amz-json-1.1"}
    request = WireRequest("POST", "/", "", headers, body)
    response = dispatch(request, person, {("sagemaker", "DescribeTrainingJob"): lambda call: {}})
    assert (response.status, json.loads(response.body)["__type"]) == (400, "SerializationException")


def test_nesting_in_a_recursive_shape_is_bounded(person):
    expression: dict[str, object] = {}
    for _ in range(400):
        expression = {"SubExpressions": [expression]}
    body = json.dumps({"Resource": "TrainingJob", "SearchExpression": expression}).encode()
    headers = {"x-amz-target": "SageMaker.Search", "content-type": "application/x-amz-json-1.1"}
    response = dispatch(WireRequest("POST", "/", "", headers, body), person, {("sagemaker", "Search"): lambda call: {}})
    assert response.status in (200, 400)


def test_a_modelled_error_has_its_status(wire, person):
    handlers = {("iam", "GetRole"): raising(AwsError("NoSuchEntity", "no such role"))}
    response = dispatch(wire.request("iam", "GetRole", {"RoleName": "x"}), person, handlers)
    assert response.status == 404
    assert wire.reply("iam", "GetRole", response)["Error"]["Code"] == "NoSuchEntity"


def test_the_fields_of_a_modelled_error_are_told(wire, person):
    error = AwsError(
        "ModelError", "the container failed", fields={"OriginalStatusCode": 500, "OriginalMessage": "boom"}
    )
    request = wire.request("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "e", "Body": b"x"})
    response = dispatch(request, person, {("sagemaker-runtime", "InvokeEndpoint"): raising(error)})
    assert response.status == 424
    assert response.headers["x-amzn-errortype"] == "ModelError"
    assert json.loads(response.body)["OriginalMessage"] == "boom"


def test_cloudwatch_keeps_its_query_codes(wire, person):
    handlers = {("cloudwatch", "PutMetricData"): raising(AwsError("InvalidParameterValue", "no"))}
    params = {"Namespace": "n", "MetricData": []}
    response = dispatch(wire.request("cloudwatch", "PutMetricData", params), person, handlers)
    assert json.loads(response.body)["__type"] == "InvalidParameterValueException"
    assert response.headers["x-amzn-query-error"] == "InvalidParameterValue;Sender"
    response = dispatch(wire.request("cloudwatch", "PutMetricData", params, "query"), person, handlers)
    assert wire.reply("cloudwatch", "PutMetricData", response, "query")["Error"]["Code"] == "InvalidParameterValue"


def test_an_error_text_with_control_characters_is_still_xml(wire, person):
    handlers = {("iam", "GetRole"): raising(ResourceNotFound("a\x00\x1f<&>"))}
    response = dispatch(wire.request("iam", "GetRole", {"RoleName": "x"}), person, handlers)
    assert "<&>" in wire.reply("iam", "GetRole", response)["Error"]["Message"]


def test_what_a_handler_lets_through_is_recorded_and_answered(wire, person, caplog):
    handlers = {("sts", "GetCallerIdentity"): raising(KeyError("surprise"))}
    response = dispatch(wire.request("sts", "GetCallerIdentity", {}), person, handlers)
    assert response.status == 500
    assert "surprise" not in response.body.decode()
    assert response.headers["x-amzn-requestid"] in caplog.text
    assert "surprise" in caplog.text


def test_a_presigned_query_may_hold_the_action(person):
    handlers = {("sts", "GetCallerIdentity"): lambda call: {"Account": "1"}}
    request = WireRequest("GET", "/", "Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=1", {}, b"")
    assert b"<Account>1</Account>" in dispatch(request, person, handlers).body


def test_parts_of_a_stream_are_frames_that_botocore_reads(wire, person):
    async def events():
        yield {"PayloadPart": {"Bytes": b"one"}}
        yield {"PayloadPart": {"Bytes": b"two"}}

    handlers = {
        ("sagemaker-runtime", "InvokeEndpointWithResponseStream"): lambda call: {
            "ContentType": "text/plain",
            "Body": events(),
        }
    }
    request = wire.request("sagemaker-runtime", "InvokeEndpointWithResponseStream", {"EndpointName": "e", "Body": b"x"})
    response = dispatch(replace(request), person, handlers)
    assert response.headers["x-amzn-sagemaker-content-type"] == "text/plain"
    assert list(_read_stream(response)) == [{"PayloadPart": {"Bytes": b"one"}}, {"PayloadPart": {"Bytes": b"two"}}]


def test_a_stream_that_breaks_ends_with_its_error(wire, person):
    async def events():
        yield {"PayloadPart": {"Bytes": b"one"}}
        raise AwsError("ModelStreamError", "broken", fields={"ErrorCode": "X"})

    handlers = {("sagemaker-runtime", "InvokeEndpointWithResponseStream"): lambda call: {"Body": events()}}
    request = wire.request("sagemaker-runtime", "InvokeEndpointWithResponseStream", {"EndpointName": "e", "Body": b"x"})
    with pytest.raises(Exception, match="ModelStreamError"):
        list(_read_stream(dispatch(request, person, handlers)))


class _Raw(BytesIO):
    def stream(self, amount=1024, decode_content=None):
        while chunk := self.read(amount):
            yield chunk


def _read_stream(response):
    async def collect():
        return b"".join([piece async for piece in response.stream])

    described = model("sagemaker-runtime").operation_model("InvokeEndpointWithResponseStream")
    parser = create_parser("rest-json")._event_stream_parser
    return EventStream(_Raw(asyncio.run(collect())), described.get_event_stream_output(), parser, described.name)
