"""The errors of the runtime API, in AWS's words.

AwsError
├── ValidationError      400: no such endpoint or variant, a header that cannot be
├── ModelError           424: the container answered with an error, or not at all
├── ModelNotReady        429: a model that is being loaded
└── ServiceUnavailable   503: no replica can take the request now; `retry_after` says when to try again
"""

from __future__ import annotations

from clary.state.routing import RoutedEndpoint
from clary.wire.errors import AwsError

LOG_GROUPS = "/aws/sagemaker/Endpoints/"
PRIMARY = "primary"  # what the only container of a model is called
_MESSAGE_CHARACTERS = 64 * 1024


class ServiceUnavailable(AwsError):
    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__("ServiceUnavailable", message, status=503)
        self.retry_after = retry_after


class ModelNotReady(AwsError):
    def __init__(self, message: str) -> None:
        super().__init__("ModelNotReadyException", message, status=429)


def invalid(message: str) -> AwsError:
    """The runtime's ValidationError; the other services' is called ValidationException."""
    return AwsError("ValidationError", message)


def no_endpoint(name: str, account_id: str) -> AwsError:
    """The endpoint is not there, or does not serve yet."""
    return invalid(f"Endpoint {name} of account {account_id} not found.")


def model_error(
    endpoint: RoutedEndpoint, log_stream: str, status: int, message: str, container: str = PRIMARY
) -> AwsError:
    """What a container's answer other than 2xx becomes; `status` 0 when there was no answer."""
    _, _, _, region, account_id, _ = endpoint.arn.split(":", 5)
    kind = "client" if 400 <= status < 500 else "server"
    message = message[:_MESSAGE_CHARACTERS]
    group = LOG_GROUPS + endpoint.name
    return AwsError(
        "ModelError",
        f'Received {kind} error ({status}) from {container} with message "{message}". '
        f"See https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={group} "
        f"in account {account_id} for more information.",
        status=424,
        fields={
            "OriginalStatusCode": status,
            "OriginalMessage": message,
            "LogStreamArn": f"arn:aws:logs:{region}:{account_id}:log-group:{group}:log-stream:{log_stream}",
        },
    )


def timed_out(container: str = PRIMARY) -> str:
    """What AWS says of a container that does not answer in time."""
    return (
        f"Your invocation timed out while waiting for a response from container {container}. Review the latency "
        "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
    )


TIMED_OUT = timed_out()
CLOSED = "The container closed the connection before it had answered the invocation: its server exited or failed."
RESPONSE_TOO_LARGE = "The container's response is larger than 6291456 bytes, the most that InvokeEndpoint returns."
