"""The classify and regress methods: lists of tf.Example, as Estimators export them."""

from __future__ import annotations

import json

import numpy as np

from clary_toolkit.serving import json_tensors
from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.json_writing import decimal
from clary_toolkit.serving.signatures import CLASSIFY, REGRESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from clary_toolkit.serving.models import Version
    from clary_toolkit.serving.signatures import Signature

_METHODS = {"classify": (CLASSIFY, "classification"), "regress": (REGRESS, "regression")}


def tensors_of(version: Version, method: str, document: dict[str, Any]) -> tuple[Signature, dict[str, np.ndarray]]:
    """The signature to call, and the examples as its one input. Raises InvalidArgument."""
    name = document.get("signature_name")
    signature = version.signature(name if isinstance(name, str) else None)
    expected, word = _METHODS[method]
    serialized = _serialized(document, method)
    if signature.method != expected:
        raise InvalidArgument(
            "Expected {} signature method_name to be {}. Was: {}".format(word, expected, signature.method)
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    (input_name,) = signature.inputs
    return signature, {input_name: serialized}


def results(outputs: Mapping[str, np.ndarray], method: str) -> bytes:
    """{"results": ...}: labels with scores, or a value, for each example. Raises InvalidArgument."""
    rows = _classes(outputs) if method == "classify" else _values(outputs)
    end = "\n    ]\n}" if method == "classify" else "]\n}"
    return ('{\n    "results": [' + ", ".join(rows) + end).encode()


def _serialized(document: dict[str, Any], method: str) -> np.ndarray:
    examples = document.get("examples")
    if "examples" not in document:
        raise InvalidArgument(
            "JSON Value: {} When method is {}, key 'examples' is expected and was not found".format(
                json_tensors.show(document), method
            )
        )
    if not isinstance(examples, list):
        raise InvalidArgument(
            "JSON Value: {} Expecting 'examples' value to be an list/array".format(json_tensors.show(document))
        )
    if not examples:
        raise InvalidArgument("JSON Value: {} 'examples' value is an empty array".format(json_tensors.show(document)))
    context = document.get("context", {})
    texts = np.empty(len(examples), dtype=object)
    for position, example in enumerate(examples):
        texts[position] = _example(example, context)
    return texts


def _example(content: Any, context: Any) -> bytes:
    from clary_toolkit.serving.tensorflow_execution import tensorflow

    made = tensorflow().train.Example()
    for values in (context, content):
        if not isinstance(values, dict):
            raise InvalidArgument(
                "Example must be JSON object but got JSON {}".format(type(values).__name__.capitalize())
            )
        for name, value in values.items():
            feature = made.features.feature[name]
            for item in value if isinstance(value, list) else [value]:
                _add(feature, name, item)
    return made.SerializeToString()


def _add(feature: Any, name: str, value: Any) -> None:
    if isinstance(value, (bool, int)):
        kind, content = "int64_list", int(value)
    elif isinstance(value, float):
        kind, content = "float_list", value
    elif isinstance(value, str):
        kind, content = "bytes_list", value.encode()
    elif json_tensors.is_base64(value):
        import base64

        kind, content = "bytes_list", base64.b64decode(value["b64"])
    else:
        raise InvalidArgument(
            "Feature: {} has element with unexpected JSON type: {}".format(
                name, "Null" if value is None else "Array" if isinstance(value, list) else "Object"
            )
        )
    if feature.WhichOneof("kind") not in (None, kind):
        raise InvalidArgument(
            "Unexpected element type in feature: {} expecting type: {}".format(
                name, feature.WhichOneof("kind").replace("_list", "")
            )
        )
    getattr(feature, kind).value.append(content)


def _classes(outputs: Mapping[str, np.ndarray]) -> list[str]:
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is None and scores is None:
        raise InvalidArgument("Expected classification signature outputs to contain classes or scores.")
    rows: list[str] = []
    for row in range(len(scores if classes is None else classes)):  # type: ignore[arg-type]
        marks: Any = None if scores is None else scores[row]
        labels: Any = [b""] * len(marks) if classes is None else classes[row]
        if marks is None:
            marks = [0.0] * len(labels)
        pairs = (
            "[{}, {}]".format(json.dumps(label.decode("utf-8", "replace"), ensure_ascii=False), decimal(float(mark)))
            for label, mark in zip(labels, marks)
        )
        rows.append("[" + ", ".join(pairs) + "]")
    return rows


def _values(outputs: Mapping[str, np.ndarray]) -> list[str]:
    values = outputs.get("outputs")
    if values is None:
        raise InvalidArgument("Expected regression signature outputs to contain outputs.")
    return [decimal(float(value)) for value in np.asarray(values).reshape(-1)]
