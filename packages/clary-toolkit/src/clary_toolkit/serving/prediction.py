"""Answers predict, classify and regress requests: from a body and the model it is for to a status and a body."""

from __future__ import annotations

import re

from clary_toolkit.serving import examples, formats, json_reading, json_tensors, json_writing, log
from clary_toolkit.serving.batching import Call, Device
from clary_toolkit.serving.errors import InvalidArgument, NotFound, ServingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import numpy as np

    from clary_toolkit.serving.models import Models, Version
    from clary_toolkit.serving.signatures import Signature

    Done = Callable[["Answer"], None]

METHODS = ("predict", "classify", "regress")
_QUICK_SECONDS = 0.0005
_ATTRIBUTE = re.compile(r"(tfs-[a-z\-]+)=([^,]+)")


class Answer:
    """A status, a body and its content type. `pieces` is a body that is still being made, and is sent as it comes."""

    __slots__ = ("body", "content_type", "pieces", "status")

    def __init__(
        self, status: int, body: bytes, content_type: str = formats.JSON, pieces: Iterator[bytes] | None = None
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.pieces = pieces


class Target:
    """Which model a request is for: None stands for the default model and its highest version."""

    def __init__(self, model: str | None = None, version: int | None = None, method: str = "predict") -> None:
        self.model = model
        self.version = version
        self.method = method

    @classmethod
    def of_attributes(cls, header: str | None, model: str | None = None) -> Target:
        """From X-Amzn-SageMaker-Custom-Attributes: tfs-model-name, tfs-model-version, tfs-method.

        Raises ServingError where the version is no number or the method is unknown.
        """
        if not header:
            return cls(model)
        attributes = dict(_ATTRIBUTE.findall(header))
        text = attributes.get("tfs-model-version", "").strip()
        method = attributes.get("tfs-method", "predict").strip()
        if text and not text.isdigit():
            raise NotFound("The version {!r} (tfs-model-version) is not a whole number.".format(text))
        if method not in METHODS:
            raise InvalidArgument(
                "The method {!r} (tfs-method) is unknown. Expected {}.".format(method, ", ".join(METHODS))
            )
        return cls(attributes.get("tfs-model-name", model), int(text) if text else None, method)


class Predictor:
    """Runs requests on the models that are served; its methods are called by worker threads."""

    def __init__(self, models: Models, device: Device) -> None:
        self._models = models
        self._device = device

    def is_quick(self, target: Target) -> bool:
        """Whether a call of the model takes less than passing it to another thread and back."""
        try:
            return self._models.find(target.model, target.version).executor.usual_seconds < _QUICK_SECONDS
        except NotFound:
            return False

    def invoke(self, target: Target, body: bytes, content_type: str | None, accept: str | None, done: Done) -> None:
        """An invocation: any content type. `done` gets the answer, on this thread or another."""
        kind = formats.media_type(content_type)
        accepted = formats.preferred(accept)
        compact = formats.JSON in accepted or formats.JSON_LINES in accepted
        try:
            document = formats.document_of(body, kind)
            version = self._models.find(target.model, target.version)
            if document is None:
                signature = version.signature(None)
                layout, inputs = formats.tensors_of(body, kind, signature)
                self._submit(version, signature, inputs, _Writer(layout, accepted, compact, done))
            else:
                self._run(version, target.method, document, body, _Writer("", accepted, compact, done))
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error
            done(failure(error))

    def rest(self, target: Target, body: bytes, done: Done) -> None:
        """A request to TensorFlow Serving's REST interface."""
        try:
            version = self._models.find(target.model, target.version)
            document = json_reading.read_request(body)
            self._run(version, target.method, document, body, _Writer("", [], False, done))
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error
            done(failure(error))

    def rest_now(self, target: Target, body: bytes) -> Answer:
        """The same, waiting for the answer: for a thread that may wait, a handler's."""
        try:
            version = self._models.find(target.model, target.version)
            document = json_reading.read_request(body)
            layout, signature, inputs = _tensors(version, target.method, document, body)
            return Answer(200, *_content(self._wait(version, signature, inputs), layout, [], False))
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error
            return failure(error)

    def call(self, version: Version, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for tensors of the default signature; waits. Raises ServingError."""
        return self._wait(version, version.signature(None), inputs)

    def run(self, version: Version, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for tensors of any signature; waits. Raises ServingError."""
        return self._wait(version, signature, inputs)

    def _run(self, version: Version, method: str, document: dict[str, Any], body: bytes, write: _Writer) -> None:
        write.layout, signature, inputs = _tensors(version, method, document, body)
        self._submit(version, signature, inputs, write)

    def _submit(self, version: Version, signature: Signature, inputs: Mapping[str, np.ndarray], write: _Writer) -> None:
        rows = _rows(version, signature, inputs)
        self._device.submit(Call(version.executor, signature, inputs, rows, write))

    def _wait(self, version: Version, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._device.run(version.executor, signature, inputs, _rows(version, signature, inputs))


class _Writer:
    """Turns a call's outcome into the answer."""

    def __init__(self, layout: str, accept: list[str], compact: bool, done: Done) -> None:
        self.layout = layout
        self.accept = accept
        self.compact = compact
        self.done = done

    def __call__(self, outcome: dict[str, np.ndarray] | ServingError) -> None:
        if isinstance(outcome, ServingError):
            self.done(failure(outcome))
            return
        try:
            body, content_type = _content(outcome, self.layout, self.accept, self.compact)
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error
            self.done(failure(error))
            return
        self.done(Answer(200, body, content_type))


def failure(error: Exception) -> Answer:
    """The answer that tells of an error; those that are no ServingError are mistakes of the server, and logged."""
    if isinstance(error, ServingError):
        log.hint(error.message, error.hint)
        return Answer(error.status, json_writing.error(error.message, error.hint))
    log.exception("A request failed")
    return Answer(500, json_writing.error("{}: {}".format(type(error).__name__, error)))


def _tensors(
    version: Version, method: str, document: dict[str, Any], body: bytes
) -> tuple[str, Signature, dict[str, np.ndarray]]:
    """The layout of the answer (for classify and regress the method), what to call, and with what."""
    if method != "predict":
        return (method, *examples.tensors_of(version, method, document))
    signature = version.signature(_signature_name(document))
    layout, inputs = json_tensors.tensors_of(document, signature, _may_hold_booleans(body))
    return layout, signature, inputs


def _content(outputs: Mapping[str, np.ndarray], layout: str, accept: list[str], compact: bool) -> tuple[bytes, str]:
    if layout in (json_tensors.ROW, json_tensors.COLUMN):
        return formats.answer(outputs, layout, accept, compact)
    body = examples.results(outputs, layout)
    return body.replace(b"\n", b"") if compact else body, formats.JSON


def _signature_name(document: dict[str, Any]) -> str | None:
    name = document.get("signature_name")
    if name is not None and not isinstance(name, str):
        raise InvalidArgument(
            "JSON Value: {} not formatted correctly. 'signature_name' key must be a string value.".format(
                json_tensors.show(document)
            )
        )
    return name


def _may_hold_booleans(body: bytes) -> bool:
    return b"true" in body or b"false" in body


def _rows(version: Version, signature: Signature, inputs: Mapping[str, np.ndarray]) -> int | None:
    if signature.name not in version.batched or not version.executor.gains_by_joining(signature):
        return None
    counts = {len(array) if array.ndim else 0 for array in inputs.values()}
    return counts.pop() if len(counts) == 1 and 0 not in counts else None
