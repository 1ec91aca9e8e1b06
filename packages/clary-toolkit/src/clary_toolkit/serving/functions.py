"""An inference.py with sagemaker-inference's functions: model_fn, input_fn, predict_fn, output_fn, or transform_fn.

What is not written has a default: the model is what lies in the model folder, bodies and answers are JSON, CSV or npy.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Iterator

import numpy as np

from clary_toolkit.serving import formats, log
from clary_toolkit.serving.errors import ServingError, StartupError
from clary_toolkit.serving.prediction import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from clary_toolkit.serving.http import Request

_TEXT = (formats.JSON, formats.CSV)
_KNOWN = (formats.JSON, formats.CSV, formats.NPY)


class FunctionContext:
    """What a function's trailing argument `context` holds: the parts of the Multi Model Server's that scripts use."""

    def __init__(self, model_folder: str, headers: dict[str, str], identity: str = "") -> None:
        self.system_properties = {"model_dir": model_folder, "gpu_id": None, "batch_size": 1, "server_name": "clary"}
        self.model_name = "model"
        self.request_headers = headers
        self.identity = identity
        self.status: int | None = None
        self.content_type: str | None = None

    def get_request_header(self, position: int, name: str) -> str | None:
        """A header of the request."""
        return self.request_headers.get(name.lower())

    def get_all_request_header(self, position: int) -> dict[str, str]:
        """All headers of the request."""
        return self.request_headers

    def get_request_id(self, position: int = 0) -> str:
        """The request's X-Amzn-SageMaker-Inference-Id, where it has one."""
        return self.request_headers.get("x-amzn-sagemaker-inference-id", self.identity)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """The status to answer with."""
        self.status = code

    def set_response_content_type(self, position: int, value: str) -> None:
        """The content type to answer with."""
        self.content_type = value


class Functions:
    """The functions of a module, and the model that each worker loads with them.

    Args:
        module: the imported script.
        model_folder: /opt/ml/model, what model_fn gets.
        default_accept: for requests without Accept.
        default_model: loads what lies in the model folder, where there is no model_fn.
    """

    def __init__(
        self, module: ModuleType, model_folder: str, default_accept: str, default_model: Callable[[], Any]
    ) -> None:
        def own(name: str) -> Any:
            return getattr(module, name, None)

        self._model_fn, self._transform_fn = own("model_fn"), own("transform_fn")
        self._warmup_fn, self._pre_model_fn = own("model_warmup_fn"), own("pre_model_fn")
        parts = [name for name in ("input_fn", "predict_fn", "output_fn") if own(name) is not None]
        if self._transform_fn is not None and parts:
            raise StartupError(
                "Cannot use transform_fn implementation in conjunction with {}: leave one of them out.".format(
                    ", ".join(parts)
                )
            )
        self._input_fn = own("input_fn") or _input
        self._predict_fn = own("predict_fn") or _predict
        self._output_fn = own("output_fn") or _output
        self._model_folder = model_folder
        self._default_accept = default_accept
        self._default_model = default_model

    @property
    def needs_default_model(self) -> bool:
        """Whether the model folder must hold a model that can be served."""
        return self._model_fn is None

    def load_model(self) -> Any:
        """Call model_fn, once for each worker."""
        context = FunctionContext(self._model_folder, {})
        if self._pre_model_fn is not None:
            _call(self._pre_model_fn, [self._model_folder], context)
        if self._model_fn is None:
            return self._default_model()
        model = _call(self._model_fn, [self._model_folder], context)
        if self._warmup_fn is not None:
            _call(self._warmup_fn, [self._model_folder, model], context)
        return model

    def answer(self, request: Request, model: Any) -> Answer:
        """The answer to an invocation; 500 with the message and the traceback where a function raises."""
        headers = request.headers
        context = FunctionContext(self._model_folder, headers)
        content_type = formats.media_type(headers.get("content-type")) or formats.JSON
        accept = headers.get("accept") or self._default_accept
        if formats.media_type(accept) in ("*/*", ""):
            accept = self._default_accept
        try:
            data: Any = request.body.decode("utf-8") if content_type in _TEXT else request.body
            if self._transform_fn is not None:
                returned = _call(self._transform_fn, [model, data, content_type, accept], context)
            else:
                taken = _call(self._input_fn, [data, content_type], context)
                prediction = _call(self._predict_fn, [taken, model], context)
                returned = _call(self._output_fn, [prediction, accept], context)
            body, kind = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, accept)
            kind = context.content_type or str(kind)
            if isinstance(body, Iterator):
                return Answer(context.status or 200, b"", kind, (_bytes(piece) for piece in body))
            return Answer(context.status or 200, _bytes(body), kind)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to the user's code
            trace = log.exception("{}: {}".format(type(error).__name__, error))
            status = getattr(error, "status_code", getattr(error, "status", 500))
            message = getattr(error, "message", None) or str(error)
            return Answer(
                status if isinstance(status, int) else 500, "{}\n{}".format(message, trace).encode(), "text/plain"
            )


def _call(function: Any, arguments: list[Any], context: FunctionContext) -> Any:
    """Call a function, with the context where it takes one argument more."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function(*arguments)
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if len(positional) > len(arguments):
        arguments = [*arguments, context]
    return function(*arguments)


def _input(data: Any, content_type: str) -> Any:
    """The default input_fn: an array of a JSON, CSV or npy body."""
    if content_type == formats.JSON:
        document = json.loads(data)
        for key in ("instances", "inputs"):
            if isinstance(document, dict) and key in document:
                document = document[key]
        if isinstance(document, dict):
            return {name: np.array(value) for name, value in document.items()}
        return np.array(document)
    if content_type == formats.CSV:
        return np.atleast_2d(np.genfromtxt(io.StringIO(data), dtype=np.float32, delimiter=","))
    if content_type in (formats.NPY, formats.NPZ):
        return formats.read_numpy(data)
    raise ServingError(
        "Unsupported content type: {}. Expected {}, or an input_fn that reads it.".format(
            content_type, ", ".join(_KNOWN)
        ),
        415,
    )


def _predict(data: Any, model: Any) -> Any:
    """The default predict_fn: the model's `predict`, or the model itself."""
    predict = getattr(model, "predict", None)
    return predict(data) if callable(predict) else model(data)


def _output(prediction: Any, accept: str) -> tuple[bytes, str]:
    """The default output_fn: JSON, CSV or npy, whichever of Accept is known first."""
    for kind in formats.preferred(accept):
        kind = formats.JSON if kind in ("*/*", "application/*") else kind
        if kind == formats.JSON:
            return json.dumps(prediction, default=_plain).encode(), kind
        if kind == formats.CSV:
            file = io.StringIO()
            np.savetxt(file, np.atleast_1d(np.asarray(prediction)), delimiter=",", fmt="%s")
            return file.getvalue().encode(), kind
        if kind == formats.NPY:
            content = io.BytesIO()
            np.save(content, np.asarray(prediction), allow_pickle=False)
            return content.getvalue(), kind
    raise ServingError("Unsupported accept: {}. Expected {}.".format(accept, ", ".join(_KNOWN)), 406)


def _plain(value: Any) -> Any:
    numpy = getattr(value, "numpy", None)
    if callable(numpy):
        value = numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError("A prediction of type {} does not become JSON: write an output_fn.".format(type(value).__name__))


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return json.dumps(body, default=_plain).encode()
