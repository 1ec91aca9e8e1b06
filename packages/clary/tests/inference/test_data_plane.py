"""InvokeEndpoint as boto3 sees it: headers both ways, errors in AWS's words, answers that stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError


@pytest.fixture(autouse=True)
def endpoint(plane: Any, replica: Any, variant: Any) -> str:
    return plane.route("e", variant(replica))


def refused(client: Any, **request: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        client.invoke_endpoint(**{"EndpointName": "e", "Body": b"x"} | request)
    return caught.value.response


def test_a_request_reaches_the_container_with_its_headers_and_the_answer_comes_back(client: Any) -> None:
    answer = client.invoke_endpoint(
        EndpointName="e",
        Body=b"[1, 2]",
        ContentType="application/json",
        Accept="text/csv",
        CustomAttributes="tfs-method=predict",
        InferenceId="mine",
    )
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert answer["ContentType"] == "application/json"
    assert answer["CustomAttributes"] == "tfs-method=predict"
    assert answer["ResponseMetadata"]["RequestId"]
    told = json.loads(answer["Body"].read())
    assert told["request"] == "POST /invocations HTTP/1.1"
    assert told["word"] == "[1, 2]"
    assert told["headers"] == {
        "host": "localhost",
        "content-type": "application/json",
        "accept": "text/csv",
        "x-amzn-sagemaker-custom-attributes": "tfs-method=predict",
        "x-amzn-sagemaker-inference-id": "mine",
        "content-length": "6",
    }


def test_an_empty_body_is_a_body(client: Any) -> None:
    assert json.loads(client.invoke_endpoint(EndpointName="e", Body=b"")["Body"].read())["bytes"] == 0


def test_a_target_variant_gets_the_request(plane: Any, client: Any, replica: Any, stand_in: Any, variant: Any) -> None:
    plane.route("two", variant(replica, name="a", weight=1), variant(stand_in("other"), name="b", weight=0))
    answer = client.invoke_endpoint(EndpointName="two", Body=b"x", TargetVariant="b")
    assert answer["InvokedProductionVariant"] == "b"
    assert json.loads(answer["Body"].read())["name"] == "other"
    assert all(
        client.invoke_endpoint(EndpointName="two", Body=b"x")["InvokedProductionVariant"] == "a" for _ in range(10)
    )
    error = refused(client, EndpointName="two", TargetVariant="c")["Error"]
    assert error["Code"] == "ValidationError"
    assert error["Message"] == "The endpoint two has no production variant c. It has: a, b."


def test_an_endpoint_that_is_not_there_is_told_as_aws_does(client: Any) -> None:
    response = refused(client, EndpointName="nowhere")
    assert response["Error"] == {
        "Code": "ValidationError",
        "Message": "Endpoint nowhere of account 000000000000 not found.",
    }
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(("status", "kind"), [(400, "client"), (415, "client"), (500, "server"), (503, "server")])
def test_an_error_of_the_container_is_a_model_error(client: Any, status: int, kind: str) -> None:
    response = refused(client, Body=f"status {status}")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["Error"]["Code"] == "ModelError"
    assert response["Error"]["Message"] == (
        f'Received {kind} error ({status}) from primary with message "{{"error": "the model says no"}}". See '
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1"
        "#logEventViewer:group=/aws/sagemaker/Endpoints/e in account 000000000000 for more information."
    )
    assert response["OriginalStatusCode"] == status
    assert response["OriginalMessage"] == '{"error": "the model says no"}'
    assert response["LogStreamArn"] == (
        "arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/e:log-stream:AllTraffic/one"
    )


@pytest.mark.parametrize(
    ("own", "status"), [("ServiceUnavailable", 503), ("ModelNotReadyException", 429), ("ValidationError", 400)]
)
def test_what_our_own_server_says_is_no_error_of_the_model(client: Any, own: str, status: int) -> None:
    response = refused(client, Body=f"own {own}")
    assert response["Error"]["Code"] == own
    assert response["Error"]["Message"] == "the queue is full"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert (response["ResponseMetadata"]["HTTPHeaders"].get("retry-after") == "1") == (status == 503)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ("ContainerClosed", "closed the connection"),
        ("ContainerTimedOut", "timed out while waiting for a response from container the queue is full"),
    ],
)
def test_a_container_that_failed_behind_the_gateway_is_named(client: Any, own: str, text: str) -> None:
    response = refused(client, Body=f"own {own}")
    assert (response["Error"]["Code"], response["OriginalStatusCode"]) == ("ModelError", 0)
    assert text in response["OriginalMessage"]
    assert "from the queue is full with message" in response["Error"]["Message"]


@pytest.mark.parametrize("word", ["close", "half", "nonsense"])
def test_a_container_that_does_not_answer_is_a_model_error(client: Any, word: str) -> None:
    response = refused(client, Body=word)
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == 0
    assert "closed the connection" in response["OriginalMessage"]


def test_a_container_that_takes_too_long_is_a_model_error(plane: Any, client: Any, replica: Any, variant: Any) -> None:
    plane.route("hasty", variant(replica, answer_seconds=0.2))
    response = refused(client, EndpointName="hasty", Body="slow 5")
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalMessage"].startswith("Your invocation timed out while waiting for a response")


def test_bodies_have_the_size_that_the_api_allows(client: Any) -> None:
    whole = client.invoke_endpoint(EndpointName="e", Body=b"x" * 6_291_456)
    assert json.loads(whole["Body"].read())["bytes"] == 6_291_456
    response = refused(client, Body=b"x" * 6_291_457)
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert response["Error"] == {"Code": "413", "Message": "HTTP content length exceeded 6291456 bytes."}
    response = refused(client, Body="large")
    assert response["Error"]["Code"] == "ModelError"
    assert "larger than 6291456 bytes" in response["OriginalMessage"]


def test_headers_have_the_length_that_the_api_allows(client: Any) -> None:
    error = refused(client, CustomAttributes="x" * 1025)["Error"]
    assert error["Code"] == "ValidationError"
    assert "'customAttributes' failed to satisfy constraint" in error["Message"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("TargetModel", "m.tar.gz"),
        ("TargetContainerHostname", "container-1"),
        ("EnableExplanations", "`true`"),
        ("InferenceComponentName", "c"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused(client: Any, member: str, value: str) -> None:
    assert refused(client, **{member: value})["Error"]["Code"] == "ValidationError"


def test_a_multi_model_endpoint_needs_the_name_of_a_model(plane: Any, client: Any, replica: Any, variant: Any) -> None:
    plane.route("many", variant(replica, multi_model=True))
    assert "TargetModel must name" in refused(client, EndpointName="many")["Error"]["Message"]
    answer = client.invoke_endpoint(EndpointName="many", Body=b"x", TargetModel="a/b.tar.gz")
    assert json.loads(answer["Body"].read())["headers"]["x-amzn-sagemaker-target-model"] == "a/b.tar.gz"


def test_a_server_that_speaks_http_1_0_is_understood(client: Any) -> None:
    assert client.invoke_endpoint(EndpointName="e", Body=b"old")["Body"].read() == b"until the end"


def test_a_streamed_answer_comes_piece_by_piece(client: Any) -> None:
    answer = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"stream", ContentType="text/plain")
    assert answer["ContentType"] == "text/event-stream"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    pieces = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert len(pieces) > 1
    assert b"".join(pieces) == b"".join(b"piece %d;" % number for number in range(5))


def test_a_stream_that_breaks_says_so_at_its_end(client: Any) -> None:
    answer = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"stream broken")
    events = iter(answer["Body"])
    assert next(events)["PayloadPart"]["Bytes"].startswith(b"piece 0;")
    with pytest.raises(EventStreamError, match="ModelStreamError"):
        list(events)


def test_an_error_before_a_stream_is_an_ordinary_error(client: Any) -> None:
    with pytest.raises(ClientError) as caught:
        client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"status 400")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == 400


def test_an_unsigned_request_reaches_no_model(plane: Any) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{plane.url}/endpoints/e/invocations", data=b"x")
    assert caught.value.code == 403


def test_an_endpoint_with_data_capture_takes_its_invocations_down(
    plane: Any, client: Any, replica: Any, variant: Any
) -> None:
    config = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://b/c",
        "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    plane.route("captured", variant(replica), data_capture=config)
    client.invoke_endpoint(EndpointName="captured", Body=b"x", ContentType="application/json", InferenceId="mine")

    class Store:
        async def write(self, bucket: str, key: str, content: bytes) -> None:
            self.written = (bucket, key, json.loads(content))

    store = Store()
    asyncio.run(plane.capture.write(store))
    bucket, key, line = store.written
    assert bucket == "b"
    assert key.startswith("c/captured/AllTraffic/")
    assert line["captureData"]["endpointInput"]["data"] == "x"
    assert '"word": "x"' in line["captureData"]["endpointOutput"]["data"]
    assert line["eventMetadata"]["inferenceId"] == "mine"
