"""An inference.py with `handler`, or `input_handler` and `output_handler`, called as AWS's container calls them."""

from __future__ import annotations

import http
import importlib
import io
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clary_toolkit.serving import json_writing, log, release
from clary_toolkit.serving.errors import ServingError
from clary_toolkit.serving.prediction import Answer, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from clary_toolkit.serving.http import Request

    Rest = Callable[[Target, bytes], Answer]
    Grpc = Callable[[], "tuple[int | None, object]"]

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


class Context(NamedTuple):
    """What handlers are told of a request. Where the image has no gRPC, `grpc_port` and `channel` are None."""

    model_name: str | None
    model_version: str | None
    method: str | None
    rest_uri: str
    grpc_port: int | None
    channel: object
    custom_attributes: str | None
    request_content_type: str
    accept_header: str
    content_length: int
    timeout: float


class Handlers:
    """The handlers of a module.

    Args:
        module: the imported inference.py.
        rest: answers a request to TensorFlow Serving's REST interface; it waits.
        rest_url: where the same interface listens, for handlers that send requests of their own.
        seconds: how long a request may take.
        grpc: the port of the gRPC interface and a channel to it, or twice None.
    """

    def __init__(self, module: ModuleType, rest: Rest, rest_url: str, seconds: float, grpc: Grpc) -> None:
        self._handler: Any = getattr(module, "handler", None)
        self._input: Any = getattr(module, "input_handler", None)
        self._output: Any = getattr(module, "output_handler", None)
        self._rest = rest
        self._rest_url = rest_url
        self._seconds = seconds
        self._grpc = grpc

    def answer(self, request: Request, target: Target, default_model: str) -> Answer:
        """The answer to an invocation; 500 with the message and the traceback where a handler raises.

        An error of the model's goes to `output_handler` like an answer, or past it to the client: as AWS's image of
        the same release has it.
        """
        context = self._context(request, target, default_model)
        data = io.BytesIO(request.body)
        try:
            if self._handler is not None:
                return _answer(self._handler(data, context), "handler")
            processed = _content(self._input(data, context))
            reply = self._rest(Target(target.model, target.version, target.method), processed)
            if reply.status != 200 and not release.output_handler_sees_errors():
                return _relayed(reply)
            return _answer(self._output(_response(reply, context.rest_uri), context), "output_handler")
        except ServingError as error:
            return Answer(error.status, json_writing.error(error.message, error.hint))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to the user's code
            trace = log.exception("exception handling request: {}".format(error))
            document = {"error": str(error) or type(error).__name__, "traceback": trace}
            return Answer(500, json.dumps(document).encode())

    def _context(self, request: Request, target: Target, default_model: str) -> Context:
        uri = "{}/v1/models/{}".format(self._rest_url, target.model or default_model)
        if target.version is not None:
            uri += "/versions/{}".format(target.version)
        headers = request.headers
        port, channel = self._grpc()
        named = "tfs-method=" in headers.get(CUSTOM_ATTRIBUTES, "")
        return Context(
            target.model,
            None if target.version is None else str(target.version),
            target.method if named else None,
            uri + ":" + target.method,
            port,
            channel,
            headers.get(CUSTOM_ATTRIBUTES),
            headers.get("content-type") or "application/json",
            headers.get("accept") or "application/json",
            len(request.body),
            self._seconds,
        )


class Response:
    """What `output_handler` gets where the image has no `requests`: the parts of its Response that scripts use."""

    def __init__(self, status: int, content: bytes, url: str, headers: dict[str, str]) -> None:
        self.status_code = status
        self.content = content
        self.url = url
        self.headers = headers
        self.encoding = "utf-8"
        self.reason = _phrase(status)

    @property
    def ok(self) -> bool:
        """Whether the status is no error."""
        return self.status_code < 400

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode(self.encoding, "replace")

    def json(self, **options: Any) -> Any:
        """The content as a JSON document."""
        return json.loads(self.text, **options)

    def iter_content(self, chunk_size: int = 1) -> Iterable[bytes]:
        """The content in pieces."""
        return (self.content[i : i + chunk_size] for i in range(0, len(self.content), max(chunk_size, 1)))

    def iter_lines(self) -> Iterable[bytes]:
        """The content line by line."""
        return iter(self.content.splitlines())

    def raise_for_status(self) -> None:
        """Raise where the status is an error."""
        if not self.ok:
            raise ServingError("{} from {}: {}".format(self.status_code, self.url, self.text), self.status_code)


def _response(reply: Answer, url: str) -> Any:
    headers = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
    try:
        requests: Any = importlib.import_module("requests")
    except ImportError:
        return Response(reply.status, reply.body, url, headers)
    response = requests.Response()
    response.status_code = reply.status
    response.reason = _phrase(reply.status)
    response.url = url
    response.encoding = "utf-8"
    response.headers.update(headers)
    response.raw = io.BytesIO(reply.body)
    response._content = reply.body
    return response


def _relayed(reply: Answer) -> Answer:
    """An error of the model's in the frame that AWS's image puts around it since 2.20."""
    title = "{} {}".format(reply.status, _phrase(reply.status))
    document = {"title": title, "description": reply.body.decode("utf-8", "replace")}
    return Answer(reply.status, json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase


def _content(processed: Any) -> bytes:
    """What an input_handler returned, as the body of a request."""
    if isinstance(processed, str):
        return processed.encode()
    if isinstance(processed, (bytes, bytearray, memoryview)):
        return bytes(processed)
    read: Any = getattr(processed, "read", None)
    if callable(read):
        return _content(read())
    if isinstance(processed, Iterable) and not isinstance(processed, dict):
        return b"".join(_content(part) for part in processed)
    raise ServingError(
        "input_handler returned {}. Expected str or bytes: the JSON of a TensorFlow Serving request, "
        "for instance json.dumps({{'instances': [...]}}).".format(type(processed).__name__)
    )


def _answer(returned: Any, name: str) -> Answer:
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise ServingError(
            "{} returned {}. Expected a body and its content type: (body, content_type).".format(
                name, type(returned).__name__
            )
        )
    body, content_type = returned
    if body is None:
        body = b""
    if isinstance(body, Iterator):
        return Answer(200, b"", str(content_type or "application/json"), (_content(piece) for piece in body))
    return Answer(200, _content(body), str(content_type or "application/json"))
