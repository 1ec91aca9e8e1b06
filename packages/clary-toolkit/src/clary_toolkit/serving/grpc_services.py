"""TensorFlow Serving's gRPC services: Predict, Classify, Regress, GetModelMetadata and GetModelStatus.

Imported only where grpcio and the package tensorflow-serving-api are there.
"""

from __future__ import annotations

import importlib

from clary_toolkit.serving import examples, grpc_tensors, log
from clary_toolkit.serving.errors import InvalidArgument, ServingError
from clary_toolkit.serving.signatures import CLASSIFY, REGRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    import numpy as np

    from clary_toolkit.serving.models import Models, Version
    from clary_toolkit.serving.prediction import Predictor
    from clary_toolkit.serving.signatures import Signature

_CODES = {
    400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED", 412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def add(server: Any, models: Models, predictor: Predictor) -> None:
    """Offer both services on a grpc.Server. Raises ImportError where the stubs are missing."""
    prediction: Any = _api("prediction_service_pb2_grpc")
    status: Any = _api("model_service_pb2_grpc")
    services = _Services(models, predictor)

    class PredictionService(prediction.PredictionServiceServicer):
        Predict = _answering(services.predict)
        Classify = _answering(services.classify)
        Regress = _answering(services.regress)
        GetModelMetadata = _answering(services.metadata)

    class ModelService(status.ModelServiceServicer):
        GetModelStatus = _answering(services.status)

    prediction.add_PredictionServiceServicer_to_server(PredictionService(), server)
    status.add_ModelServiceServicer_to_server(ModelService(), server)


def _api(module: str) -> Any:
    return importlib.import_module("tensorflow_serving.apis." + module)


def _answering(method: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """The method of a service that answers with what `method` gives, or with the status of what it raises."""
    codes: Any = importlib.import_module("grpc").StatusCode

    def answer(_: Any, request: Any, context: Any) -> Any:
        try:
            return method(request)
        except ServingError as error:
            log.hint(error.message, error.hint)
            code, message = _CODES.get(error.status, "INTERNAL"), error.message
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error
            log.exception("A gRPC request failed")
            code, message = "INTERNAL", "{}: {}".format(type(error).__name__, error)
        return context.abort(getattr(codes, code), message)

    return answer


class _Services:
    def __init__(self, models: Models, predictor: Predictor) -> None:
        self._models = models
        self._predictor = predictor
        self._predict: Any = _api("predict_pb2")
        self._classification: Any = _api("classification_pb2")
        self._regression: Any = _api("regression_pb2")
        self._metadata: Any = _api("get_model_metadata_pb2")
        self._status: Any = _api("get_model_status_pb2")

    def predict(self, request: Any) -> Any:
        version = self._version(request)
        signature = version.signature(request.model_spec.signature_name or None)
        inputs = _inputs(signature, request.inputs)
        wanted = list(request.output_filter) or list(signature.outputs)
        for name in wanted:
            if name not in signature.outputs:
                raise InvalidArgument(
                    "output tensor alias not found in signature: {} Outputs expected to be in the set {{{}}}.".format(
                        name, ",".join(signature.outputs)
                    )
                )
        outputs = self._predictor.run(version, signature, inputs)
        response = self._predict.PredictResponse()
        _describe(response.model_spec, version, signature.name)
        for name in wanted:
            grpc_tensors.write(response.outputs[name], outputs[name], signature.outputs[name])
        return response

    def classify(self, request: Any) -> Any:
        version, signature, outputs = self._run_examples(request, CLASSIFY, "classification")
        response = self._classification.ClassificationResponse()
        _describe(response.model_spec, version, signature.name)
        for pairs in examples.classes(outputs):
            row = response.result.classifications.add()
            for label, score in pairs:
                row.classes.add(label=label.decode("utf-8", "replace"), score=score)
        return response

    def regress(self, request: Any) -> Any:
        version, signature, outputs = self._run_examples(request, REGRESS, "regression")
        response = self._regression.RegressionResponse()
        _describe(response.model_spec, version, signature.name)
        for value in examples.values(outputs):
            response.result.regressions.add(value=value)
        return response

    def metadata(self, request: Any) -> Any:
        version = self._version(request)
        if "signature_def" not in request.metadata_field:
            raise InvalidArgument(
                "Metadata field {} is not supported. Expected signature_def.".format(
                    ", ".join(request.metadata_field) or "(none)"
                )
            )
        described = self._metadata.SignatureDefMap()
        for name, signature in version.executor.signatures.items():
            definition = described.signature_def[name]
            definition.method_name = signature.method
            for spec in signature.inputs.values():
                grpc_tensors.describe(definition.inputs[spec.name], spec)
            for spec in signature.outputs.values():
                grpc_tensors.describe(definition.outputs[spec.name], spec)
        response = self._metadata.GetModelMetadataResponse()
        _describe(response.model_spec, version, "")
        response.metadata["signature_def"].Pack(described)
        return response

    def status(self, request: Any) -> Any:
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        response = self._status.GetModelStatusResponse()
        for each in self._models.numbers(spec.name, number):
            state = response.model_version_status.add(version=each)
            state.state = self._status.ModelVersionStatus.AVAILABLE
            state.status.error_code = 0
        return response

    def _version(self, request: Any) -> Version:
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        spec = request.model_spec
        if spec.version_label:
            raise ServingError("Unrecognized servable version label: {}".format(spec.version_label), 412)
        return self._models.find(spec.name or None, spec.version.value if spec.HasField("version") else None)

    def _run_examples(self, request: Any, method: str, word: str) -> tuple[Version, Signature, dict[str, np.ndarray]]:
        version = self._version(request)
        signature = version.signature(request.model_spec.signature_name or None)
        inputs = examples.inputs_of(signature, grpc_tensors.examples(request.input), method, word)
        return version, signature, self._predictor.run(version, signature, inputs)


def _describe(spec: Any, version: Version, signature: str) -> None:
    spec.name = version.model
    spec.version.value = version.number
    spec.signature_name = signature


def _inputs(signature: Signature, sent: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if set(sent) != set(signature.inputs):
        raise InvalidArgument(
            "input size does not match signature: {}!={} len({{{}}}) != len({{{}}}). Sent extra: {{{}}}. "
            "Missing but required: {{{}}}.".format(
                len(sent),
                len(signature.inputs),
                ",".join(sorted(sent)),
                ",".join(signature.inputs),
                ",".join(sorted(set(sent) - set(signature.inputs))),
                ",".join(sorted(set(signature.inputs) - set(sent))),
            ),
            signature.expects(),
        )
    return {name: grpc_tensors.read(sent[name], spec, signature) for name, spec in signature.inputs.items()}
