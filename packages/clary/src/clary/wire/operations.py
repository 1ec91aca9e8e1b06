"""One API operation, compiled: from a request to checked parameters, and from an answer to a response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import Any

from clary.wire import query, rest
from clary.wire.constraints import Invalid
from clary.wire.errors import AwsError
from clary.wire.eventstream import CONTENT_TYPE, error_frame, event_frame
from clary.wire.json_output import Encoder, dumps
from clary.wire.messages import WireRequest, WireResponse
from clary.wire.routing import Route
from clary.wire.services import BY_NAME, Protocol, model
from clary.wire.shapes import Compiler

_XML = "text/xml"


class Operation:
    """An operation of one service in one protocol. Everything that depends on the model alone is worked out once."""

    def __init__(self, service: str, name: str, protocol: Protocol) -> None:
        self._model = model(service).operation_model(name)
        self._protocol: Protocol = protocol
        self._service = BY_NAME[service]
        compiler, self._encoder = _compilers(service, protocol)
        shape = self._model.input_shape
        self._input = shape
        if shape is None:
            self._check = None
        elif protocol == "rest-json":
            self._check = compiler.compile_input(shape)
        else:
            self._check = compiler.compile(shape)
        output = self._model.output_shape
        self._encode = self._encoder.compile(output) if output is not None and protocol == "json" else None
        self._status: int = self._model.http.get("responseCode", 200)

    def read(self, request: WireRequest, route: Route) -> dict[str, Any]:
        """The parameters of a request, decoded and checked.

        Raises:
            AwsError: they are not what the model allows.
        """
        if self._check is None or self._input is None:
            return {}
        try:
            if self._protocol == "json":
                return self._check(rest.load_object(request.body))
            if self._protocol == "query":
                return self._check(query.read_params(route.form, self._input))
            return self._check(rest.read_params(self._input, request, route.labels))
        except Invalid as invalid:
            raise invalid.error(self._service.validation_code) from None
        except RecursionError:
            raise AwsError("SerializationException", "The request is nested too deeply") from None

    def write(self, answer: Mapping[str, Any], request_id: str, content_type: str) -> WireResponse:
        """The response that tells an answer."""
        headers = {"x-amzn-requestid": request_id}
        if self._protocol == "json":
            headers["content-type"] = content_type
            return WireResponse(200, headers, dumps(self._encode(answer) if self._encode else {}))
        if self._protocol == "query":
            namespace = self._model.metadata.get("xmlNamespace", "")
            headers["content-type"] = _XML
            return WireResponse(200, headers, query.write_answer(self._model, namespace, answer, request_id))
        output = self._model.output_shape
        if output is not None and (name := self._model.get_event_stream_output()) is not None:
            return self._stream(name, answer, headers)
        told, body, status = rest.write_answer(output, answer, self._encoder)
        return WireResponse(status or self._status, headers | told, body)

    def _stream(self, shape: Any, answer: Mapping[str, Any], headers: dict[str, str]) -> WireResponse:
        output = self._model.output_shape
        payload = output.serialization["payload"]
        told, _, _ = rest.write_answer(output, {k: v for k, v in answer.items() if k != payload}, self._encoder)
        events: AsyncIterator[Mapping[str, Any]] = answer[payload]

        async def frames() -> AsyncIterator[bytes]:
            try:
                async for event in events:
                    yield event_frame(shape, event, self._encoder)
            except AwsError as error:
                yield error_frame(error)

        return WireResponse(self._status, headers | told | {"content-type": CONTENT_TYPE}, stream=frames())


@cache
def operation(service: str, name: str, protocol: Protocol) -> Operation:
    """The compiled operation, made when first asked for."""
    return Operation(service, name, protocol)


@cache
def _compilers(service: str, protocol: Protocol) -> tuple[Compiler, Encoder]:
    return Compiler(by_member=protocol == "query"), Encoder()
